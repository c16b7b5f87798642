"""`python -m sgmg predict`: a video and expressions in; overlay video, masks and codes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tqdm import tqdm

from sgmg.inference.predictor import Predictor
from sgmg.inference.segment_video import segment_video
from sgmg.inference.video_io import open_frames

MAX_EXPRESSION_CHARACTERS = 300
DEMO = Path("demo/run")
NO_CHECKPOINT = (
    "name a checkpoint with --checkpoint: `make demo` trains a small one into demo/run, train.py "
    "larger ones; `python -m sgmg convert` makes one of the authors' weights; or name a Hugging "
    "Face repository"
)


def predict(
    source: tyro.conf.Positional[Path],
    /,
    expressions: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="text")
    ] = (),
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
        expressions: what to look for; repeat the flag for several expressions.
        checkpoint: model folder, run folder of train.py, or Hugging Face repository.
        out: overlay to write; a single image becomes .png.
        window: frames looked at together; memory grows with it. None: the whole video.
        continuity: how much a window holds on to the object of the one before; 0 as published.
        short_side: frames are resized to this short side, in pixels.
        device: where the network runs.
    """
    frames = open_frames(source)
    check_expressions(expressions)
    if checkpoint is None:
        advice = f"; {DEMO} is there: --checkpoint {DEMO}" if DEMO.is_dir() else ""
        raise ValueError(NO_CHECKPOINT + advice)
    predictor = Predictor.load(
        checkpoint,
        device,
        short_side=short_side,
        window=window,
        continuity=continuity,
    )
    # The bar needs no total where the file does not tell how many frames it has.
    with tqdm(total=frames.num_frames or None, unit="frame") as bar:
        video = segment_video(
            predictor,
            frames,
            expressions,
            out,
            progress=lambda _: bar.update(),
        )
    print(f"overlay: {video.overlay}\nmasks: {video.masks}")  # noqa: T201


def check_expressions(expressions: Sequence[str]) -> None:
    """Refuse what cannot be looked for.

    Raises:
        ValueError: There is no expression, or one is empty or too long.
    """
    if not expressions:
        raise ValueError('no expressions: say what to look for, as in --text "the dog on the left"')
    for expression in expressions:
        if not expression.strip() or len(expression) > MAX_EXPRESSION_CHARACTERS:
            raise ValueError(
                f"expression {expression[:40]!r}: give 1 to {MAX_EXPRESSION_CHARACTERS} characters"
            )
