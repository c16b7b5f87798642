"""What a benchmark sees of a video. Whoever stores videos fulfils these protocols."""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Masks = NDArray[np.bool_]


class ReferringExpression(Protocol):
    """An expression and the objects it names."""

    @property
    def id(self) -> str:
        """Unique within its video."""
        ...

    @property
    def text(self) -> str:
        """The expression as the data set has it."""
        ...

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects; the target is their union. Empty where they are kept secret."""
        ...

    @property
    def kind(self) -> str:
        """Tag such as the annotator, may be empty."""
        ...


class ListedVideo(Protocol):
    """What a list of videos knows without reading a video."""

    @property
    def video_id(self) -> str:
        """The data set's own name."""
        ...

    @property
    def height(self) -> int:
        """Of every frame, in pixels."""
        ...

    @property
    def width(self) -> int:
        """Of every frame, in pixels."""
        ...

    @property
    def frame_names(self) -> Sequence[str]:
        """In time order, without extension."""
        ...

    @property
    def expressions(self) -> Sequence[ReferringExpression]:
        """Every expression about the video."""
        ...


class EvaluationVideo(ListedVideo, Protocol):
    """A video that can be predicted and scored."""

    @property
    def annotated(self) -> Sequence[bool]:
        """Whether a frame carries ground truth, one entry a frame."""
        ...

    def frames(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Decode frames in the order of `indices`, RGB, uint8 [3, H, W] each."""
        ...

    def visible_objects(self, index: int) -> Collection[str]:
        """Ids of the objects that have a mask in a frame; none if it is not annotated."""
        ...

    def truth(self, objects: Collection[str]) -> Masks:
        """Union of the masks of objects in each of the A annotated frames, [A, H, W]."""
        ...


def annotated_frames(video: EvaluationVideo) -> list[int]:
    """Indices of the frames that carry ground truth."""
    return [index for index, annotated in enumerate(video.annotated) if annotated]
