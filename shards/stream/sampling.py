"""Which frames make a clip: where clips start, and how the other frames of one are drawn.

All randomness comes through `draws`, so that a test may put in the published generators.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shards.format.rle import BoolArray
from shards.format.schema import Expression
from shards.format.shard_set import VideoRow
from shards.stream.order import Draws, Items


@dataclass(frozen=True)
class ClipSampling:
    """How clips are cut from videos.

    Names of fields are part of the hash that ties a saved state of a loader to its settings.

    Attributes:
        anchors: Which frames are target frames, that clips are made around. "every": 0, T, 2T, ..;
            "annotated": the annotated frames that show the object; "first": the first frame alone.
        frames: The other frames of a clip. "spread": one near the target frame on each side, the
            others from the whole video; "window": evenly spaced, so that motion stays true;
            "middle": successive, with the target frame in the middle and without randomness.
        reach: Largest distance of the near frames of "spread", largest spacing of "window".
        reverse: Probability that a clip runs backwards; 0 where expressions tell motion.
        alone: A clip of one frame is its target frame; else, as published for DAVIS and A2D, the
            first of the sorted frames that a longer clip would be cut from.
        flattest: Images whose short side is a smaller share of the long one are left out.
    """

    anchors: Literal["every", "annotated", "first"] = "every"
    frames: Literal["spread", "window", "middle"] = "spread"
    reach: int = 3
    reverse: float = 0.0
    alone: bool = True
    flattest: float = 0.0

    @classmethod
    def youtube_vos(cls) -> "ClipSampling":
        """As published for training on Ref-YouTube-VOS."""
        return cls(reverse=0.3)

    @classmethod
    def joint(cls) -> "ClipSampling":
        """As published for Ref-YouTube-VOS beside images that make clips."""
        return cls(reverse=0.3, flattest=200 / 640)

    @classmethod
    def davis(cls) -> "ClipSampling":
        """As published for training on Ref-DAVIS17."""
        return cls(alone=False)

    @classmethod
    def a2d(cls) -> "ClipSampling":
        """As published for training on A2D-Sentences."""
        return cls(anchors="annotated", alone=False)

    @classmethod
    def image(cls) -> "ClipSampling":
        """One item an expression: the image itself."""
        return cls(anchors="first")

    @classmethod
    def synthetic(cls) -> "ClipSampling":
        """Short windows in their true order, for videos whose expressions tell motion."""
        return cls(frames="window", reach=2)


def clip_frames(
    sampling: ClipSampling, length: int, target_frame: int, num_frames: int, draws: Draws
) -> list[int]:
    """Choose the frames of one clip.

    Args:
        sampling: How clips are cut.
        length: Frames of the video.
        target_frame: The frame to choose around.
        num_frames: Frames of the clip, T.
        draws: The random stream of this clip.

    Returns:
        T frame numbers in the order of the clip; a short video repeats frames.
    """
    if sampling.frames == "middle":
        start = target_frame - num_frames // 2
        return [min(max(start + i, 0), length - 1) for i in range(num_frames)]
    if num_frames == 1 and sampling.alone:
        return [target_frame]
    if sampling.frames == "window":
        frames = _window(length, target_frame, num_frames, sampling.reach, draws)
    else:
        frames = _spread(length, target_frame, num_frames, sampling.reach, draws)
    # Published, reversal is drawn after the frames; styles without it draw nothing.
    if sampling.reverse > 0 and draws.chance(sampling.reverse):
        frames.reverse()
    return frames


def _spread(length: int, target_frame: int, num_frames: int, reach: int, draws: Draws) -> list[int]:
    """Choose as published: a frame near the target on each side, the others outside of these.

    The last near frame may come twice, as it does in the published sampling.
    """
    first = max(0, target_frame - draws.integer(1, reach))
    last = min(length - 1, target_frame + draws.integer(1, reach))
    frames = [target_frame, first, last]
    missing = num_frames - len(frames)
    if missing > 0:
        outside = [*range(first), *range(last, length)]
        if len(outside) > missing:
            frames += draws.sample(outside, missing)
        elif length >= missing:
            frames += draws.sample(range(length), missing)
        else:
            # The clip is longer than the video: all frames as often as they fit, then a few more.
            repeats, remainder = divmod(missing, length)
            frames += [*range(length)] * repeats
            frames += draws.sample(range(length), remainder)
    return sorted(frames)[:num_frames]


def _window(length: int, target_frame: int, num_frames: int, reach: int, draws: Draws) -> list[int]:
    """Choose evenly spaced frames around the target; a short video repeats its last frame."""
    num_gaps = num_frames - 1
    starts_by_spacing: dict[int, list[int]] = {}
    for spacing in range(1, reach + 1):
        earliest = target_frame - spacing * num_gaps
        for start in range(earliest, target_frame + 1, spacing):
            if start >= 0 and start + spacing * num_gaps < length:
                starts_by_spacing.setdefault(spacing, []).append(start)
    if not starts_by_spacing:
        return [min(i, length - 1) for i in range(num_frames)]
    # The spacing is drawn first: wide spacings have fewer starts and would be rare otherwise.
    spacing = draws.choice(list(starts_by_spacing))
    start = draws.choice(starts_by_spacing[spacing])
    return [start + spacing * i for i in range(num_frames)]


def list_items(videos: Iterable[VideoRow], sampling: ClipSampling, num_frames: int) -> Items:
    """List all items of a shard set; an expression whose object is never visible offers none.

    Args:
        videos: Index rows of the set.
        sampling: How clips are cut.
        num_frames: Frames of a clip, T.
    """
    rows: list[tuple[int, int, int, int]] = []
    for video_index, video in enumerate(videos):
        length = len(video.annotated)
        sides = (video.height, video.width)
        if length == 1 and min(sides) < sampling.flattest * max(sides):
            continue
        for expression_index, expression in enumerate(video.expressions):
            learnable = visible_frames(video, expression) & video.annotated
            if not learnable.any():
                continue
            for target_frame in _target_frames(sampling, learnable, num_frames):
                rows.append((video_index, expression_index, target_frame, video.shard))
    table = np.array(rows, np.int64).reshape(-1, 4)
    # One array a column, each in memory of its own: an epoch gathers from single columns.
    video_column, expression_column, target_frame_column, shard_column = np.ascontiguousarray(
        table.T
    )
    return Items(
        video=video_column,
        expression=expression_column,
        target_frame=target_frame_column,
        shard=shard_column,
    )


def visible_frames(video: VideoRow, expression: Expression) -> BoolArray:
    """Say which frames show an object of the expression, as far as is annotated: `[F]`."""
    visible = np.zeros(len(video.annotated), bool)
    for name in expression.objects:
        if name in video.visible:  # else it is in no frame of the video
            visible |= video.visible[name]
    return visible


def _target_frames(sampling: ClipSampling, learnable: BoolArray, num_frames: int) -> Iterable[int]:
    """Choose the frames that clips of an expression are made around.

    Args:
        sampling: How clips are cut.
        learnable: `[F]`, the frame is annotated and shows the object.
        num_frames: Frames of a clip, T.
    """
    if sampling.anchors == "annotated":
        return [int(frame) for frame in np.flatnonzero(learnable)]
    if sampling.anchors == "first":
        return [0]
    return range(0, len(learnable), num_frames)
