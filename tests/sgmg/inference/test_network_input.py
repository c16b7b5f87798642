"""Frames as the network takes them: size, normalisation, padding."""

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from sgmg.inference.network_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NetworkInput,
    make_network_input,
    scale_frame,
    scaled_size,
)
from tests.sgmg.inference.videos import random_video


def scaled_input(frames: Sequence[Tensor] | Tensor, short_side: int) -> NetworkInput:
    """Frames [T, 3, H, W] as a predictor of this short side gives them to the network."""
    scaled_frames = [scale_frame(frame, short_side) for frame in frames]
    return make_network_input(scaled_frames, pad_to=16)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 800), st.none() | st.integers(1, 999)
)
def test_scaled_size_keeps_shape_and_limits(
    height: int, width: int, short_side: int, long_side: int | None
) -> None:
    size = scaled_size(height, width, short_side, long_side)
    assert min(size) >= 1
    assert min(size) <= short_side
    if long_side is None:
        assert min(size) == short_side
    else:
        short, long = sorted((height, width))
        assert max(size) <= max(long_side, long / short) + long / short
    assert (size[0] <= size[1]) == (height <= width) or size[0] == size[1]


def test_network_input_is_what_pil_would_make() -> None:
    frames = random_video(2, 300, 400)
    clip = scaled_input(frames, short_side=144)
    assert clip.inner_size == (144, 192)
    assert clip.frames.shape == (1, 2, 3, 144, 192)
    assert not clip.padding.any()
    for frame, network_frame in zip(frames, clip.frames[0], strict=True):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        resized = image.resize((192, 144), Image.Resampling.BILINEAR)
        expected = normalize(pil_to_tensor(resized) / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
        # One grey level: Pillow rounds between its two passes.
        assert (network_frame - expected).abs().max() < 1.01 / 255 / min(IMAGENET_STD)


def test_padding_is_below_and_right() -> None:
    clip = scaled_input(random_video(1, 100, 111), short_side=150)
    assert clip.inner_size == (150, 166)
    assert clip.padding.shape == (1, 160, 176)
    assert not clip.padding[0, :150, :166].any()
    assert clip.padding[0, 150:].all()
    assert clip.padding[0, :, 166:].all()
    assert (clip.frames[0, 0, :, clip.padding[0]] == 0).all()
    for channel in clip.frames[0, 0, :, :150, :166]:
        assert channel.std() > 0


def test_a_small_frame_is_padded_to_what_the_network_takes() -> None:
    clip = make_network_input([torch.zeros(3, 20, 150, dtype=torch.uint8)], pad_to=16)
    assert clip.padding.shape == (1, 144, 160)
    assert int((~clip.padding).sum()) == 20 * 150
