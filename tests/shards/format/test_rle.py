import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from shards.errors import ShardError
from shards.format.rle import Rle, decode_mask, encode_mask, mask_area

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(deadline=None)
@given(masks)
def test_a_mask_survives_the_round_trip_and_coco_reads_it(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    assert np.array_equal(decode_mask(rle), mask)
    assert mask_area(rle) == mask.sum()
    as_coco = {"size": [rle.height, rle.width], "counts": rle.counts}
    assert np.array_equal(coco_mask.decode(as_coco), mask)


@pytest.mark.parametrize("shape", [(480, 854), (1, 70_000), (70_000, 1)])
def test_large_masks(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[-1, -1] = mask[0, 0] = True
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


@settings(deadline=None)
@given(st.binary(max_size=30), st.integers(0, 40))
def test_altered_run_lengths_are_refused_or_fill_the_mask(noise: bytes, position: int) -> None:
    good = encode_mask(np.eye(13, 17, dtype=bool)).counts
    bad = Rle(13, 17, good[:position] + noise + good[position + 1 :])
    try:
        mask = decode_mask(bad)
    except ShardError:
        return
    assert mask.shape == (13, 17)


def test_short_run_lengths_are_refused_where_coco_invents_pixels() -> None:
    with pytest.raises(ShardError, match="do not fill"):
        decode_mask(Rle(13, 17, b""))
