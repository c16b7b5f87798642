"""Frames encoded anew: smaller, of another quality, or left as they are."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from preprocess.reencode import Reencoded
from shards.errors import ShardError
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import Frame, Video
from tests.preprocess.conftest import jpeg

MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:50] = True
FRAMES = [
    Frame("00000", jpeg(40, 60), "jpg", {"1": encode_mask(MASK)}),
    Frame("00001", jpeg(40, 60, 1), "jpg", None),
]
VIDEO = Video("key", "data", "train", "id", 40, 60, FRAMES, {"1": "dog"}, ())


def read(key: str) -> Video:
    assert key == VIDEO.key
    return VIDEO


def test_a_larger_video_is_shrunk_with_its_masks() -> None:
    video = Reencoded(read, max_side=30, quality=95, always=False)("key")
    assert (video.height, video.width) == (20, 30)
    for frame in video.frames:
        with Image.open(BytesIO(frame.image)) as picture:
            assert picture.size == (30, 20)
    annotated, without_masks = video.frames
    assert annotated.masks is not None
    np.testing.assert_array_equal(decode_mask(annotated.masks["1"]), MASK[::2, ::2])
    assert without_masks.masks is None


def test_a_video_that_is_small_enough_keeps_its_bytes() -> None:
    assert Reencoded(read, max_side=60, quality=20, always=False)("key") == VIDEO
    assert Reencoded(read, max_side=None, quality=20, always=False)("key") == VIDEO


def test_every_frame_is_encoded_anew_if_asked() -> None:
    coarse = Reencoded(read, max_side=None, quality=20, always=True)("key")
    assert (coarse.height, coarse.width) == (40, 60)
    for frame, original in zip(coarse.frames, VIDEO.frames, strict=True):
        assert len(frame.image) < len(original.image)
        assert frame.masks == original.masks


def test_a_frame_that_cannot_be_decoded_is_named() -> None:
    cut = replace(FRAMES[1], image=FRAMES[1].image[:-400])
    broken = replace(VIDEO, frames=[FRAMES[0], cut])
    with pytest.raises(ShardError, match=r"video 'key': frame 00001 cannot be decoded"):
        Reencoded(lambda key: broken, max_side=30, quality=95, always=False)("key")
