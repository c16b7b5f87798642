import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import shifted_window_attention
from torchvision.models.video.swin_transformer import (
    PatchEmbed3d,
    ShiftedWindowAttention3d,
    SwinTransformer3d,
)

from sgmg.network.backbones import backbone as backbones
from sgmg.network.backbones.backbone import KeptShiftAttention, Swin, TimmNetwork, build_backbone
from sgmg.network.backbones.video_swin import WINDOW, SwinSize, VideoSwin, WindowAttention

TINY = SwinSize(16, (2, 2, 2, 2), (1, 2, 4, 8))


def frames(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["video_swin", "swin", "resnet50", "timm:convnext_atto", "motion_convnet"])
def backbone(request):
    if request.param == "video_swin":
        return backbones.Backbone(VideoSwin(TINY), TINY.channels)
    if request.param == "swin":
        return backbones.Backbone(Swin(TINY), TINY.channels)
    return build_backbone(request.param)


def test_four_maps_of_every_frame(backbone):
    maps = backbone.eval()(frames(2, 2, 3, 70, 101))
    sizes = [(18, 26), (9, 13), (5, 7), (3, 4)]
    assert [tuple(m.shape) for m in maps] == [
        (4, channels, *size) for channels, size in zip(backbone.channels, sizes, strict=True)
    ]


def test_every_learning_parameter_gets_a_gradient(backbone):
    maps = backbone.eval()(frames(1, 2, 3, 64, 96))
    sum(m.square().sum() for m in maps).backward()
    for name, parameter in backbone.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == parameter.requires_grad, name


def test_resnet_keeps_statistics_stem_and_first_stage():
    resnet = build_backbone("resnet50").train()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    resnet(frames(1, 1, 3, 64, 64))
    assert all(value.equal(before[name]) for name, value in resnet.state_dict().items())
    fixed = {name.split(".")[1] for name, p in resnet.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "layer1"}
    assert not any(".bn" in name for name, _ in resnet.named_parameters())


@pytest.mark.parametrize("name", ["video_swin_t", "swin_t", "resnet101", "swin_l", "video_swin_b"])
def test_channels_before_any_frame(name):
    want = {
        "video_swin_t": (96, 192, 384, 768),
        "swin_t": (96, 192, 384, 768),
        "resnet101": (256, 512, 1024, 2048),
        "swin_l": (192, 384, 768, 1536),
        "video_swin_b": (128, 256, 512, 1024),
    }
    with torch.device("meta"):
        assert build_backbone(name).channels == want[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video_swin_xl", "unknown backbone 'video_swin_xl'; known are video_swin_t"),
        ("video_swin_l", "unknown backbone"),
        ("timm:no_such_network", "no_such_network"),
        ("timm:vit_tiny_patch16_224", r"strides \[16, 16, 16\]"),
    ],
)
def test_unusable_names(name, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name)


def test_no_public_weights_is_said():
    for name in ("motion_convnet", "swin_l"):
        with pytest.raises(ValueError, match=rf"{name}.*no public weights"):
            build_backbone(name, pretrained=True)


def test_timm_channels_last_becomes_channels_first():
    network = TimmNetwork("swin_tiny_patch4_window7_224")
    maps = network(frames(1, 1, 3, 224, 224))
    assert network.channels_last
    assert [m.shape[1] for m in maps] == list(network.channels)


def test_video_swin_sees_other_frames_and_swin_does_not():
    x = frames(1, 3, 3, 64, 64)
    changed = x.clone()
    changed[:, 2] = 0
    for build, mixes in ((VideoSwin, True), (Swin, False)):
        torch.manual_seed(0)
        network = build(TINY).eval()
        first = [stage[0] for stage in network(x)]
        again = [stage[0] for stage in network(changed)]
        assert any(not a.equal(b) for a, b in zip(first, again, strict=True)) == mixes


def test_drop_path_works_in_training_only():
    network = VideoSwin(TINY, drop_path=0.9)
    x = frames(1, 2, 3, 64, 64)
    network.eval()
    assert network(x)[3].equal(network(x)[3])
    network.train()
    assert not network(x)[3].equal(network(x)[3])


