"""Predict every expression of a shard set, score the masks, draw them.

    python evaluate.py demo/run demo/shards/valid --out demo/evaluation

Writes to the output folder: `Annotations/<video>/<expression>/<frame>.png` (0 and 255, the form of
the benchmarks' servers), `expressions.csv`, `summary.json`, `summary.txt` and `sheet.png`.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sgmg import SgMg
from sgmg.metrics import contour_accuracy, region_similarity
from sgmg.overlay import PALETTE, draw_masks, sheet
from sgmg.predictor import Predictor
from sgmg.resume import find_checkpoint
from shards import Expression, ShardError, ShardSet, Video, decode_mask

Masks = NDArray[np.bool_]
Drawing = list[tuple[str, list[NDArray[np.uint8]]]]  # label and images of each row


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Score a checkpoint on a shard set."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Model folder, checkpoint or run folder (its newest checkpoint)."""
    shards: Annotated[str, tyro.conf.Positional]
    """Shard set: folder or URL."""
    out: Path = Path("runs/evaluation")
    """Output folder."""
    short_side: int = 360
    """Frames are resized to this short side, pixels."""
    long_side: int | None = None
    """Most pixels of the long side, at the cost of the short one."""
    window: int | None = None
    """Frames seen at once (Ref-DAVIS17: 36); whole videos by default."""
    sheet_videos: int = 6
    """Videos on the contact sheet; 0 for none."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""


@dataclass(frozen=True)
class Row:
    """Scores of one expression, means over its annotated frames."""

    video: str
    expression: str
    text: str
    kind: str
    j: float
    f: float
    control: float
    """J&F of the same masks against other referred objects of the video; NaN if it has none."""

    @property
    def jf(self) -> float:
        """Mean of J and F."""
        return (self.j + self.f) / 2


def main() -> None:
    """Predict, score, report."""
    settings = tyro.cli(Settings, description=__doc__)
    shard_set = ShardSet.open(settings.shards)
    model = SgMg.from_pretrained(find_checkpoint(settings.checkpoint)).eval()
    predictor = Predictor(
        model.to(settings.device),
        short_side=settings.short_side,
        long_side=settings.long_side,
        window=settings.window,
    )
    rows: list[Row] = []
    drawings: Drawing = []
    videos = tqdm(shard_set.sequential(), total=len(shard_set), unit="video")
    for count, video in enumerate(videos):
        frames = decode_frames(video)
        texts = [expression.text for expression in video.expressions]
        masks = predictor.predict(torch.from_numpy(frames).permute(0, 3, 1, 2), texts).masks.numpy()
        write_masks(settings.out, video, masks)
        rows += score_video(video, masks)
        if count < settings.sheet_videos:
            drawings += draw_video(video, frames, masks)
    report(settings.out, rows, drawings)


def decode_frames(video: Video) -> NDArray[np.uint8]:
    """All frames of a video, RGB, [T, H, W, 3]."""
    return np.stack([np.asarray(Image.open(BytesIO(f.image)).convert("RGB")) for f in video.frames])


def truth(video: Video, expression: Expression) -> tuple[list[int], Masks]:
    """Annotated frames and the union of the expression's objects in each, [A, H, W]."""
    frames = [t for t, frame in enumerate(video.frames) if frame.masks is not None]
    masks = np.zeros((len(frames), video.height, video.width), bool)
    for row, t in enumerate(frames):
        annotation = video.frames[t].masks or {}
        for name in expression.objects:
            if name in annotation:
                masks[row] |= decode_mask(annotation[name])
    return frames, masks


def j_and_f(predicted: Masks, target: Masks) -> tuple[float, float]:
    """Mean region similarity and contour accuracy over the frames of [T, H, W]."""
    j, f = region_similarity(predicted, target), contour_accuracy(predicted, target)
    return float(np.mean(j)), float(np.mean(f))


