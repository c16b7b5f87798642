"""Colours, normalisation and padding: decoded frames to the frames of a batch."""

import collections
import contextlib
import math
import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.stream.batch import IMAGENET_MEAN, IMAGENET_STD
from shards.stream.transform import ClipTransform, Colour

UNCHANGED = Colour()


def recolour(frame: Tensor, colour: Colour, *, wrap: bool = False) -> Tensor:
    """Distort one frame's colours, in place; its channels must be in their new order already.

    Contrast c and saturation s in HSV are together `c s x + c (1 - s) max(x)` with the maximum over
    the channels, as saturation keeps the maximum V and moves a channel x to V - s (V - x).

    Args:
        frame: `[3, h, w]` float32, grey levels 0 to 255.
        colour: What to do.
        wrap: Let contrast and saturation wrap around, in whole grey levels, as published.

    Returns:
        The frame, clipped to 0 to 255 and not rounded, unless it wraps.
    """
    channels = frame.unbind()
    if colour.brightness:
        # One channel after another: it stays in the processor's caches between the two steps.
        for channel in channels:
            channel.add_(colour.brightness).clamp_(0.0, 255.0)
    if colour.saturation != 1.0:
        # the second summand, c (1 - s) max(x)
        highest = torch.maximum(channels[0], channels[1])
        highest = torch.maximum(highest, channels[2], out=highest)
        highest.mul_(colour.contrast * (1.0 - colour.saturation))
        for channel in channels:
            torch.add(highest, channel, alpha=colour.contrast * colour.saturation, out=channel)
            if not wrap:
                channel.clamp_(0.0, 255.0)
    elif colour.contrast != 1.0:
        for channel in channels:
            channel.mul_(colour.contrast)
            if not wrap:
                channel.clamp_(0.0, 255.0)
    if wrap:
        # Published, sums beyond a byte wrap around.
        return frame.trunc_().remainder_(256.0)
    return frame


class Collator:
    """Colours, normalises and pads.

    Memory of batches on the CPU is used again once nobody holds it: the operating system takes
    longer to hand out fresh pages than all the arithmetic here.
    """

    def __init__(self) -> None:
        """Start without memory."""
        self._free: collections.deque[npt.NDArray[np.float32]] = collections.deque()

    def __call__(
        self,
        pixels: Sequence[Tensor],
        transforms: Sequence[ClipTransform],
        num_frames: int,
        pad_to: int,
    ) -> Tensor:
        """Make the frames of a batch.

        Args:
            pixels: B*T frames `[h, w, 3]` uint8, frame after frame of clip after clip.
            transforms: One a clip.
            num_frames: T.
            pad_to: Height and width become multiples of this, in pixels.

        Returns:
            `[B, T, 3, H, W]` float32, zero on padding.
        """
        height = _padded(max(transform.size[0] for transform in transforms), pad_to)
        width = _padded(max(transform.size[1] for transform in transforms), pad_to)
        device = pixels[0].device
        frames = self._take_memory((len(transforms), num_frames, 3, height, width), device)
        # Memory may hold an old batch, so every element is written: padding, then the frame.
        for b, transform in enumerate(transforms):
            h, w = transform.size
            for t in range(num_frames):
                frames[b, t, :, h:] = 0.0
                frames[b, t, :, :h, w:] = 0.0
                colour = transform.colours[t] if transform.colours else UNCHANGED
                _write_frame(
                    frames[b, t, :, :h, :w],
                    pixels[b * num_frames + t],
                    colour,
                    wrap=transform.published,
                )
        return frames

    def _take_memory(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Take memory with anything in it; it comes back when its last tensor is gone."""
        if device.type != "cpu":
            return torch.empty(shape, device=device)
        size = math.prod(shape)
        memory = np.empty(size, np.float32)  # costs nothing before it is written to
        # Several threads make batches: another one may take the last free memory.
        with contextlib.suppress(IndexError):
            free_memory = self._free.popleft()
            if len(free_memory) >= size:
                memory = free_memory
        lent = memory[:size]
        # Every tensor made of `lent` keeps it alive, views included, so it dies with the last one.
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)


def _write_frame(frame: Tensor, pixels: Tensor, colour: Colour, *, wrap: bool) -> None:
    """Write decoded pixels to their frame of a batch, with new colours and normalised.

    Args:
        frame: `[3, h, w]` float32, to be written.
        pixels: `[h, w, 3]` uint8.
        colour: The change of colours.
        wrap: As in `recolour`.
    """
    planes = pixels.unbind(-1)
    channels = frame.unbind()
    for channel, source in zip(channels, colour.channels, strict=True):
        channel.copy_(planes[source])
    recolour(frame, colour, wrap=wrap)
    for channel, mean, std in zip(channels, IMAGENET_MEAN, IMAGENET_STD, strict=True):
        # (x / 255 - mean) / std in one pass
        torch.add(torch.tensor(-mean / std), channel, alpha=1 / (255 * std), out=channel)


def _padded(side: int, pad_to: int) -> int:
    """Round a side up to a multiple of `pad_to`."""
    return math.ceil(side / pad_to) * pad_to
