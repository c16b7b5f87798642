"""Predict every expression of a shard set, score the masks, draw the best and the worst.

    accelerate launch evaluate.py demo/run demo/shards/valid --out demo/evaluation
    python evaluate.py masks.zip data/valid --masks --out runs/other-system

The data set of the shards decides how, see `sgmg/evaluation/benchmarks.py`: Ref-DAVIS17 with merged
objects, each annotator by itself; A2D, JHMDB and RefCOCO by ranked queries of single frames; the
others by clips. Writes to the output folder `Annotations/<video>/<expression>/<frame>.png` (0 and
255; for Ref-DAVIS17 `Annotations/<annotator>/<video>/<frame>.png` with labels), `submission.zip`,
`expressions.csv`, `summary.json`, `summary.txt`, `table.md` and `sheet.png`. Started again, it goes
on where it stopped; any number of processes that share the folder gives the same table.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sgmg.evaluation.benchmarks import (
    NO_CANDIDATES,
    Benchmark,
    Sizes,
    SplitSize,
    find_benchmark,
)
from sgmg.evaluation.report import write_report
from sgmg.evaluation.scores import ExpressionScore
from sgmg.evaluation.sheet import evaluation_sheet
from sgmg.evaluation.video import Masks
from sgmg.inference.predictor import Predictor
from sgmg.masks.png_masks import ANNOTATIONS, MaskFolder, write_submission
from sgmg.network.model_folder import find_checkpoint
from shards import Expression, Frame, ShardError, ShardSet, Video, decode_mask

# ------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Score a checkpoint, or masks of any system, on a shard set."""

    source: Annotated[Path, tyro.conf.Positional]
    """Model folder, checkpoint or run folder (its newest); with --masks a folder or zip of PNGs."""
    shards: Annotated[str, tyro.conf.Positional]
    """Shard set: folder or URL."""
    masks: bool = False
    """Score masks that any system has written, instead of a checkpoint."""
    out: Path = Path("runs/evaluation")
    """Output folder."""
    short_side: int | None = None
    """Frames are resized to this short side, pixels; by default 360, as published."""
    long_side: int | None = None
    """Most pixels of the long side, at the cost of the short one; 640 where queries are ranked."""
    window: int | None = None
    """Frames seen at once; by default 36 for Ref-DAVIS17, as published, else whole videos."""
    sheet: int = 4
    """Expressions of each sort on the sheet: best, median, worst; 0 for none."""
    allow_partial: bool = False
    """Score another number of videos than the benchmark has."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""


# ----------------------------------------------------------------------------------- evaluation


def main() -> None:
    """Parse, evaluate, leave."""
    evaluate(tyro.cli(Settings, description=__doc__))
    PartialState().destroy_process_group()


def evaluate(settings: Settings) -> Benchmark:
    """Predict, score, report; every process must call it.

    Returns:
        The benchmark of the data set.

    Raises:
        ShardError: The shard set is missing, half-built or damaged.
        ValueError: The set is a part of its benchmark, the checkpoint or masks do not fit, or the
            output folder holds another evaluation.
    """
    shard_set = ShardSet.open(settings.shards)
    benchmark = find_benchmark(shard_set.manifest.dataset)
    if not settings.allow_partial:
        refuse_partial(shard_set, benchmark)
    state = PartialState(cpu=settings.device == "cpu")
    predictor = None
    masks = MaskFolder(settings.out / ANNOTATIONS)
    if settings.masks:
        masks = MaskFolder.open(settings.source)
    else:
        predictor = load_predictor(settings, benchmark.sizes, state.device)
    finished_videos = reserve_output(settings.out, fingerprint(settings, shard_set, predictor))

    # process r of R takes the videos r, r + R, r + 2R, ...
    indices = range(state.process_index, len(shard_set), state.num_processes)
    for index in tqdm(indices, unit="video", disable=not state.is_main_process):
        score_file = finished_videos / f"{shard_set.videos[index].key}.json"
        # masks of another system may have changed since: they are always read again
        if predictor is not None and score_file.is_file():
            continue
        video = ShardVideo.of(shard_set.video(index))
        candidates = NO_CANDIDATES
        if predictor is not None:
            candidates = benchmark.predict(predictor, video, masks)
        scores = list(benchmark.score(video, masks, candidates))
        write_scores(score_file, scores)

    state.wait_for_everyone()
    if state.is_main_process:
        report(settings, benchmark, shard_set, masks, finished_videos)
    state.wait_for_everyone()  # what the main process has written can be read now
    return benchmark


def validate(
    checkpoint: Path, urls: Sequence[str], out: Path, short_side: int
) -> tuple[float, dict[str, float]]:
    """Score a checkpoint of a run on shard sets; every process must call it.

    What an earlier one left in `out/validation-N` is deleted.

    Args:
        checkpoint: Folder of it.
        urls: Of the shard sets.
        out: Run folder.
        short_side: Frames are resized to this short side, pixels.

    Returns:
        Mean over the sets of the benchmark's headline number, 0 without sets; every score, by the
        set's index and the score's name.

    Raises:
        ValueError: A set has no ground truth, or as in `evaluate`.
    """
    headlines: list[float] = []
    scores: dict[str, float] = {}
    state = PartialState()
    for index, url in enumerate(urls):
        folder = out / f"validation-{index}"
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()  # nobody reads what is being deleted
        benchmark = evaluate(
            Settings(
                source=checkpoint,
                shards=url,
                out=folder,
                short_side=short_side,
                allow_partial=True,
                device=state.device.type,
            )
        )
        summary_file = folder / "summary.json"
        if not summary_file.is_file():
            raise ValueError(f"{url} has no ground truth: name another set to validate on")
        summary: dict[str, float] = json.loads(summary_file.read_text(encoding="utf-8"))
        headlines.append(summary[benchmark.headline])
        for name, value in summary.items():
            scores[f"validation {index} {name}"] = value
    return sum(headlines) / max(len(headlines), 1), scores


def refuse_partial(shard_set: ShardSet, benchmark: Benchmark) -> None:
    """Refuse a part of a benchmark: its scores would pass for those of the whole.

    Raises:
        ValueError: The set has not the published number of videos and expressions, or its builder
            left videos out.
    """
    manifest = shard_set.manifest
    size = SplitSize(manifest.counts.videos, manifest.counts.expressions)
    advice = "build it whole, or say --allow-partial"
    # sets that were built before builders recorded it have no entry "partial"
    published = benchmark.published.get(manifest.split, size)
    if size != published:
        raise ValueError(
            f"{shard_set.storage} has {size.videos} videos and {size.expressions} expressions, the "
            f"benchmark {published.videos} and {published.expressions}: {advice}"
        )
    if manifest.settings.get("partial"):
        raise ValueError(
            f"{shard_set.storage} has {size.videos} videos and {size.expressions} expressions, "
            f"other numbers than are published for {manifest.dataset} {manifest.split}: {advice}"
        )
    if manifest.skipped:
        raise ValueError(
            f"{shard_set.storage} left out {len(manifest.skipped)} videos when it was built, such "
            f"as {manifest.skipped[0].key}: {advice}"
        )


def load_predictor(settings: Settings, sizes: Sizes, device: torch.device) -> Predictor:
    """Load the network, to see videos in the benchmark's sizes unless settings say otherwise.

    Raises:
        ValueError: There is no checkpoint, it is broken, or a size is below 1.
    """
    if settings.short_side is not None:
        sizes = replace(sizes, short_side=settings.short_side)
    if settings.long_side is not None:
        sizes = replace(sizes, long_side=settings.long_side)
    if settings.window is not None:
        sizes = replace(sizes, window=settings.window)
    try:
        checkpoint = find_checkpoint(settings.source)
    except ValueError as error:
        raise ValueError(f"{error}; masks of another system need --masks") from None
    return Predictor.load(
        checkpoint,
        device,
        short_side=sizes.short_side,
        long_side=sizes.long_side,
        window=sizes.window,
        pad_to=sizes.pad_to,
    )


# ----------------------------------------------------------------- from shards to a benchmark


@dataclass(frozen=True)
class ShardVideo:
    """A video of a shard set as a benchmark sees it: an `EvaluationVideo`."""

    video_id: str
    height: int
    width: int
    expressions: Sequence[Expression]
    frame_names: Sequence[str]
    annotated: Sequence[bool]
    shard_frames: Sequence[Frame]

    @classmethod
    def of(cls, video: Video) -> "ShardVideo":
        """Show a video to a benchmark."""
        return cls(
            video_id=video.video_id,
            height=video.height,
            width=video.width,
            expressions=video.expressions,
            frame_names=[frame.name for frame in video.frames],
            annotated=[frame.masks is not None for frame in video.frames],
            shard_frames=video.frames,
        )

    def frames(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Decode frames, RGB, uint8 [3, H, W] each."""
        for index in indices:
            image = Image.open(BytesIO(self.shard_frames[index].image)).convert("RGB")
            yield torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def visible_objects(self, index: int) -> Collection[str]:
        """Ids of the objects that have a mask in a frame; an absent object has none."""
        return set(self.shard_frames[index].masks or ())

    def truth(self, objects: Collection[str]) -> Masks:
        """Union of the masks of objects in each annotated frame, [A, H, W]."""
        masks_of_frame = [frame.masks for frame in self.shard_frames if frame.masks is not None]
        truth = np.zeros((len(masks_of_frame), self.height, self.width), bool)
        for union, masks in zip(truth, masks_of_frame, strict=True):
            for name in masks.keys() & set(objects):
                union |= decode_mask(masks[name])
        return truth


