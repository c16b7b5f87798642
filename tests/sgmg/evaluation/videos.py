"""A video in memory, as benchmarks see it, and a predictor that needs no network."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgmg.inference.postprocess import Candidates
from sgmg.inference.predictor import Window

HEIGHT, WIDTH = 12, 16
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlainExpression:
    id: str
    text: str
    objects: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class PlainVideo:
    """Frame t is of the grey level t; `masks` has one entry a frame, None without annotation."""

    masks: Sequence[Mapping[str, Mask] | None]
    expressions: Sequence[PlainExpression]
    video_id: str = "video"
    height: int = HEIGHT
    width: int = WIDTH

    @property
    def frame_names(self) -> Sequence[str]:
        return [f"{index:05d}" for index in range(len(self.masks))]

    @property
    def annotated(self) -> Sequence[bool]:
        return [masks is not None for masks in self.masks]

    def frames(self, indices: Sequence[int]) -> Iterator[Tensor]:
        for index in indices:
            yield torch.full((3, HEIGHT, WIDTH), index, dtype=torch.uint8)

    def visible_objects(self, index: int) -> Collection[str]:
        return set(self.masks[index] or ())

    def truth(self, objects: Collection[str]) -> Mask:
        annotated = [masks for masks in self.masks if masks is not None]
        truth = np.zeros((len(annotated), HEIGHT, WIDTH), bool)
        for union, masks in zip(truth, annotated, strict=True):
            for name in set(objects) & masks.keys():
                np.logical_or(union, masks[name], out=union)
        return truth


def square(top: int, left: int, side: int = 5) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@dataclass
class PlainPredictor:
    """Answers with the mask of an expression's text, in windows of two frames.

    Attributes:
        masks: Text to mask.
        ranked: What `rank` was asked: grey levels of the frames, expressions, target frame.
    """

    masks: Mapping[str, Mask]
    ranked: list[tuple[list[int], list[str], int]] = field(default_factory=list)

    def logits(self, text: str) -> Tensor:
        return torch.from_numpy(np.where(self.masks[text], 8.0, -8.0))

    def stream(self, frames: Iterable[Tensor], expressions: Sequence[str]) -> Iterator[Window]:
        num_frames = len(list(frames))
        for start in range(0, num_frames, 2):
            count = min(2, num_frames - start)
            logits = torch.stack([self.logits(text) for text in expressions])
            yield Window(
                start=start,
                mask_logits=logits[:, None].expand(-1, count, -1, -1),
                scores=torch.ones(len(expressions), count),
                boxes_xyxy_px=torch.zeros(len(expressions), count, 4),
                size=(HEIGHT, WIDTH),
            )

    def rank(
        self, frames: Tensor, expressions: Sequence[str], *, target_frame: int = 0
    ) -> list[Candidates]:
        self.ranked.append((frames[:, 0, 0, 0].tolist(), list(expressions), target_frame))
        return [
            Candidates(
                masks=torch.stack([self.logits(text) > 0, torch.ones(HEIGHT, WIDTH) > 0]),
                scores=torch.tensor([0.75, 0.25]),
                boxes_xyxy_px=torch.zeros(2, 4),
            )
            for text in expressions
        ]
