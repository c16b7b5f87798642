"""`python -m sgmg predict`: a video and expressions in; overlay video, masks and codes out."""

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sgmg.metrics import encode_mask
from sgmg.overlay import colours_of, draw_legend, draw_masks
from sgmg.predictor import Predictor, Window
from sgmg.video import Frames, Pixels, open_frames, video_writer

LONGEST_TEXT = 300  # characters of an expression
DEMO = Path("demo/run")
WHERE = (
    "name a checkpoint with --checkpoint: `make demo` trains a small one into demo/run, train.py "
    "larger ones; the authors' weights are turned into one by `python -m sgmg convert`; or give "
    "the name of a Hugging Face repository"
)


def predict(
    source: tyro.conf.Positional[Path],
    /,
    text: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    checkpoint: str | None = None,
    out: Path = Path("overlay.mp4"),
    window: int | None = 16,
    continuity: float = 0.3,
    short_side: int = 360,
    expressions_at_once: int = 8,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Segment what expressions name in a video, an image or a folder of frames.

    Writes the overlay, and beside it the folder <name>_masks with masks.json (COCO run-length
    codes, scores and boxes, a line a frame) and a PNG mask a frame and expression.

    Args:
        source: any file PyAV reads, an image, or a folder of images.
        text: what to look for; repeat the flag for several expressions.
        checkpoint: model folder, run folder of train.py, or Hugging Face repository.
        out: overlay to write; .png for a single image.
        window: frames looked at together; memory grows with it. None: the whole video.
        continuity: how much a window holds on to the object of the one before; 0 as published.
        short_side: frames are resized to this short side, in pixels.
        expressions_at_once: expressions that share a step; memory grows with it.
        device: where the network runs.
    """
    frames = open_frames(source)
    check_expressions(text)
    if checkpoint is None:
        offer = f"; {DEMO} is there: --checkpoint {DEMO}" if DEMO.is_dir() else ""
        raise ValueError(WHERE + offer)
    predictor = Predictor.load(
        checkpoint,
        device=device,
        window=window,
        continuity=continuity,
        short_side=short_side,
        expressions_at_once=expressions_at_once,
    )
    with tqdm(total=frames.count or None, unit="frame") as bar:
        segment(predictor, frames, text, out, progress=lambda _: bar.update())
    print(f"overlay: {out}\nmasks: {masks_of(out)}")  # noqa: T201


def check_expressions(texts: Sequence[str]) -> None:
    """Refuse what cannot be looked for.

    Raises:
        ValueError: There is no expression, or one is empty or too long.
    """
    if not texts:
        raise ValueError('no expressions: say what to look for, as in --text "the dog on the left"')
    for text in texts:
        if not text.strip() or len(text) > LONGEST_TEXT:
            raise ValueError(
                f"expression {text[:40]!r}: must have 1 to {LONGEST_TEXT} characters that are not "
                "all blank"
            )


def segment(
    predictor: Predictor,
    frames: Frames,
    texts: Sequence[str],
    out: Path,
    *,
    progress: Callable[[int], Any] = lambda number: None,
    most_frames: int | None = None,
) -> list[list[float]]:
    """Segment a video and write the answers; everything appears at once, or nothing.

    Args:
        predictor: With a window, or the whole video is held in memory.
        frames: Of the video.
        texts: E expressions.
        out: Overlay file; the folder `masks_of(out)` takes the rest.
        progress: Called with the number of every finished frame.
        most_frames: Longer videos are refused.

    Returns:
        Scores, one list of E a frame.

    Raises:
        ValueError: The video is broken or too long, or the overlay's name does not fit or is taken.
    """
    wanted = {".png", ".mp4"} if frames.still else {".mp4"}
    if out.suffix.lower() not in wanted:
        raise ValueError(f"{out}: the overlay of this must end in {' or '.join(sorted(wanted))}")
    target = masks_of(out)
    if out.resolve() == frames.path.resolve() or (
        target.exists() and not (target / "masks.json").is_file()
    ):
        raise ValueError(f"{out} or {target} would replace what is not ours: choose another name")
    colours = colours_of(len(texts))
    scores: list[list[float]] = []
    with _whole(out) as (overlay, folder), _overlay_writer(overlay, frames) as show:
        places = [folder / f"{e:02d}" for e in range(len(texts))]
        for place in places:
            place.mkdir(parents=True)
        with (folder / "masks.json").open("w", encoding="utf-8") as record:
            head = {"size": frames.size, "expressions": list(texts)}
            record.write(json.dumps(head)[:-1] + ', "frames": [')
            for image, masks, told in _answers(predictor, frames, texts, most_frames):
                number = len(scores)
                codes = [encode_mask(mask) for mask in masks]
                entry = {"frame": number, **told, "segmentations": codes}
                record.write((",\n" if number else "\n") + json.dumps(entry))
                for place, mask in zip(places, masks, strict=True):
                    Image.fromarray(mask).save(place / f"{number:05d}.png")
                scores.append(told["scores"])
                legend = [f"{t}  {s:.2f}" for t, s in zip(texts, told["scores"], strict=True)]
                show(draw_legend(draw_masks(image, masks, colours), legend, colours))
                progress(number)
            record.write("\n]}\n")
    return scores


def masks_of(out: Path) -> Path:
    """Folder of the masks that belong to an overlay."""
    return out.with_name(f"{out.stem}_masks")


def _answers(
    predictor: Predictor, frames: Frames, texts: Sequence[str], most: int | None
) -> Iterator[tuple[Pixels, Any, dict[str, Any]]]:
    """Of each frame: its pixels, its masks [E, H, W], its scores and boxes."""
    held: deque[Tensor] = deque()

    def keep() -> Iterator[Tensor]:
        for number, frame in enumerate(frames.tensors()):
            if number == most:
                raise ValueError(f"{frames.path.name} is longer than {most} frames: cut it")
            held.append(frame)
            yield frame

    def told(window: Window, t: int) -> dict[str, Any]:
        boxes = window.boxes_xyxy_px[:, t]
        return {"scores": window.scores[:, t].tolist(), "boxes_xyxy": boxes.tolist()}

    for window in predictor.stream(keep(), texts):
        masks = window.masks().cpu().numpy()
        for t in range(masks.shape[1]):
            yield held.popleft().permute(1, 2, 0).numpy(), masks[:, t], told(window, t)


@contextmanager
def _overlay_writer(path: Path, frames: Frames) -> Iterator[Callable[[Pixels], None]]:
    if path.suffix == ".png":
        yield lambda image: Image.fromarray(image).save(path)
    else:
        with video_writer(path, frames.size, frames.rate) as show:
            yield show


@contextmanager
def _whole(out: Path) -> Iterator[tuple[Path, Path]]:
    """Places to write overlay and folder to, moved to their names once all is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as name:
        overlay, folder = Path(name) / f"overlay{out.suffix.lower()}", Path(name) / "masks"
        yield overlay, folder
        target = masks_of(out)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        overlay.replace(out)