# ---------------------------------------------------------------------- resuming an evaluation


def fingerprint(
    settings: Settings, shard_set: ShardSet, predictor: Predictor | None
) -> dict[str, str]:
    """What the results depend on: shards, and weights and sizes, or the place of the masks."""
    if predictor is None:
        return {"shards": shard_set.hash, "source": str(settings.source)}
    # the bytes, not the path: a run folder stands for its newest checkpoint, which may change
    weights = (find_checkpoint(settings.source) / "model.safetensors").read_bytes()
    sizes = [
        predictor.short_side,
        predictor.long_side,
        predictor.window,
        predictor.pad_to,
    ]
    return {
        "shards": shard_set.hash,
        "source": hashlib.sha256(weights).hexdigest(),
        "sizes": str(sizes),
    }


def reserve_output(out: Path, evaluation: dict[str, str]) -> Path:
    """Make the output folder, marked with what its results depend on.

    Args:
        out: Folder.
        evaluation: Its `fingerprint`.

    Returns:
        Folder for the scores of finished videos.

    Raises:
        ValueError: The folder holds results of another evaluation.
    """
    fingerprint_file = out / "evaluation.json"
    if fingerprint_file.is_file():
        recorded = json.loads(fingerprint_file.read_text(encoding="utf-8"))
        if recorded != evaluation:
            raise ValueError(
                f"{out} holds results of another checkpoint, shard set or size; delete it, or "
                "name another --out"
            )
    finished_videos = out / "videos"
    finished_videos.mkdir(parents=True, exist_ok=True)
    # no process writes before all have compared
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        fingerprint_file.write_text(json.dumps(evaluation), encoding="utf-8")
    return finished_videos


