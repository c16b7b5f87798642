import pytest
import torch
from torch import nn
from torchvision.models.video.swin_transformer import (
    PatchEmbed3d,
    ShiftedWindowAttention3d,
    SwinTransformer3d,
)

from sgmg.network.backbones.swin import Swin
from sgmg.network.backbones.video_swin import WINDOW, VideoSwin, WindowAttention
from tests.sgmg.network.backbones.small import SMALL_SWIN, random_input


def test_video_swin_sees_other_frames_and_swin_does_not() -> None:
    frames = random_input(1, 3, 3, 64, 64)
    changed_frames = frames.clone()
    changed_frames[:, 2] = 0
    for body_class, mixes_frames in ((VideoSwin, True), (Swin, False)):
        torch.manual_seed(0)
        network = body_class(SMALL_SWIN).eval()
        before = [stage[0] for stage in network(frames)]
        after = [stage[0] for stage in network(changed_frames)]
        changed = any(not a.equal(b) for a, b in zip(before, after, strict=True))
        assert changed == mixes_frames


def test_drop_path_works_in_training_only() -> None:
    network = VideoSwin(SMALL_SWIN, drop_path=0.9)
    frames = random_input(1, 2, 3, 64, 64)
    network.eval()
    assert network(frames)[3].equal(network(frames)[3])
    network.train()
    assert not network(frames)[3].equal(network(frames)[3])


def test_kinetics_weights_see_a_still_clip_alike() -> None:
    torch.manual_seed(0)
    kinetics = SwinTransformer3d([2, 4, 4], 16, [2] * 4, [1, 2, 4, 8], [8, 7, 7]).eval()
    network = VideoSwin(SMALL_SWIN).eval()
    network.load_torchvision(kinetics.state_dict())
    still_clip = random_input(1, 1, 3, 64, 64).expand(-1, 4, -1, -1, -1)
    embed: PatchEmbed3d = kinetics.patch_embed
    embedded = embed(still_clip.transpose(1, 2))
    torch.testing.assert_close(network.patch_embed(still_clip[:, :2].transpose(1, 2)), embedded)
    expected = kinetics.features[0](embedded).flatten(0, 1).permute(0, 3, 1, 2)
    torch.testing.assert_close(network(still_clip[:, :2])[0], expected)


def test_checkpoints_hold_no_position_tables() -> None:
    names = VideoSwin(SMALL_SWIN).state_dict()
    assert not any("position_index" in name for name in names)


def test_every_attention_of_the_built_network_is_fused() -> None:
    network = VideoSwin(SMALL_SWIN)
    attentions = [
        module for module in network.modules() if isinstance(module, ShiftedWindowAttention3d)
    ]
    assert len(attentions) == sum(SMALL_SWIN.depths)
    assert all(type(attention) is WindowAttention for attention in attentions)


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_the_built_network_answers_as_with_torchvisions_attention(
    num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = VideoSwin(SMALL_SWIN).eval()
    for module in network.modules():
        if isinstance(module, WindowAttention):
            nn.init.normal_(module.relative_position_bias_table)
    frames = random_input(2, num_frames, 3, 72, 100)
    stages = network(frames)
    monkeypatch.setattr(WindowAttention, "forward", ShiftedWindowAttention3d.forward)
    reference_stages = network(frames)
    assert len(stages) == 4
    for stage, reference_stage in zip(stages, reference_stages, strict=True):
        torch.testing.assert_close(stage, reference_stage, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(2, 3, 9, 16), (1, 10, 7, 15), (2, 9, 5, 3), (1, 17, 14, 14)])
@pytest.mark.parametrize("shifted", [True, False])
def test_fused_attention_is_torchvisions(size: tuple[int, ...], shifted: bool) -> None:
    shift = [side // 2 if shifted else 0 for side in WINDOW]
    attention = WindowAttention(8, list(WINDOW), shift, 2)
    table = attention.relative_position_bias_table
    nn.init.normal_(table)
    x = random_input(*size, 8).requires_grad_()
    reference_x = random_input(*size, 8).requires_grad_()

    output = attention(x)
    output.square().sum().backward()
    table_gradient = table.grad.clone()
    attention.zero_grad()
    reference_output = ShiftedWindowAttention3d.forward(attention, reference_x)
    reference_output.square().sum().backward()

    torch.testing.assert_close(output, reference_output, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(x.grad, reference_x.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(table_gradient, table.grad, atol=1e-4, rtol=1e-4)
