"""Which frames make a clip: where clips start, and how the other frames of one are drawn.

All randomness comes through `draws`, so that a test may put in the published generators.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shards.format.shard_set import VideoRow
from shards.stream.order import Draws, Items


@dataclass(frozen=True)
class ClipSampling:
    """How clips are cut from videos.

    Attributes:
        anchors: Frames to make clips around. "every": 0, T, 2T, ..; "annotated": the annotated
            frames that show the object; "first": the first frame alone.
        frames: The other frames of a clip. "spread": one near the anchor on each side, the rest
            from the whole video; "window": evenly spaced, so that motion stays true; "middle":
            successive, with the anchor in the middle and without randomness.
        reach: Largest distance of the near frames of "spread", largest spacing of "window".
        reverse: Probability that a clip runs backwards; keep 0 where expressions tell motion.
        alone: With T = 1 take the anchor; else, as published for DAVIS and A2D, the first of the
            sorted frames.
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
    sampling: ClipSampling, length: int, anchor: int, num_frames: int, draws: Draws
) -> list[int]:
    """Choose the frames of one clip.

    Args:
        sampling: How.
        length: Frames of the video.
        anchor: The frame to choose around.
        num_frames: Frames of the clip, T.
        draws: Where randomness comes from.

    Returns:
        T frame numbers in the order they are shown; a short video repeats frames.
    """
    if sampling.frames == "middle":
        start = anchor - num_frames // 2
        return [min(max(start + i, 0), length - 1) for i in range(num_frames)]
    if num_frames == 1 and sampling.alone:
        return [anchor]
    if sampling.frames == "window":
        chosen = _window(length, anchor, num_frames, sampling.reach, draws)
    else:
        chosen = _spread(length, anchor, num_frames, sampling.reach, draws)
    if sampling.reverse and draws.chance(sampling.reverse):
        chosen.reverse()
    return chosen


def _spread(length: int, anchor: int, num_frames: int, reach: int, draws: Draws) -> list[int]:
    """The published choice: a frame near the anchor on each side, the rest from outside of these.

    The last near frame may come twice, as it does in the published sampling.
    """
    first = max(0, anchor - draws.integer(1, reach))
    last = min(length - 1, anchor + draws.integer(1, reach))
    chosen = [anchor, first, last]
    missing = num_frames - len(chosen)
    if missing > 0:
        outside = [*range(first), *range(last, length)]
        if len(outside) > missing:
            chosen += draws.sample(outside, missing)
        elif length >= missing:
            chosen += draws.sample(range(length), missing)
        else:
            whole, rest = divmod(missing, length)
            chosen += [*range(length)] * whole + draws.sample(range(length), rest)
    return sorted(chosen)[:num_frames]


def _window(length: int, anchor: int, num_frames: int, reach: int, draws: Draws) -> list[int]:
    """Evenly spaced frames with the anchor among them; a short video repeats its last frame."""
    span = num_frames - 1
    fits: dict[int, list[int]] = {}
    for spacing in range(1, reach + 1):
        for start in range(anchor - spacing * span, anchor + 1, spacing):
            if start >= 0 and start + spacing * span < length:
                fits.setdefault(spacing, []).append(start)
    if not fits:
        return [min(i, length - 1) for i in range(num_frames)]
    spacings = list(fits)
    spacing = spacings[draws.integer(0, len(spacings) - 1)]
    start = fits[spacing][draws.integer(0, len(fits[spacing]) - 1)]
    return [start + spacing * i for i in range(num_frames)]


def list_items(videos: Iterable[VideoRow], sampling: ClipSampling, num_frames: int) -> Items:
    """All items of a shard set; an expression whose object is never to be seen offers none.

    Args:
        videos: Of the set.
        sampling: How clips are cut.
        num_frames: Frames of a clip, T.
    """
    rows: list[tuple[int, int, int, int]] = []
    for number, video in enumerate(videos):
        length, sides = len(video.annotated), (video.height, video.width)
        if length == 1 and min(sides) < sampling.flattest * max(sides):
            continue
        for which, expression in enumerate(video.expressions):
            views = [video.visible[name] for name in expression.objects if name in video.visible]
            seen = np.logical_or.reduce([np.zeros(length, bool), *views]) & video.annotated
            if not seen.any():
                continue
            if sampling.anchors == "annotated":
                anchors: Sequence[int] = [int(frame) for frame in np.flatnonzero(seen)]
            else:
                anchors = range(0, length if sampling.anchors == "every" else 1, num_frames)
            rows += [(number, which, anchor, video.shard) for anchor in anchors]
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Items(*np.ascontiguousarray(table.T))
