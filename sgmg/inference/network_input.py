"""From frames of a video to what the network takes: resized, normalised, padded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue, scaled to 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)
# The network halves frames six times and its spectral filter needs 3 cells a side after that, so
# 128 pixels and less are refused. 144 is the next multiple of 16 above.
MIN_PADDED_SIDE_PX = 144

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class NetworkInput:
    """One clip as the network takes it.

    Attributes:
        frames: float32 [1, T, 3, H, W], ImageNet-normalised, zero where padded.
        padding: Bool [1, H, W], True on padded pixels.
        inner_size: Height and width without the padding, in pixels.
    """

    frames: Tensor
    padding: Tensor
    inner_size: Size


def check_frame(frame: Tensor, size: Size | None) -> None:
    """Refuse what is no frame, or has another size than the frames before.

    Args:
        frame: Should be uint8 [3, H, W].
        size: Height and width it must have; None for the first frame of a video.

    Raises:
        ValueError: The shape or the type is wrong.
    """
    is_image = frame.dim() == 3 and len(frame) == 3
    if not is_image or (size is not None and frame.shape[-2:] != size):
        raise ValueError(f"a frame is {list(frame.shape)}: all must be one [3, H, W]")
    if frame.dtype != torch.uint8:
        raise ValueError(f"a frame is {frame.dtype}: give RGB as uint8, 0 to 255")


def scaled_size(height: int, width: int, short_side: int, long_side: int | None = None) -> Size:
    """Compute the size that a frame is resized to, by the published rule.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        short_side: Wanted pixels of the short side.
        long_side: Most pixels of the long side; the short one gives way. None for no limit.

    Returns:
        Height and width, at least 1 each.
    """
    short, long = sorted((height, width))
    if long_side is not None and short_side * long / short > long_side:
        short_side = max(round(long_side * short / long), 1)
    # Cut off, not rounded: the published rule, which golden tables hold.
    scaled_long_side = int(short_side * long / short)
    if height <= width:
        return short_side, scaled_long_side
    return scaled_long_side, short_side


def scale_frame(frame: Tensor, short_side: int, long_side: int | None = None) -> Tensor:
    """Resize a frame as `scaled_size` says.

    Args:
        frame: uint8 [3, H, W].
        short_side: Wanted pixels of the short side.
        long_side: Most pixels of the long side; None for no limit.

    Returns:
        uint8 [3, h, w].
    """
    height, width = frame.shape[-2:]
    size = scaled_size(height, width, short_side, long_side)
    return resize(frame, list(size), antialias=True)


def make_network_input(
    frames: Sequence[Tensor], pad_to: int, device: torch.device | str = "cpu"
) -> NetworkInput:
    """Normalise frames and pad them below and on the right.

    Args:
        frames: T frames, uint8 [3, h, w] each, all of one size.
        pad_to: Sides become multiples of this many pixels, and at least `MIN_PADDED_SIDE_PX`.
        device: Where the result lies.
    """
    # Frames travel to the device as bytes, a quarter of what they are after normalisation.
    clip = torch.stack(list(frames)).to(device)
    normalised = normalize(clip.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    height, width = normalised.shape[-2:]
    below = _padded_side(height, pad_to) - height
    right = _padded_side(width, pad_to) - width
    no_padding = torch.zeros(1, height, width, dtype=torch.bool, device=device)
    return NetworkInput(
        frames=F.pad(normalised, (0, right, 0, below)).unsqueeze(0),
        padding=F.pad(no_padding, (0, right, 0, below), value=True),
        inner_size=(height, width),
    )


def _padded_side(side: int, pad_to: int) -> int:
    """Pixels of a side with its padding."""
    return max(math.ceil(side / pad_to) * pad_to, MIN_PADDED_SIDE_PX)
