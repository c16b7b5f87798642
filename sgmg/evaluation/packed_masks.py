"""Eight masks in one byte map: outlines and dilations of eight frames for the price of one.

A packed map is uint8 [H, W]; bit t of a pixel is its value in mask t. Whatever is done with the
bitwise operators `&`, `|` and `^` is done to all eight masks at once.
"""

import math

import numpy as np
from numpy.typing import NDArray

PackedMasks = NDArray[np.uint8]

MASKS_PER_MAP = 8  # a byte has so many bits


def pack_masks(masks: NDArray[np.bool_]) -> PackedMasks:
    """Pack up to eight masks [T, H, W] into one map [H, W]; missing ones are empty."""
    packed = np.zeros(masks.shape[1:], np.uint8)
    for mask in masks[::-1]:
        packed += packed  # adding moves all bits by one, and is many times faster than shifting
        packed |= mask.view(np.uint8)
    return packed


def count_pixels(packed: PackedMasks) -> list[int]:
    """Number of pixels of each of the eight masks."""
    bits = [np.uint8(1 << index) for index in range(MASKS_PER_MAP)]
    return [int(np.count_nonzero(packed & bit)) for bit in bits]


def outline(packed: PackedMasks) -> PackedMasks:
    """Pixels that differ from their neighbour to the right, below, or both.

    In the last row only the neighbour to the right counts, in the last column only the one below,
    as in the published scorer of DAVIS.
    """
    edges = np.zeros_like(packed)
    inner = packed[:-1, :-1]
    right = packed[:-1, 1:]
    below = packed[1:, :-1]
    diagonal = packed[1:, 1:]
    edges[:-1, :-1] = (inner ^ right) | (inner ^ below) | (inner ^ diagonal)
    edges[-1, :-1] = packed[-1, :-1] ^ packed[-1, 1:]
    edges[:-1, -1] = packed[:-1, -1] ^ packed[1:, -1]
    return edges


def dilate(packed: PackedMasks, radius: int) -> PackedMasks:
    """Dilate by the disk of all (dx, dy) with dx^2 + dy^2 <= radius^2.

    The disk is a stack of horizontal runs. The map is spread sideways pixel by pixel, and added at
    the rows whose run is that wide; so each width is made once, for all its rows.
    """
    # half a run's length, without its middle -> how far above and below the centre such runs lie
    offsets_of_half: dict[int, list[int]] = {}
    for dy in range(radius + 1):
        half = math.isqrt(radius**2 - dy**2)
        offsets_of_half.setdefault(half, []).append(dy)

    height = len(packed)
    spread = packed.copy()
    dilated = np.zeros_like(packed)
    for half in range(radius + 1):
        if half > 0:
            spread[:, half:] |= packed[:, :-half]
            spread[:, :-half] |= packed[:, half:]
        for dy in offsets_of_half.get(half, []):
            inside = max(height - dy, 0)  # rows that do not fall off the edge when moved by dy
            dilated[dy:] |= spread[:inside]
            dilated[:inside] |= spread[dy:]
    return dilated
