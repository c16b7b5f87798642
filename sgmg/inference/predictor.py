"""Frames and expressions in, masks at the size of the frames out.

One visual pass a window serves all expressions; memory is bounded by the window and by how many
expressions are handled at once. Published inference is ``Predictor(model)`` on Ref-YouTube-VOS,
``window=36`` on Ref-DAVIS17, and ``rank`` on single frames, with ``long_side=640``.

Which query answers: in each window that of the highest class score averaged over its frames. With
``continuity`` c > 0, a window after the first adds c * s * IoU, where IoU is the overlap of the
query's box in the window's first frame with the box answered in the frame before, and s the score
given there: of two objects that fit alike, the one followed so far is kept.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, resize

from sgmg.inference.video_io import open_frames
from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.network.model import SgMg
from sgmg.network.model_folder import find_checkpoint
from sgmg.network.outputs import QueryOutput, SgMgOutput, every_query

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
SMALLEST = 144  # padded pixels a side: the network refuses 128 and less

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Window:
    """Answers for some consecutive frames of a video.

    Args:
        start: Index of the first frame.
        mask_logits: [E, t, h, w], at the network's resolution without padding.
        scores: [E, t], 0 to 1: how sure the object is in the frame.
        boxes_xyxy_px: [E, t, 4], in pixels of the video.
        size: Height and width of the video in pixels.
    """

    start: int
    mask_logits: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor
    size: Size

    def masks(self) -> Tensor:
        """Masks at the size of the video, bool [E, t, H, W]."""
        return torch.stack([restore(logits, self.size) > 0 for logits in self.mask_logits])


@dataclass(frozen=True)
class Prediction:
    """Answers for a whole video, or all queries of one expression in one frame, best first.

    Args:
        masks: Bool [E, T, H, W] or [Q, H, W], at the size of the frames.
        scores: [E, T] or [Q], 0 to 1.
        boxes_xyxy_px: [E, T, 4] or [Q, 4], in pixels of the frames.
    """

    masks: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor


@dataclass(frozen=True)
class Predictor:
    """Segments what expressions name.

    Args:
        model: The network, in evaluation mode on its device.
        short_side: Pixels the short side of a frame is resized to.
        long_side: Most pixels of the long side, at the cost of the short one; None for no limit.
        window: Frames that are looked at together; None for the whole video.
        expressions_at_once: How many expressions share a step after the visual pass. By default
            eight on a GPU and one on a CPU, where more are no faster; one gives the very bits that
            each expression gives alone, more differ by rounding.
        pad_to: Frames are padded to a multiple of this many pixels.
        continuity: How much a window holds on to the object of the one before, see above;
            published: 0.
    """

    model: SgMg
    short_side: int = 360
    long_side: int | None = None
    window: int | None = None
    expressions_at_once: int | None = None
    pad_to: int = 16
    continuity: float = 0.0

    @classmethod
    def load(cls, source: str | Path, device: str | torch.device = "cpu", **settings: Any) -> Self:
        """Load a saved network to predict with.

        Args:
            source: Model folder, run folder of ``train.py`` (its newest checkpoint), or the name of
                a Hugging Face repository.
            device: Where the network runs.
            settings: Of the class.

        Raises:
            ValueError: Nothing is there, it is broken, or a setting has no meaning.
        """
        folder = find_checkpoint(Path(source)) if Path(source).exists() else source
        return cls(SgMg.from_pretrained(folder).to(device), **settings)

    def __post_init__(self) -> None:
        """Reject settings without meaning.

        Raises:
            ValueError: A number is below 1.
        """
        for name in ("short_side", "long_side", "window", "expressions_at_once", "pad_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")

    def predict(self, frames: Tensor | str | Path, expressions: Sequence[str]) -> Prediction:
        """Segment a video that fits into memory.

        Args:
            frames: uint8 [T, 3, H, W], RGB; or the path of a video, an image or a folder of frames.
            expressions: E expressions.

        Returns:
            Masks, scores and boxes of every expression and frame, on the CPU.

        Raises:
            ValueError: No frames, no expressions, or frames of another form.
        """
        if isinstance(frames, str | Path):
            frames = torch.stack(list(open_frames(frames).tensors()))
        parts = [
            (window.masks().cpu(), window.scores.cpu(), window.boxes_xyxy_px.cpu())
            for window in self.stream(frames, expressions)
        ]
        return Prediction(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))

    def stream(self, frames: Iterable[Tensor], expressions: Sequence[str]) -> Iterator[Window]:
        """Segment frames as they come, a window at a time; memory does not grow with the video.

        Latency: a window is answered once its last frame is there, so a frame waits for at most
        ``window - 1`` others; ``window=1`` answers each frame at once.

        Args:
            frames: uint8 [3, H, W] each, RGB, all of one size.
            expressions: E expressions.

        Yields:
            One answer a window; the last window may be shorter.

        Raises:
            ValueError: No frames, no expressions, or frames of another form.
        """
        held: list[Tensor] = []
        answer, size = None, None
        for frame in frames:
            _check(frame, size)
            size = (frame.shape[-2], frame.shape[-1])
            held.append(self._shrink(frame))
            if len(held) == self.window:
                yield (answer := self._answer(held, size, expressions, answer))
                held = []
        if size is None:
            raise ValueError("no frames: the video is empty")
        if held:
            yield self._answer(held, size, expressions, answer)

    @torch.inference_mode()
    def rank(
        self, frames: Tensor, expressions: Sequence[str], *, target_frame: int = 0
    ) -> list[Prediction]:
        """All queries of each expression in one frame, for benchmarks that rank them.

        Args:
            frames: uint8 [T, 3, H, W], RGB; the others lend motion to the target frame.
            expressions: E expressions.
            target_frame: Index of the frame whose masks are wanted.

        Returns:
            Candidates of each expression, on the CPU.

        Raises:
            ValueError: As in ``predict``.
        """
        height, width = frames.shape[-2:]
        found = []
        for frame in frames:
            _check(frame, (height, width))
        small = [self._shrink(frame) for frame in frames]

        def select(_: slice, queries: QueryOutput) -> Tensor:
            return every_query(queries)

        for output, inner in self._refer(small, expressions, select, target_frame):
            logits, boxes = output.queries.class_logits, output.queries.boxes_cxcywh
            masks = output.mask_logits[..., : inner[0], : inner[1]]
            found += [
                candidates(*one, (height, width))
                for one in zip(logits[:, 0], masks[:, 0], boxes[:, 0], strict=True)
            ]
        return found

    @torch.inference_mode()
    def _answer(
        self, small: list[Tensor], size: Size, expressions: Sequence[str], before: Window | None
    ) -> Window:
        """Answer for a window of shrunk frames, ``before`` being the answer for the last one."""

        def select(some: slice, queries: QueryOutput) -> Tensor:
            fit = queries.class_logits.float().sigmoid().mean(1)
            if before is not None and self.continuity:
                boxes = boxes_px(queries.boxes_cxcywh[:, 0].float(), size)
                shared = overlaps(boxes, before.boxes_xyxy_px[some, -1:])[0]
                fit = fit + self.continuity * before.scores[some, -1:] * shared
            return fit.argmax(-1)

        logits, scores, boxes = [], [], []
        for output, (height, width) in self._refer(small, expressions, select):
            rows = torch.arange(len(output.selected), device=output.selected.device)
            logits.append(output.mask_logits[..., :height, :width])
            scores.append(output.queries.class_logits[rows, :, output.selected].float().sigmoid())
            boxes.append(output.queries.boxes_cxcywh[rows, :, output.selected].float())
        return Window(
            start=before.start + before.scores.shape[1] if before else 0,
            mask_logits=torch.cat(logits),
            scores=torch.cat(scores),
            boxes_xyxy_px=boxes_px(torch.cat(boxes), size),
            size=size,
        )

    def _refer(
        self,
        small: Sequence[Tensor],
        expressions: Sequence[str],
        select: Callable[[slice, QueryOutput], Tensor],
        target_frame: int | None = None,
    ) -> Iterator[tuple[SgMgOutput, Size]]:
        """Outputs of a few expressions at a time, and the size without padding."""
        if not expressions:
            raise ValueError("no expressions: say what to look for")
        device = next(self.model.parameters()).device
        inputs, padding, inner = self._batch(small, device)
        index = None if target_frame is None else torch.tensor([target_frame], device=device)
        visual = self.model.look(inputs, padding, index)
        at_once = self.expressions_at_once or (1 if device.type == "cpu" else 8)
        for first in range(0, len(expressions), at_once):
            some = slice(first, first + at_once)
            tokens = self.model.tokenize(expressions[some])
            clip_index = torch.zeros(len(tokens.ids), dtype=torch.long, device=device)
            output = self.model.refer(
                visual, tokens, partial(select, some), clip_index, every_layer=False
            )
            yield output, inner

    def _shrink(self, frame: Tensor) -> Tensor:
        """A frame at the size the network sees, uint8 [3, h, w]."""
        size = resized(frame.shape[-2], frame.shape[-1], self.short_side, self.long_side)
        return resize(frame, list(size), antialias=True)

    def _batch(self, small: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor, Size]:
        """Frames [1, t, 3, h, w] and padding [1, h, w] of the network, and the size inside."""
        frames = torch.stack(list(small)).to(device)
        inputs = normalize(frames.float() / 255, list(MEAN), list(DEVIATION))
        size = (inputs.shape[-2], inputs.shape[-1])
        below, right = (
            max(math.ceil(side / self.pad_to) * self.pad_to, SMALLEST) - side for side in size
        )
        padding = torch.zeros(1, *size, dtype=torch.bool, device=device)
        padding = F.pad(padding, (0, right, 0, below), value=True)
        return F.pad(inputs, (0, right, 0, below)).unsqueeze(0), padding, size


def _check(frame: Tensor, size: Size | None) -> None:
    """Refuse a frame that is none, or of another size than those before."""
    if frame.dim() != 3 or len(frame) != 3 or (size and frame.shape[-2:] != size):
        raise ValueError(f"a frame is {list(frame.shape)}: all must be one [3, H, W]")
    if frame.dtype != torch.uint8:
        raise ValueError(f"a frame is {frame.dtype}: give RGB as uint8, 0 to 255")


def resized(height: int, width: int, short_side: int, long_side: int | None = None) -> Size:
    """Size a frame is resized to, by the published rule.

    Args:
        height: Pixels.
        width: Pixels.
        short_side: Wanted pixels of the short side.
        long_side: Most pixels of the long side; the short one gives way. None for no limit.

    Returns:
        Height and width, at least 1 each.
    """
    short, long = sorted((height, width))
    if long_side is not None and short_side * long / short > long_side:
        short_side = max(round(long_side * short / long), 1)
    other = int(short_side * long / short)
    return (short_side, other) if height <= width else (other, short_side)


def restore(mask_logits: Tensor, size: Size) -> Tensor:
    """Bring masks back to the size of the frame they belong to.

    Args:
        mask_logits: [..., h, w], padding cut off.
        size: Height and width in pixels.

    Returns:
        Logits [..., H, W], float32, bilinear.
    """
    flat = mask_logits.reshape(1, -1, *mask_logits.shape[-2:]).float()
    flat = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return flat.view(*mask_logits.shape[:-2], *size)


def merge_objects(probabilities: Tensor, *, background: float = 0.1) -> Tensor:
    """Give each pixel to one object of a video, as the DAVIS evaluation wants it.

    Probabilities below one half do not count.

    Args:
        probabilities: [O, ..., H, W].
        background: Probability of no object.

    Returns:
        Labels uint8 [..., H, W]: 0 for none, 1 for the first object, and so on.
    """
    kept = torch.where(probabilities < 0.5, 0, probabilities)
    return F.pad(kept.movedim(0, -1), (1, 0), value=background).argmax(-1).to(torch.uint8)


def boxes_px(boxes_cxcywh: Tensor, size: Size) -> Tensor:
    """Corners in pixels of normalised boxes.

    Args:
        boxes_cxcywh: [..., 4].
        size: Height and width of the frame in pixels.

    Returns:
        [..., 4] as ``(x1, y1, x2, y2)``.
    """
    height, width = size
    scale = boxes_cxcywh.new_tensor([width, height, width, height])
    return to_xyxy(boxes_cxcywh) * scale


def candidates(
    class_logits: Tensor, mask_logits: Tensor, boxes_cxcywh: Tensor, size: Size
) -> Prediction:
    """Rank the queries of one expression in one frame.

    Args:
        class_logits: [Q].
        mask_logits: [Q, h, w], padding cut off.
        boxes_cxcywh: [Q, 4], normalised.
        size: Height and width of the frame in pixels.

    Returns:
        The queries at the size of the frame, best first, on the CPU.
    """
    scores, order = class_logits.float().sigmoid().sort(descending=True, stable=True)
    return Prediction(
        scores=scores.cpu(),
        masks=(restore(mask_logits[order], size) > 0).cpu(),
        boxes_xyxy_px=boxes_px(boxes_cxcywh[order].float(), size).cpu(),
    )
