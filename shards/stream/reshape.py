"""Geometry of a `ClipTransform` on the pixels of frames, in torch.

On a CPU torch's resize of bytes takes less than half of the time of DALI's and is nearer to
Pillow's, so there the steps happen here one by one, on the part of the image that a crop keeps.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_hue

from shards.stream.camera_shake import source_points
from shards.stream.geometry import Region
from shards.stream.transform import ClipTransform, Crop, Mirror, Resize, Shake, Size

# How far, in old pixels, the start of a new pixel may be from the start of an old one for a resize
# to begin there: what is made then lies at most this far off.
MAX_OFFSET_PX = 0.02


class AxisPart(NamedTuple):
    """What a partial resize of one axis reads, makes and keeps.

    Attributes:
        source: Old pixels to read.
        new_length: New pixels to make of these.
        crop: Which of the new pixels to keep.
    """

    source: slice
    new_length: int
    crop: slice


def source_part(transform: ClipTransform) -> Region:
    """Find the part of the source that `reshape` needs: all, or what the first crop keeps."""
    height, width = transform.source
    rows = slice(0, height)
    columns = slice(0, width)
    mirrored = False
    # A last mirror, which is not looked at, gives each step a successor.
    for step, successor in pairwise((*transform.steps, Mirror())):
        if isinstance(step, Mirror):
            mirrored = not mirrored
            continue
        # A shaken frame is made of the whole image.
        partial = isinstance(step, Resize) and not transform.shakes
        if partial and isinstance(successor, Crop):
            rows = find_part(height, step.height, successor.top, successor.height).source
            columns = find_part(width, step.width, successor.left, successor.width).source
        break
    if mirrored:
        columns = slice(width - columns.stop, width - columns.start)
    return Region(start=(rows.start, columns.start), end=(rows.stop, columns.stop))


def reshape(image: Tensor, transform: ClipTransform) -> Tensor:
    """Take the steps of a transform one by one, as Pillow would.

    Args:
        image: `[H, W, 3]` uint8, the whole source or the `source_part` of it.
        transform: What happens to the frame; of several shakes, the first.

    Returns:
        `[h, w, 3]` uint8; may be a view of `image`.
    """
    if transform.shakes:
        image = shake_image(image, transform.shakes[0])
    size = transform.source
    for step, successor in pairwise((*transform.steps, Mirror())):
        if isinstance(step, Mirror):
            image = image.flip(1)
            continue
        if isinstance(step, Resize):
            crop = successor if isinstance(successor, Crop) else None
            image = resize_part(image, size, step, crop)
        elif image.shape[:2] != (step.height, step.width):
            # If the size fits already, the resize before has cropped, too.
            image = image[step.top :, step.left :][: step.height, : step.width]
        size = (step.height, step.width)
    return image


def resize_part(image: Tensor, old_size: Size, resize: Resize, crop: Crop | None) -> Tensor:
    """Resize a frame, but make only what a crop behind it keeps.

    Args:
        image: `[H, W, 3]` uint8 of `old_size`, or the part of it that `find_part` names.
        old_size: Height and width of the whole frame, in pixels.
        resize: New size of the whole frame.
        crop: The crop that follows, if one does.
    """
    new_size = (resize.height, resize.width)
    if crop is None:
        if new_size == old_size:
            return image
        crop = Crop(0, 0, *new_size)
    rows = find_part(old_size[0], new_size[0], crop.top, crop.height)
    columns = find_part(old_size[1], new_size[1], crop.left, crop.width)
    if image.shape[:2] == old_size:
        image = image[rows.source, columns.source]
    # The batch axis is added before the permutation: with the strides of a [None] behind it, torch
    # would take a slower way.
    part = image.contiguous()[None].permute(0, 3, 1, 2)
    if part.is_cuda:
        part = part.float()  # on a GPU torch has no resize of bytes
    # `interpolate` takes a size or scales, not both, so what it calls is called here. Private;
    # checked on torch 2.15.0, tests/golden/test_transforms.py holds its pixels.
    part = torch.ops.aten._upsample_bilinear2d_aa(
        part,
        (rows.new_length, columns.new_length),
        False,  # corners are not aligned
        new_size[0] / old_size[0],
        new_size[1] / old_size[1],
    )
    part = part[0, :, rows.crop, columns.crop].permute(1, 2, 0)
    if part.is_cuda:
        return part.round().clamp(0, 255).byte()
    return part


def find_part(old_length: int, new_length: int, start: int, length: int) -> AxisPart:
    """Find what of one axis to read, what to make of it, and what of that to keep.

    Reading begins where a new pixel begins with an old one, to `MAX_OFFSET_PX`, and so far before
    the start that no kept pixel misses a part of its filter.

    Args:
        old_length: Pixels of the axis.
        new_length: Pixels after a resize of the whole axis.
        start: First new pixel that is wanted.
        length: Number of new pixels that are wanted.
    """
    scale = old_length / new_length
    filter_reach = max(scale, 1.0)  # in old pixels
    begin = max(start - math.ceil(filter_reach / scale), 0)
    # Ends at 0 at the latest, where both axes begin.
    while abs(begin * scale - round(begin * scale)) >= MAX_OFFSET_PX:
        begin -= 1
    first = round(begin * scale)
    stop = min(math.ceil((start + length) * scale + filter_reach), old_length)
    num_made = start + length - begin
    if num_made == stop - first:
        # Of equal sizes torch would copy, not resize: one pixel more, which is not kept.
        num_made += 1
    return AxisPart(
        source=slice(first, stop),
        new_length=num_made,
        crop=slice(start - begin, start - begin + length),
    )


def shake_image(image: Tensor, shake: Shake) -> Tensor:
    """Make a frame of a clip out of an image: uint8 `[H, W, 3]`, black beyond the image."""
    if shake == Shake():
        return image
    height, width = image.shape[:2]
    x, y = source_points(shake, (height, width))
    # `grid_sample` counts from -1 to 1 between the outer edges of the image.
    grid = torch.from_numpy(np.stack([2 * x / width - 1, 2 * y / height - 1], -1))
    frame = image.permute(2, 0, 1)[None].float()
    frame = F.grid_sample(frame, grid[None].to(frame), align_corners=False)[0]
    frame = (frame + shake.brightness).clamp(0, 255)
    if shake.hue or shake.saturation:
        frame = _tint(frame, shake)
    if shake.blur:
        frame = _motion_blur(frame, shake.blur, shake.blur_angle)
    return frame.round().clamp(0, 255).byte().permute(1, 2, 0)


def _tint(frame: Tensor, shake: Shake) -> Tensor:
    """Turn the hue of a frame `[3, H, W]` and add to its saturation, both as in HSV."""
    frame = adjust_hue(frame / 255, shake.hue / 255) * 255
    highest = frame.amax(0)
    lowest = frame.amin(0)
    # Both lower limits keep black and grey pixels from dividing by zero.
    saturation = ((highest - lowest) / highest.clamp(min=1)).clamp(min=1e-3)
    factor = (saturation + shake.saturation / 255).clamp(0, 1) / saturation
    return highest - (highest - frame) * factor


def _motion_blur(frame: Tensor, length: int, angle: float) -> Tensor:
    """Blur a frame `[3, H, W]` along a line of `length` pixels, an odd number."""
    reach = length // 2
    # Points on the line, four a pixel of its length, each give their pixel an equal weight.
    line = torch.linspace(-reach, reach, 4 * length, dtype=torch.float64)
    rows = (line * math.sin(angle)).round().long() + reach
    columns = (line * math.cos(angle)).round().long() + reach
    kernel = torch.zeros(length, length)
    kernel.index_put_((rows, columns), torch.tensor(1 / len(line)), accumulate=True)
    padded = F.pad(frame[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(padded, kernel.to(frame)[None, None])[:, 0]
