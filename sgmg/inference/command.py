"""`python -m sgmg predict`: a video and expressions in; overlay video, masks and codes out."""

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import Frames, open_frames, video_writer
from sgmg.masks.overlay import PALETTE, draw_legend, draw_masks
from sgmg.masks.rle import encode_mask

LONGEST_TEXT = 300  # characters of an expression
DEMO = Path("demo/run")
WHERE = (
    "name a checkpoint with --checkpoint: `make demo` trains a small one into demo/run, train.py "
    "larger ones; `python -m sgmg convert` makes one of the authors' weights; or name a Hugging "
    "Face repository"
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
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Segment what expressions name in a video, an image or a folder of frames.

    Writes the overlay, and beside it the folder <name>_masks with masks.json (COCO run-length
    codes, scores and boxes, a line a frame) and a PNG mask a frame and expression.

    Args:
        source: any file PyAV reads, an image, or a folder of images.
        text: what to look for; repeat the flag for several expressions.
        checkpoint: model folder, run folder of train.py, or Hugging Face repository.
        out: overlay to write; a single image becomes .png.
        window: frames looked at together; memory grows with it. None: the whole video.
        continuity: how much a window holds on to the object of the one before; 0 as published.
        short_side: frames are resized to this short side, in pixels.
        device: where the network runs.
    """
    frames = open_frames(source)
    check_expressions(text)
    if checkpoint is None:
        raise ValueError(WHERE + f"; {DEMO} is there: --checkpoint {DEMO}" * DEMO.is_dir())
    predictor = Predictor.load(
        checkpoint,
        device,
        short_side=short_side,
        window=window,
        continuity=continuity,
    )
    with tqdm(total=frames.count or None, unit="frame") as bar:
        overlay = segment(predictor, frames, text, out, progress=lambda _: bar.update())[0]
    print(f"overlay: {overlay}\nmasks: {masks_of(overlay)}")  # noqa: T201


def check_expressions(texts: Sequence[str]) -> None:
    """Refuse what cannot be looked for.

    Raises:
        ValueError: There is no expression, or one is empty or too long.
    """
    if not texts:
        raise ValueError('no expressions: say what to look for, as in --text "the dog on the left"')
    for text in texts:
        if not text.strip() or len(text) > LONGEST_TEXT:
            raise ValueError(f"expression {text[:40]!r}: give 1 to {LONGEST_TEXT} characters")


def masks_of(overlay: Path) -> Path:
    """Folder of the masks that belong to an overlay."""
    return overlay.with_name(f"{overlay.stem}_masks")


def segment(
    predictor: Predictor,
    frames: Frames,
    texts: Sequence[str],
    out: Path,
    *,
    progress: Callable[[int], Any] = lambda number: None,
    most_frames: int | None = None,
) -> tuple[Path, list[list[float]]]:
    """Segment a video and write the answers; everything appears at once, or nothing.

    Args:
        predictor: With a window, or the whole video is held in memory.
        frames: Of the video.
        texts: E expressions.
        out: Overlay file; the folder `masks_of(out)` takes the rest.
        progress: Called with the number of every finished frame.
        most_frames: Longer videos are refused.

    Returns:
        Overlay file, and scores, one list of E a frame.

    Raises:
        ValueError: The video is broken or too long, or the overlay's name is taken.
    """
    out = out.with_suffix(".png" if frames.images == (frames.path,) else ".mp4")
    target, scores = masks_of(out), []
    ours = not target.exists() or (target / "masks.json").is_file()
    if not ours or out.resolve() == frames.path.resolve():
        raise ValueError(f"{out} or {target} would replace what is not ours: choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as name:
        overlay, folder = Path(name) / out.name, Path(name) / "masks"
        for e in range(len(texts)):
            (folder / f"{e:02d}").mkdir(parents=True)
        with video_writer(overlay, frames.rate) as show, (folder / "masks.json").open("w") as codes:
            codes.write(json.dumps({"expressions": list(texts)})[:-1] + ', "frames": [')
            answers = _answers(predictor, frames, texts, most_frames)
            for number, (image, masks, told) in enumerate(answers):
                entry = {"frame": number, **told, "segmentations": [*map(encode_mask, masks)]}
                codes.write((",\n" if number else "\n") + json.dumps(entry))
                for e, mask in enumerate(masks):
                    Image.fromarray(mask).save(folder / f"{e:02d}/{number:05d}.png")
                scores.append(told["scores"])
                legend = [f"{t}  {s:.2f}" for t, s in zip(texts, told["scores"], strict=True)]
                show(draw_legend(draw_masks(image, masks), legend, PALETTE))
                progress(number)
            codes.write("\n]}\n")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        overlay.replace(out)
    return out, scores


def _answers(
    predictor: Predictor, frames: Frames, texts: Sequence[str], most: int | None
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Of each frame: pixels [H, W, 3], masks [E, H, W], and its scores and boxes."""
    held: deque[Tensor] = deque()

    def keep() -> Iterator[Tensor]:
        for number, frame in enumerate(frames.tensors()):
            if number == most:
                raise ValueError(f"{frames.path.name} is longer than {most} frames: cut it")
            held.append(frame)
            yield frame

    for window in predictor.stream(keep(), texts):
        for t, masks in enumerate(window.masks().cpu().numpy().swapaxes(0, 1)):
            told = {"scores": window.scores[:, t], "boxes_xyxy": window.boxes_xyxy_px[:, t]}
            lists = {name: values.tolist() for name, values in told.items()}
            yield held.popleft().permute(1, 2, 0).numpy(), masks, lists
