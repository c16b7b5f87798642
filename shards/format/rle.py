"""Masks as COCO's compressed run lengths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from shards.errors import ShardError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# COCO's code of run lengths, as `rleToString` of pycocotools 2.0.11 writes it: a number is a group
# of characters, each of them 48 plus 6 bits: 5 bits of the number, lowest first, and a bit that
# says whether the group goes on. The fifth bit of the last character is the sign.
_FIRST_CHARACTER = 48
_BITS = 5
_DIGIT = 0b011111
_SIGN = 0b010000
_CONTINUES = 0b100000
_END_OF_CODES = 0b1000000
_MAX_GROUP = 7  # characters: 35 bits, more than any image has pixels


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run lengths.

    Attributes:
        height: In pixels.
        width: In pixels.
        counts: Run lengths, column by column, in COCO's ASCII code.
    """

    height: int
    width: int
    counts: bytes


def encode_mask(mask: BoolArray) -> Rle:
    """Compress a mask without loss.

    Args:
        mask: `[H, W]`, True on the object.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(height=mask.shape[0], width=mask.shape[1], counts=encoded["counts"])


def decode_mask(rle: Rle) -> BoolArray:
    """Expand a mask.

    Returns:
        `[H, W]`, True on the object. Columns lie one behind the other in memory, as they do in the
        run lengths, so the array is a transposed view.

    Raises:
        ShardError: If the run lengths do not fill the mask exactly.
    """
    runs = _run_lengths(rle)
    mask = np.zeros(rle.width * rle.height, bool)
    # Runs alternate, and the first one is off. Only what lies between the first and the last pixel
    # of the object has to be written.
    num_paired_runs = len(runs) // 2 * 2
    start = int(runs[0])
    end = int(runs[:num_paired_runs].sum())
    is_on = np.arange(len(runs) - 1) % 2 == 0
    mask[start:end] = np.repeat(is_on, runs[1:])[: end - start]
    return mask.reshape(rle.width, rle.height).T


def mask_area(rle: Rle) -> int:
    """Count the pixels on the object.

    Raises:
        ShardError: If the run lengths do not fill the mask exactly.
    """
    return int(_run_lengths(rle)[1::2].sum())


def _run_lengths(rle: Rle) -> IntArray:
    """Decode the lengths of the runs, the first one off the object.

    pycocotools reads past the end of counts that are too short. This refuses them, and is faster.

    Raises:
        ShardError: If the run lengths do not fill the mask exactly.
    """
    # uint8 wraps: what lies below the first character becomes too large, and is refused with it
    codes = np.frombuffer(rle.counts, np.uint8) - np.uint8(_FIRST_CHARACTER)
    ends = np.flatnonzero(codes < _CONTINUES)
    complete = len(ends) > 0 and ends[-1] == len(codes) - 1
    if not complete or codes.max() >= _END_OF_CODES:
        raise _wrong_runs(rle)
    starts = np.concatenate([[0], ends[:-1] + 1])
    group_sizes = ends - starts + 1
    if group_sizes.max() > _MAX_GROUP:
        raise _wrong_runs(rle)
    index_in_group = np.arange(len(codes)) - np.repeat(starts, group_sizes)
    digits = (codes & _DIGIT).astype(np.int64)
    runs = np.add.reduceat(digits << _BITS * index_in_group, starts)
    # two's complement of as many bits as the group has
    is_negative = (codes[ends] & _SIGN) > 0
    runs -= is_negative * (np.int64(1) << _BITS * group_sizes)
    # From the fourth number on, each is the difference to the number two before it.
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.sum() != rle.height * rle.width:
        raise _wrong_runs(rle)
    return runs


def _wrong_runs(rle: Rle) -> ShardError:
    return ShardError(
        f"a mask's run lengths do not fill {rle.height} x {rle.width} pixels; build it again"
    )
