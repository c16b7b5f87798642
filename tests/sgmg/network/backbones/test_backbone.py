import pytest
import torch

from sgmg.network.backbones.backbone import Backbone, build_backbone
from sgmg.network.backbones.swin import Swin
from sgmg.network.backbones.video_swin import VideoSwin
from tests.sgmg.network.backbones.small import SMALL_SWIN, random_input


@pytest.fixture(params=["video_swin", "swin", "resnet50", "timm:convnext_atto", "motion_convnet"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    if request.param == "video_swin":
        return Backbone(VideoSwin(SMALL_SWIN), SMALL_SWIN.channels)
    if request.param == "swin":
        return Backbone(Swin(SMALL_SWIN), SMALL_SWIN.channels)
    return build_backbone(request.param)


def test_four_maps_of_every_frame(backbone: Backbone) -> None:
    maps = backbone.eval()(random_input(2, 2, 3, 70, 101))
    sizes = [(18, 26), (9, 13), (5, 7), (3, 4)]
    assert [tuple(stage.shape) for stage in maps] == [
        (4, channels, *size) for channels, size in zip(backbone.channels, sizes, strict=True)
    ]


def test_every_learning_parameter_gets_a_gradient(backbone: Backbone) -> None:
    maps = backbone.eval()(random_input(1, 2, 3, 64, 96))
    torch.stack([stage.square().sum() for stage in maps]).sum().backward()
    for name, parameter in backbone.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has_gradient == parameter.requires_grad, name


@pytest.mark.parametrize("name", ["video_swin_t", "swin_t", "resnet101", "swin_l", "video_swin_b"])
def test_channels_before_any_frame(name: str) -> None:
    expected = {
        "video_swin_t": (96, 192, 384, 768),
        "swin_t": (96, 192, 384, 768),
        "resnet101": (256, 512, 1024, 2048),
        "swin_l": (192, 384, 768, 1536),
        "video_swin_b": (128, 256, 512, 1024),
    }
    with torch.device("meta"):
        assert build_backbone(name).channels == expected[name]


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [
        ("video_swin_t", 2 + 2 + 6 + 2),
        ("swin_s", 2 + 2 + 18 + 2),
        ("resnet50", 3 + 4 + 6 + 3),
        ("timm:convnext_atto", 0),
        ("motion_convnet", 0),
    ],
)
def test_blocks_that_may_be_computed_twice(name: str, num_blocks: int) -> None:
    with torch.device("meta"):
        assert len(build_backbone(name).recompute_blocks) == num_blocks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video_swin_xl", "unknown backbone 'video_swin_xl'; known are video_swin_t"),
        ("video_swin_l", "unknown backbone"),
        ("timm:no_such_network", "no_such_network"),
        ("timm:vit_tiny_patch16_224", r"strides \[16, 16, 16\]"),
    ],
)
def test_unusable_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name)


def test_no_public_weights_is_said() -> None:
    for name in ("motion_convnet", "swin_l"):
        with pytest.raises(ValueError, match=rf"{name}.*no public weights"):
            build_backbone(name, pretrained=True)


@pytest.mark.gpu
def test_features_on_the_gpu_agree(backbone: Backbone) -> None:
    frames = random_input(1, 2, 3, 64, 96)
    with torch.inference_mode():
        expected_maps = backbone.eval()(frames)
        maps = backbone.cuda()(frames.cuda())
    for actual, expected in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-3)
