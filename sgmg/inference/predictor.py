"""Frames and expressions in, masks at the size of the frames out.

One visual pass a window serves all expressions; memory is bounded by the window and by how many
expressions are handled at once. Published inference is ``Predictor(model)`` on Ref-YouTube-VOS,
``window=36`` on Ref-DAVIS17, and ``rank`` on single frames, with ``long_side=640``.

Which query answers: in each window that of the highest class score averaged over its frames. With
``continuity`` c > 0, a window after the first adds c * s * IoU, where IoU is the overlap of the
query's box in the window's first frame with the box answered in the frame before, and s the score
given there: of two objects that fit alike, the one followed so far is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypedDict, Unpack

import torch
from torch import Tensor

from sgmg.inference.network_input import Size, check_frame, make_network_input, scale_frame
from sgmg.inference.postprocess import Candidates, rank_queries, restore, to_xyxy_px
from sgmg.inference.video_io import open_frames
from sgmg.network.boxes import overlaps
from sgmg.network.model import SgMg
from sgmg.network.model_folder import find_checkpoint
from sgmg.network.outputs import QueryOutput, SgMgOutput, every_query

CPU_EXPRESSIONS_AT_ONCE = 1  # more are no faster there (benchmarks/expressions.py)
GPU_EXPRESSIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Window:
    """Answers for some consecutive frames of a video.

    Attributes:
        start: Index of the first frame.
        mask_logits: [E, T, h, w], at the network's resolution without padding.
        scores: [E, T], 0 to 1: how sure the network is that the object is in the frame.
        boxes_xyxy_px: [E, T, 4], corners in pixels of the video.
        size: Height and width of the video in pixels.
    """

    start: int
    mask_logits: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor
    size: Size

    @property
    def end(self) -> int:
        """Index of the first frame after the window."""
        return self.start + self.scores.shape[1]

    def masks(self) -> Tensor:
        """Masks at the size of the video, bool [E, T, H, W]."""
        # One expression at a time: logits at the size of the video take four bytes a pixel, masks
        # one, so the peak stays near the size of the result.
        return torch.stack([restore(logits, self.size) > 0 for logits in self.mask_logits])


@dataclass(frozen=True)
class Prediction:
    """Answers for a whole video, on the CPU.

    Attributes:
        masks: Bool [E, T, H, W], at the size of the frames.
        scores: [E, T], 0 to 1: how sure the network is that the object is in the frame.
        boxes_xyxy_px: [E, T, 4], corners in pixels of the frames.
    """

    masks: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor


@dataclass(frozen=True)
class PreviousFrame:
    """Answers in the last frame before a window, which the window may hold on to.

    Attributes:
        scores: [E], 0 to 1.
        boxes_xyxy_px: [E, 4], corners in pixels of the video.
        size: Height and width of the video in pixels.
    """

    scores: Tensor
    boxes_xyxy_px: Tensor
    size: Size


class PredictorSettings(TypedDict, total=False):
    """Settings of `Predictor`, for `Predictor.load`; see there."""

    short_side: int
    long_side: int | None
    window: int | None
    expressions_at_once: int | None
    pad_to: int
    continuity: float


@dataclass(frozen=True)
class Predictor:
    """Segments what expressions name.

    Attributes:
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
    def load(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        **settings: Unpack[PredictorSettings],
    ) -> Self:
        """Load a saved network to predict with.

        Args:
            source: Model folder, run folder of ``train.py`` (its newest checkpoint), or the name of
                a Hugging Face repository.
            device: Where the network runs.
            settings: Attributes of the class other than the model.

        Raises:
            ValueError: Nothing is there, it is broken, or a setting has no meaning.
        """
        checkpoint = find_checkpoint(Path(source)) if Path(source).exists() else source
        model = SgMg.from_pretrained(checkpoint).to(device)
        return cls(model, **settings)

    def __post_init__(self) -> None:
        """Reject settings without meaning.

        Raises:
            ValueError: A number is below 1.
        """
        counts = {
            "short_side": self.short_side,
            "long_side": self.long_side,
            "window": self.window,
            "expressions_at_once": self.expressions_at_once,
            "pad_to": self.pad_to,
        }
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")

    def predict(self, frames: Tensor | str | Path, expressions: Sequence[str]) -> Prediction:
        """Segment a video that fits into memory.

        Args:
            frames: uint8 [T, 3, H, W], RGB; or the path of a video, an image or a folder of frames.
            expressions: E expressions.

        Raises:
            ValueError: No frames, no expressions, or frames of another form.
        """
        if isinstance(frames, str | Path):
            frames = torch.stack(list(open_frames(frames).tensors()))
        masks, scores, boxes = [], [], []
        for window in self.stream(frames, expressions):
            masks.append(window.masks().cpu())
            scores.append(window.scores.cpu())
            boxes.append(window.boxes_xyxy_px.cpu())
        return Prediction(
            masks=torch.cat(masks, 1),
            scores=torch.cat(scores, 1),
            boxes_xyxy_px=torch.cat(boxes, 1),
        )

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
        size: Size | None = None
        scaled_frames: list[Tensor] = []
        answer: Window | None = None
        for frame in frames:
            check_frame(frame, size)
            size = (frame.shape[-2], frame.shape[-1])
            # Only the small frame is held until its window is full.
            scaled_frames.append(scale_frame(frame, self.short_side, self.long_side))
            if len(scaled_frames) == self.window:
                answer = self._segment_window(scaled_frames, size, expressions, answer)
                yield answer
                scaled_frames = []
        if size is None:
            raise ValueError("no frames: the video is empty")
        if scaled_frames:
            yield self._segment_window(scaled_frames, size, expressions, answer)

    @torch.inference_mode()
    def rank(
        self, frames: Tensor, expressions: Sequence[str], *, target_frame: int = 0
    ) -> list[Candidates]:
        """All queries of each expression in one frame, for benchmarks that rank them.

        Args:
            frames: uint8 [T, 3, H, W], RGB; the others lend motion to the target frame.
            expressions: E expressions.
            target_frame: Index of the frame whose masks are wanted.

        Returns:
            The candidates of each expression.

        Raises:
            ValueError: As in ``predict``.
        """
        size = (frames.shape[-2], frames.shape[-1])
        scaled_frames = []
        for frame in frames:
            check_frame(frame, size)
            scaled_frames.append(scale_frame(frame, self.short_side, self.long_side))

        # Ranking asks for the masks of all queries, whatever the expression.
        def select(_: slice, queries: QueryOutput) -> Tensor:
            return every_query(queries)

        candidates = []
        outputs = self._segment(scaled_frames, expressions, select, target_frame)
        for output, (height, width) in outputs:
            class_logits = output.queries.class_logits[:, 0]
            boxes_cxcywh = output.queries.boxes_cxcywh[:, 0]
            mask_logits = output.mask_logits[:, 0, :, :height, :width]
            for e in range(len(class_logits)):
                candidates.append(
                    rank_queries(class_logits[e], mask_logits[e], boxes_cxcywh[e], size)
                )
        return candidates

    @torch.inference_mode()
    def _segment_window(
        self,
        scaled_frames: Sequence[Tensor],
        size: Size,
        expressions: Sequence[str],
        previous: Window | None,
    ) -> Window:
        """Answer for a window of scaled frames; ``previous`` is the window before, if any."""

        def select(chosen: slice, queries: QueryOutput) -> Tensor:
            if previous is None or self.continuity == 0:
                return choose_queries(queries)
            previous_frame = PreviousFrame(
                scores=previous.scores[chosen, -1],
                boxes_xyxy_px=previous.boxes_xyxy_px[chosen, -1],
                size=size,
            )
            return choose_queries(queries, previous_frame, self.continuity)

        # Each list gets the answers of a few expressions at a time; all are concatenated below.
        mask_logits, scores, boxes_cxcywh = [], [], []
        for output, (height, width) in self._segment(scaled_frames, expressions, select):
            # One query an expression: (rows[e], query_index[e]) picks that of expression e.
            rows = torch.arange(len(output.query_index), device=output.query_index.device)
            class_logits = output.queries.class_logits[rows, :, output.query_index]
            mask_logits.append(output.mask_logits[..., :height, :width])
            scores.append(class_logits.float().sigmoid())
            boxes_cxcywh.append(output.queries.boxes_cxcywh[rows, :, output.query_index].float())
        return Window(
            start=previous.end if previous else 0,
            mask_logits=torch.cat(mask_logits),
            scores=torch.cat(scores),
            boxes_xyxy_px=to_xyxy_px(torch.cat(boxes_cxcywh), size),
            size=size,
        )

    def _segment(
        self,
        scaled_frames: Sequence[Tensor],
        expressions: Sequence[str],
        select: Callable[[slice, QueryOutput], Tensor],
        target_frame: int | None = None,
    ) -> Iterator[tuple[SgMgOutput, Size]]:
        """Run the network: one visual pass, then a few expressions at a time.

        Args:
            scaled_frames: uint8 [3, h, w] each.
            expressions: E expressions.
            select: Chooses queries, from those of the expressions that the slice names.
            target_frame: Index of the only frame that is answered for; None for all.

        Yields:
            Outputs of a few expressions, and the height and width of a mask without padding.
        """
        if not expressions:
            raise ValueError("no expressions: say what to look for")
        device = next(self.model.parameters()).device
        clip = make_network_input(scaled_frames, self.pad_to, device)
        target_frames = None
        if target_frame is not None:
            target_frames = torch.tensor([target_frame], device=device)
        visual = self.model.encode_video(clip.frames, clip.padding, target_frames)
        step = self.expressions_at_once
        if step is None:
            step = CPU_EXPRESSIONS_AT_ONCE if device.type == "cpu" else GPU_EXPRESSIONS_AT_ONCE
        for first in range(0, len(expressions), step):
            chosen = slice(first, first + step)
            tokens = self.model.tokenize(expressions[chosen])
            # All expressions are about the one clip there is.
            clip_index = torch.zeros(len(tokens.ids), dtype=torch.long, device=device)
            output = self.model.segment(
                visual,
                tokens,
                partial(select, chosen),
                clip_index,
                every_layer=False,
            )
            yield output, clip.inner_size


def choose_queries(
    queries: QueryOutput,
    previous_frame: PreviousFrame | None = None,
    continuity: float = 0.0,
) -> Tensor:
    """Choose the query that answers for a window, as the module's docstring says.

    Args:
        queries: Of E expressions in T frames.
        previous_frame: Answers in the frame before the window; None for the first window.
        continuity: How much the overlap with the previous frame counts.

    Returns:
        Index of a query for each expression, int64 [E].
    """
    # In float32 also under autocast: bfloat16 would make queries of near scores equal.
    fit = queries.class_logits.float().sigmoid().mean(1)
    if previous_frame is None:
        return fit.argmax(-1)
    # Boxes of the window's first frame, the one next to the frame before.
    boxes = to_xyxy_px(queries.boxes_cxcywh[:, 0].float(), previous_frame.size)
    iou, _ = overlaps(boxes, previous_frame.boxes_xyxy_px[:, None])
    weights = continuity * previous_frame.scores[:, None]
    return (fit + weights * iou).argmax(-1)