def score_video(video: Video, masks: Masks) -> Iterator[Row]:
    """Score every expression that has ground truth, masks [E, T, H, W]."""
    targets = {}
    for expression in video.expressions:
        frames, target = truth(video, expression)
        targets[expression.objects] = target
    for expression, predicted in zip(video.expressions, masks[:, frames], strict=True):
        if not expression.objects:
            continue
        j, f = j_and_f(predicted, targets[expression.objects])
        others = [t for objects, t in targets.items() if not {*objects} & {*expression.objects}]
        control = np.mean([j_and_f(predicted, t) for t in others]) if others else np.nan
        yield Row(
            video=video.video_id,
            expression=expression.id,
            text=expression.text,
            kind=expression.kind,
            j=j,
            f=f,
            control=float(control),
        )


def write_masks(out: Path, video: Video, masks: Masks) -> None:
    """The PNG tree of the benchmark, one file a frame and expression."""
    for expression, clip in zip(video.expressions, masks, strict=True):
        folder = out / "Annotations" / video.video_id / expression.id
        folder.mkdir(parents=True, exist_ok=True)
        for frame, mask in zip(video.frames, clip, strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{frame.name}.png")


def draw_video(video: Video, frames: NDArray[np.uint8], masks: Masks, columns: int = 6) -> Drawing:
    """For each expression, up to `columns` frames with its mask and, outlined, the ground truth."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(int))
    drawing = []
    for e, expression in enumerate(video.expressions):
        colour = PALETTE[e % len(PALETTE)]
        images = [draw_masks(frames[t], masks[e, t][None], [colour]) for t in chosen]
        drawing.append((f"{video.video_id}: {expression.text}", images))
    return drawing


def mean(rows: Iterable[Row], name: str) -> float:
    """Mean of one score over expressions, per cent; expressions without it do not count."""
    values = np.array([getattr(row, name) for row in rows], float)
    values = values[~np.isnan(values)]
    return float(100 * values.mean()) if len(values) else float("nan")


def table(rows: list[Row]) -> list[str]:
    """Lines of the table: each video, each kind of expression, and all."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.video].append(row)
    for row in rows:
        if row.kind:
            groups[f"kind {row.kind}"].append(row)
    groups["all"] = rows
    width = max(map(len, groups))
    lines = [f"{'':{width}}  expressions     J     F   J&F  control"]
    for name, group in groups.items():
        j, f, jf, control = (mean(group, score) for score in ("j", "f", "jf", "control"))
        lines.append(
            f"{name:{width}}  {len(group):11d} {j:5.1f} {f:5.1f} {jf:5.1f}    {control:5.1f}"
        )
    return lines


def summarise(rows: list[Row]) -> dict[str, float]:
    """Overall scores, per cent; `appearance+side` and `motion` where expressions say their kind."""
    still = [row for row in rows if row.kind in {"appearance", "side"}]
    moving = [row for row in rows if row.kind == "motion"]
    scores = {"J": mean(rows, "j"), "F": mean(rows, "f"), "J&F": mean(rows, "jf")}
    scores["shuffled"] = mean(rows, "control")
    if still:
        scores["appearance+side"] = mean(still, "jf")
    if moving:
        scores["motion"] = mean(moving, "jf")
    return scores


def report(out: Path, rows: list[Row], drawings: Drawing) -> None:
    """Print the table; write it, the scores and the sheet."""
    if drawings:
        labels, images = zip(*drawings, strict=True)
        sheet(images, labels).save(out / "sheet.png")
        print(f"overlays: {out / 'sheet.png'}")
    if not rows:
        print(f"no ground truth: masks are in {out / 'Annotations'}, there is nothing to score")
        return
    with (out / "expressions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    scores = summarise(rows)
    (out / "summary.json").write_text(json.dumps(scores, indent=1) + "\n")
    shown = [name for name in scores if name not in {"J", "F"}]
    summary = " ".join(f"{name} {scores[name]:.1f}" for name in shown)
    (out / "summary.txt").write_text(summary + "\n")
    print("\n".join(table(rows)))
    print(summary)


def stop(reason: str) -> NoReturn:
    """Leave with one line that says what is wrong and what to do."""
    sys.exit(f"evaluate.py: {reason}")


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, OSError) as error:
        stop(str(error))
