from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.format.index import VideoRow
from shards.format.schema import Expression
from shards.stream.order import Draws
from shards.stream.sampling import ClipSampling, clip_frames, list_items

PRESETS = {
    "youtube_vos": ClipSampling.youtube_vos(),
    "davis": ClipSampling.davis(),
    "a2d": ClipSampling.a2d(),
    "image": ClipSampling.image(),
    "synthetic": ClipSampling.synthetic(),
    "middle": ClipSampling(frames="middle"),
}


class Video:
    height, width = 120, 160

    def __init__(self, annotated: str, shard: int = 0, **visible: str) -> None:
        self.shard = shard
        self.annotated = np.array([mark == "1" for mark in annotated])
        self.visible = {k: np.array([mark == "1" for mark in v]) for k, v in visible.items()}
        self.expressions = tuple(
            Expression(str(i), text, objects) for i, (text, objects) in enumerate(EXPRESSIONS)
        )


def video_row(annotated: str, shard: int = 0, **visible: str) -> VideoRow:
    # a `Video` has all of a row that the listing of items reads
    return cast(VideoRow, Video(annotated, shard, **visible))


EXPRESSIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the dog", ("a",)),
    ("both", ("a", "b")),
    ("nobody knows", ()),
    ("the ghost", ("c",)),
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 30), st.integers(1, 9), st.integers(0, 99))
def test_clips_lie_in_their_video(name: str, length: int, num_frames: int, seed: int) -> None:
    sampling, anchor = PRESETS[name], seed % length
    chosen = clip_frames(sampling, length, anchor, num_frames, Draws(seed, 1, 0))
    assert len(chosen) == num_frames
    assert all(0 <= frame < length for frame in chosen)
    if sampling.reverse == 0:
        assert chosen == sorted(chosen)
    if num_frames == 1 and sampling.alone:
        assert chosen == [anchor]
    if num_frames >= 3 and name in ("youtube_vos", "a2d"):
        assert anchor in chosen


@settings(deadline=None, max_examples=100)
@given(st.integers(3, 30), st.integers(2, 6), st.integers(0, 99))
def test_windows_keep_motion_true(length: int, num_frames: int, seed: int) -> None:
    anchor = seed % length
    chosen = clip_frames(ClipSampling.synthetic(), length, anchor, num_frames, Draws(seed, 1, 0))
    if num_frames <= length:
        assert anchor in chosen
        assert len(set(np.diff(chosen))) == 1
        assert 1 <= chosen[1] - chosen[0] <= 2
    else:
        assert chosen == [*range(length), *[length - 1] * (num_frames - length)]


def test_windows_use_every_spacing_and_slot() -> None:
    clips = {
        tuple(clip_frames(ClipSampling.synthetic(), 9, 4, 3, Draws(seed, 1, 0)))
        for seed in range(100)
    }
    assert clips == {(2, 3, 4), (3, 4, 5), (4, 5, 6), (0, 2, 4), (2, 4, 6), (4, 6, 8)}


def test_reversal_comes_as_often_as_published() -> None:
    sampling = ClipSampling.youtube_vos()
    clips = [clip_frames(sampling, 40, 20, 5, Draws(seed, 1, 0)) for seed in range(1000)]
    assert 250 < sum(clip != sorted(clip) for clip in clips) < 350


def test_items_of_objects_that_are_seen() -> None:
    video, again = (video_row("1101", shard, a="0011", b="1000", c="0000") for shard in (3, 4))
    every = list_items([video, again], ClipSampling.youtube_vos(), 2)
    # "the dog" and "both" from frames 0 and 2; nothing for no object and for one never seen
    assert every.expression.tolist() == [0, 0, 1, 1] * 2
    assert every.target_frame.tolist() == [0, 2] * 4
    assert every.video.tolist() == [0] * 4 + [1] * 4
    assert every.shard.tolist() == [3] * 4 + [4] * 4
    # frame 2 shows the dog but is not annotated
    annotated = list_items([video], ClipSampling.a2d(), 2)
    assert annotated.target_frame.tolist() == [3, 0, 3]
    first = list_items([video], ClipSampling.image(), 1)
    assert first.target_frame.tolist() == [0, 0]


def test_an_object_seen_in_unannotated_frames_alone_offers_nothing() -> None:
    assert len(list_items([video_row("10", a="01")], ClipSampling.davis(), 1)) == 0


@pytest.mark.parametrize("length", [1, 2, 3])
def test_long_clips_of_short_videos_repeat_frames(length: int) -> None:
    chosen = clip_frames(ClipSampling.davis(), length, 0, 12, Draws(0, 1, 0))
    assert len(chosen) == 12
    assert set(chosen) == set(range(length))
