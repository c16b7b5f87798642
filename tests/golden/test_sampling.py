"""Which frames make a clip: equal to the published sampling, draw for draw."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from shards.format.index import VideoRow
from shards.format.schema import Expression
from shards.stream.sampling import ClipSampling, clip_frames, list_items
from tests.golden.fixtures import hold
from tests.golden.published_draws import FRAME_DRAWS, seed_published


@pytest.fixture(scope="module")
def tables(table: Callable[[str], Any]) -> dict[str, Any]:
    return table("data")


def test_youtube_vos(tables: dict[str, Any]) -> None:
    rows = tables["ytvos_sampling"]["rows"]
    assert rows
    for length, anchor, num_frames, seed, mode, expected in rows:
        sampling = ClipSampling.youtube_vos()
        if mode != "train":
            sampling = replace(sampling, reverse=0.0)
        seed_published(seed)
        chosen = clip_frames(sampling, length, anchor, num_frames, FRAME_DRAWS)
        case_text = str((length, anchor, num_frames, seed, mode))
        hold("clip sampling, clips that differ", 0, chosen != expected, case_text)


def test_a2d(tables: dict[str, Any]) -> None:
    rows = tables["a2d_sampling"]["rows"]
    assert rows
    for length, frame, num_frames, subset, seed, (expected, position) in rows:
        sampling = ClipSampling.a2d() if subset == "train" else ClipSampling(frames="middle")
        seed_published(seed)
        chosen = clip_frames(sampling, length, frame - 1, num_frames, FRAME_DRAWS)
        case_text = str((length, frame, num_frames, subset, seed))
        hold("clip sampling, clips that differ", 0, chosen != expected, case_text)
        assert chosen.index(frame - 1) == position


def test_where_clips_start(tables: dict[str, Any]) -> None:
    starts = tables["ytvos_clip_starts"]
    assert starts
    for name, expected in starts.items():
        length, num_frames = map(int, name.split("_"))
        # a `_Video` has all of a row that the listing of items reads
        video = cast(VideoRow, _Video(length))
        items = list_items([video], ClipSampling.youtube_vos(), num_frames)
        assert items.target_frame.tolist() == expected


class _Video:
    expressions = (Expression("0", "the dog", ("1",)),)
    shard = 0
    height = 120
    width = 160

    def __init__(self, length: int) -> None:
        self.annotated = np.ones(length, bool)
        self.visible = {"1": self.annotated}