def test_kinetics_weights_see_a_still_clip_alike():
    torch.manual_seed(0)
    kinetics = SwinTransformer3d([2, 4, 4], 16, [2] * 4, [1, 2, 4, 8], [8, 7, 7]).eval()
    network = VideoSwin(TINY).eval()
    network.load_torchvision(kinetics.state_dict())
    still = frames(1, 1, 3, 64, 64).expand(-1, 4, -1, -1, -1)
    embed: PatchEmbed3d = kinetics.patch_embed
    want = embed(still.transpose(1, 2))
    torch.testing.assert_close(network.patch_embed(still[:, :2].transpose(1, 2)), want)
    stage = kinetics.features[0](want)
    torch.testing.assert_close(network(still[:, :2])[0], stage.flatten(0, 1).permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [(7, 7), (5, 7), (7, 20), (20, 4), (9, 13)])
def test_shift_is_kept_on_small_maps(size):
    """The mask must equal moving the pixels, which torchvision does on any map but small ones."""
    torch.manual_seed(0)
    attention = KeptShiftAttention(8, [7, 7], [3, 3], 2).eval()
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *size, 8)
    # the same map with windows of padding behind it: large enough for torchvision to shift it
    tall, wide = (-(-side // 7) * 7 for side in size)
    torch.testing.assert_close(attention(x), shifted_by_hand(attention, x, tall, wide))


def shifted_by_hand(attention, x, tall, wide):
    """Roll, attend in each window between pixels of one region, roll back; per window, slowly."""
    n, h, w, c = x.shape
    padded = torch.zeros(n, tall, wide, c)
    padded[:, :h, :w] = x
    padded = padded.roll((-3, -3), (1, 2))

    def region(length):
        i = torch.arange(length)
        return (i >= length - 7).int() + (i >= length - 3).int()

    regions = region(tall)[:, None] * 3 + region(wide)
    bias = attention.get_relative_position_bias()
    out = torch.empty_like(padded)
    for top in range(0, tall, 7):
        for left in range(0, wide, 7):
            cell = (slice(None), slice(top, top + 7), slice(left, left + 7))
            r = regions[cell[1:]].flatten()
            mask = (r[:, None] != r) * -100.0
            out[cell] = shifted_window_attention(
                padded[cell],
                attention.qkv.weight,
                attention.proj.weight,
                bias + mask,
                [7, 7],
                2,
                [0, 0],
                qkv_bias=attention.qkv.bias,
                proj_bias=attention.proj.bias,
            )
    return out.roll((3, 3), (1, 2))[:, :h, :w]


def test_checkpoints_hold_no_position_tables():
    names = VideoSwin(TINY).state_dict()
    assert not any("position_index" in name for name in names)


@pytest.mark.gpu
def test_features_on_the_gpu_agree(backbone):
    x = frames(1, 2, 3, 64, 96)
    with torch.inference_mode():
        want = backbone.eval()(x)
        got = backbone.cuda()(x.cuda())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(2, 3, 9, 16), (1, 10, 7, 15), (2, 9, 5, 3), (1, 17, 14, 14)])
@pytest.mark.parametrize("shifted", [True, False])
def test_fused_attention_is_torchvisions(size, shifted):
    shift = [side // 2 if shifted else 0 for side in WINDOW]
    ours = WindowAttention(8, list(WINDOW), shift, 2)
    nn.init.normal_(ours.relative_position_bias_table)
    x, y = frames(*size, 8).requires_grad_(), frames(*size, 8).requires_grad_()
    out, want = ours(x), ShiftedWindowAttention3d.forward(ours, y)
    torch.testing.assert_close(out, want, atol=1e-6, rtol=1e-5)
    out.square().sum().backward()
    got = ours.relative_position_bias_table.grad.clone()
    ours.zero_grad()
    want.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got, ours.relative_position_bias_table.grad, atol=1e-4, rtol=1e-4)


def test_timm_with_public_weights_freezes_batch_norms(monkeypatch):
    create = backbones._create_timm
    monkeypatch.setattr(
        backbones, "_create_timm", lambda name, **kw: create(name, **kw | {"pretrained": False})
    )
    norms = {
        pretrained: sum(
            isinstance(m, nn.BatchNorm2d)
            for m in TimmNetwork("resnet18", pretrained=pretrained).modules()
        )
        for pretrained in (True, False)
    }
    assert norms[False] > norms[True] == 0
