"""Clip styles: how clips of each kind of data are cut, augmented, padded and supervised."""

from dataclasses import dataclass, replace
from typing import Literal

from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling


@dataclass(frozen=True, kw_only=True)
class ClipStyle:
    """How one kind of data becomes clips.

    Attributes:
        sampling: How clips are cut from videos.
        augmentation: What may happen to a clip.
        pad_to: Frames are padded below and right to multiples of this, in pixels.
        supervise: What the loss looks at: all frames of the clip, or its target frame alone, as
            A2D-Sentences does.
    """

    sampling: ClipSampling
    augmentation: Augmentation
    pad_to: int = 32
    supervise: Literal["clip", "target_frame"] = "clip"


# All as published, but for the two synthetic styles, which suit the small network of the demo.
STYLES: dict[str, ClipStyle] = {
    "image": ClipStyle(
        sampling=ClipSampling.image(),
        augmentation=Augmentation.image(),
    ),
    "youtube-vos": ClipStyle(
        sampling=ClipSampling.youtube_vos(),
        augmentation=Augmentation.video(),
    ),
    "davis": ClipStyle(
        sampling=ClipSampling.davis(),
        augmentation=Augmentation.video(),
    ),
    "a2d": ClipStyle(
        sampling=ClipSampling.a2d(),
        augmentation=Augmentation.a2d(),
        supervise="target_frame",
    ),
    "mevis": ClipStyle(
        # Expressions of MeViS tell motion, so no clip runs backwards.
        sampling=replace(ClipSampling.youtube_vos(), reverse=0.0),
        augmentation=Augmentation.video(),
    ),
    "joint": ClipStyle(
        sampling=ClipSampling.joint(),
        augmentation=Augmentation.joint(),
    ),
    "synthetic-image": ClipStyle(
        sampling=ClipSampling.image(),
        augmentation=Augmentation.synthetic(),
        pad_to=16,
    ),
    "synthetic": ClipStyle(
        sampling=ClipSampling.synthetic(),
        augmentation=Augmentation.synthetic(),
        pad_to=16,
    ),
}


def named_style(name: str) -> ClipStyle:
    """Look up a style.

    Raises:
        ValueError: If there is no style of this name.
    """
    if name not in STYLES:
        raise ValueError(f"unknown clip style {name!r}; choose one of {', '.join(STYLES)}")
    return STYLES[name]
