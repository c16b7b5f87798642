"""Segment a video and write overlay, masks and scores, a window in memory at a time."""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sgmg.inference.mask_folder import MASKS_JSON, FrameAnswer, MaskFolderWriter
from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import Frames, Pixels, video_writer
from sgmg.masks.overlay import PALETTE, draw_legend, draw_masks


@dataclass(frozen=True)
class SegmentedVideo:
    """What `segment_video` wrote.

    Attributes:
        overlay: Video or image of the frames with their masks.
        masks: Folder of masks.json and PNG masks.
        scores: A list a frame, with a score an expression, 0 to 1.
    """

    overlay: Path
    masks: Path
    scores: list[list[float]]


def segment_video(
    predictor: Predictor,
    frames: Frames,
    expressions: Sequence[str],
    out: Path,
    *,
    progress: Callable[[int], object] = lambda index: None,
    max_frames: int | None = None,
) -> SegmentedVideo:
    """Segment a video and write the answers; everything appears at once, or nothing.

    Args:
        predictor: With a window, or the whole video is held in memory.
        frames: The video, an image, or a folder of images.
        expressions: E expressions.
        out: Overlay to write; a single image becomes .png, all else .mp4. The folder
            `mask_folder_of` this file takes the masks.
        progress: Called with the index of every finished frame.
        max_frames: Longer videos are refused.

    Raises:
        ValueError: The video is broken or too long, or the overlay's name is taken.
    """
    overlay = out.with_suffix(".png" if frames.is_single_image else ".mp4")
    masks = mask_folder_of(overlay)
    # A folder with our masks.json is one of an earlier run, which may be replaced.
    is_ours = not masks.exists() or (masks / MASKS_JSON).is_file()
    if not is_ours or overlay.resolve() == frames.path.resolve():
        raise ValueError(
            f"{overlay} or {masks} would replace what is not ours: choose another name"
        )
    overlay.parent.mkdir(parents=True, exist_ok=True)
    scores = []
    # Everything is written beside its final name, on one file system, so that it can be renamed.
    with tempfile.TemporaryDirectory(dir=overlay.parent, prefix=f".{overlay.stem}-") as name:
        unfinished_overlay = Path(name) / overlay.name
        unfinished_masks = Path(name) / "masks"
        with (
            video_writer(unfinished_overlay, frames.rate) as add_frame,
            MaskFolderWriter(unfinished_masks, expressions) as mask_writer,
        ):
            for answer in _answers(predictor, frames, expressions, max_frames):
                mask_writer.add(answer)
                add_frame(_draw(answer, expressions))
                scores.append(answer.scores)
                progress(answer.index)
        shutil.rmtree(masks, ignore_errors=True)
        unfinished_masks.rename(masks)
        unfinished_overlay.replace(overlay)
    return SegmentedVideo(overlay, masks, scores)


def mask_folder_of(overlay: Path) -> Path:
    """Folder of the masks that belong to an overlay."""
    return overlay.with_name(f"{overlay.stem}_masks")


def _draw(answer: FrameAnswer, expressions: Sequence[str]) -> Pixels:
    """Draw masks and a legend with the scores over a frame."""
    legend = [
        f"{expression}  {score:.2f}"
        for expression, score in zip(expressions, answer.scores, strict=True)
    ]
    return draw_legend(draw_masks(answer.pixels, answer.masks), legend, PALETTE)


def _answers(
    predictor: Predictor,
    frames: Frames,
    expressions: Sequence[str],
    max_frames: int | None,
) -> Iterator[FrameAnswer]:
    """Answers for a video, frame by frame.

    Raises:
        ValueError: The video is broken or too long.
    """
    # The predictor keeps only small copies of the frames of a window, but the overlay needs the
    # frames themselves: they wait here until their window is answered.
    waiting: deque[Tensor] = deque()

    def take_frames() -> Iterator[Tensor]:
        for index, frame in enumerate(frames.tensors()):
            if index == max_frames:
                raise ValueError(f"{frames.path.name} is longer than {max_frames} frames: cut it")
            waiting.append(frame)
            yield frame

    for window in predictor.stream(take_frames(), expressions):
        masks_by_frame = window.masks().cpu().numpy().swapaxes(0, 1)
        for t, masks in enumerate(masks_by_frame):
            frame = waiting.popleft()
            yield FrameAnswer(
                index=window.start + t,
                pixels=frame.permute(1, 2, 0).numpy(),
                masks=masks,
                scores=window.scores[:, t].tolist(),
                boxes_xyxy_px=window.boxes_xyxy_px[:, t].tolist(),
            )