def write_scores(path: Path, scores: Sequence[ExpressionScore]) -> None:
    """Write the scores of a video; the file appears only once it is complete."""
    unfinished = path.with_suffix(".partial")
    content = [score.to_json() for score in scores]
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def read_scores(path: Path) -> list[ExpressionScore]:
    """Invert `write_scores`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [ExpressionScore.from_json(score) for score in content]


# --------------------------------------------------------------------------------------- report


def report(
    settings: Settings,
    benchmark: Benchmark,
    shard_set: ShardSet,
    masks: MaskFolder,
    finished_videos: Path,
) -> None:
    """Write submission, tables and sheet; print the table."""
    expected = benchmark.submission(shard_set.videos)
    if expected is not None:
        submission = settings.out / "submission.zip"
        count = write_submission(masks, expected, submission)
        print(f"submission: {submission}, {count} masks")

    scores: list[ExpressionScore] = []
    for row in shard_set.videos:
        scores += read_scores(finished_videos / f"{row.key}.json")
    if not scores:
        print(f"no ground truth: masks are in {masks.root}, there is nothing to score")
        return

    if settings.sheet > 0:
        index_of = {row.video_id: index for index, row in enumerate(shard_set.videos)}

        def open_video(video_id: str) -> ShardVideo:
            return ShardVideo.of(shard_set.video(index_of[video_id]))

        path = settings.out / "sheet.png"
        evaluation_sheet(scores, masks, open_video, settings.sheet).save(path)
        print(f"inspection: {path}")
    print("\n".join(write_report(settings.out, scores)))


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
