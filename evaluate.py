"""Predict every expression of a shard set, score the masks, draw the best and the worst.

    accelerate launch evaluate.py demo/run demo/shards/valid --out demo/evaluation
    python evaluate.py masks.zip data/valid --out runs/other-system

The data set of the shards decides how: Ref-DAVIS17 with merged objects, each annotator by itself;
A2D, JHMDB and RefCOCO by ranked queries of single frames; the others by clips. Writes to the output
folder `Annotations/<video>/<expression>/<frame>.png` (0 and 255; for Ref-DAVIS17
`Annotations/<annotator>/<video>/<frame>.png` with labels), `submission.zip`, `expressions.csv`,
`summary.json`, `summary.txt`, `table.md` and `sheet.png`. Started again, it goes on where it
stopped; any number of processes that share the folder gives the same table.
"""

import hashlib
import json
import math
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from accelerate import PartialState
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from sgmg.evaluation import metrics
from sgmg.evaluation.report import Row, inspection, write_report
from sgmg.inference.postprocess import Candidates, merge_objects, restore
from sgmg.inference.predictor import Predictor
from sgmg.masks.contact_sheet import contact_sheet
from sgmg.masks.overlay import draw_masks
from sgmg.masks.png_masks import TREE, Tree, open_tree, read_mask, write_mask, write_submission
from sgmg.network.model_folder import find_checkpoint
from shards import Expression, ShardError, ShardSet, Video, decode_mask

Masks = NDArray[np.bool_]
WHITE = [(255, 255, 255)]
VOID = "255"  # object of Ref-DAVIS17 whose pixels do not count
COUNTS = {("ref-davis17", "val"): (30, 244), ("ref-youtube-vos", "valid"): (202, 834)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Score a checkpoint, or masks of any system, on a shard set."""

    source: Annotated[Path, tyro.conf.Positional]
    """Model folder, checkpoint or run folder (its newest); or a folder or zip of PNG masks."""
    shards: Annotated[str, tyro.conf.Positional]
    """Shard set: folder or URL."""
    out: Path = Path("runs/evaluation")
    """Output folder."""
    short_side: int = 360
    """Frames are resized to this short side, pixels."""
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


def main() -> None:
    """Parse, evaluate, leave."""
    evaluate(tyro.cli(Settings, description=__doc__))
    PartialState().destroy_process_group()


def evaluate(settings: Settings) -> None:
    """Predict, score, report; every process must call it."""
    shard_set = ShardSet.open(settings.shards)
    check_complete(shard_set, settings)
    how = how_scored(shard_set.manifest.dataset)
    state = PartialState(cpu=settings.device == "cpu")
    predictor = load_predictor(settings, how, state.device)
    parts = claim(settings, shard_set, predictor)
    tree = open_tree(settings.out if predictor else settings.source)
    mine = range(state.process_index, len(shard_set), state.num_processes)
    for number in tqdm(mine, unit="video", disable=not state.is_main_process):
        part = parts / f"{shard_set.videos[number].key}.json"
        if part.is_file() and predictor:
            continue
        video = shard_set.video(number)
        ranked = predict(predictor, how, video, settings.out) if predictor else {}
        rows = [asdict(row) for row in score(how, video, tree, ranked)]
        unfinished = part.with_suffix(".partial")
        unfinished.write_text(json.dumps(rows), encoding="utf-8")
        unfinished.replace(part)
    state.wait_for_everyone()
    if state.is_main_process:
        report(settings, how, shard_set, parts, tree)
    state.wait_for_everyone()


def validate(
    checkpoint: Path, urls: Sequence[str], out: Path, short_side: int
) -> tuple[float, dict[str, float]]:
    """Score a checkpoint of a run on shard sets; every process must call it.

    What an earlier one left in `out/validation-N` is deleted.

    Returns:
        Mean over the sets of J&F, mAP or overall IoU; every score, by the set's place and name.
    """
    means: list[float] = []
    scores: dict[str, float] = {}
    state = PartialState()
    for number, url in enumerate(urls):
        folder = out / f"validation-{number}"
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()
        fixed: Any = {"allow_partial": True, "device": state.device.type, "out": folder}
        evaluate(Settings(source=checkpoint, shards=url, short_side=short_side, **fixed))
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        means.append(next(found[name] for name in ("J&F", "mAP", "overall_iou") if name in found))
        scores |= {f"validation {number} {name}": value for name, value in found.items()}
    return sum(means) / max(len(means), 1), scores


def how_scored(dataset: str) -> str:
    """`merged` objects, `ranked` queries, or `clips`."""
    if dataset.startswith(("a2d", "jhmdb", "refcoco")):
        return "ranked"
    return "merged" if dataset == "ref-davis17" else "clips"


def check_complete(shard_set: ShardSet, settings: Settings) -> None:
    """Refuse a part of a benchmark: its scores would pass for those of the whole."""
    manifest = shard_set.manifest
    found = (manifest.counts.videos, manifest.counts.expressions)
    published = COUNTS.get((manifest.dataset, manifest.split), found)
    if found != published and not settings.allow_partial:
        raise ValueError(
            f"{settings.shards} has {found[0]} videos and {found[1]} expressions, the benchmark "
            f"{published[0]} and {published[1]}: build it whole, or say --allow-partial"
        )


def load_predictor(settings: Settings, how: str, device: Any) -> Predictor | None:
    """The network, or None if the source is masks."""
    source = settings.source
    if source.is_file() or (source / TREE).is_dir() or any(source.glob("*/*/*.png")):
        return None
    return Predictor.load(
        find_checkpoint(source),
        device,
        short_side=settings.short_side,
        long_side=settings.long_side or {"ranked": 640}.get(how),
        window=settings.window or {"merged": 36}.get(how),
        pad_to=32 if how == "ranked" else 16,
    )


def claim(settings: Settings, shard_set: ShardSet, predictor: Predictor | None) -> Path:
    """Folder of finished videos; refused if it holds those of another evaluation."""
    told = {"shards": shard_set.hash, "source": str(settings.source)}
    if predictor:
        weights = (find_checkpoint(settings.source) / "model.safetensors").read_bytes()
        sizes = [predictor.short_side, predictor.long_side, predictor.window, predictor.pad_to]
        told |= {"source": hashlib.sha256(weights).hexdigest(), "sizes": str(sizes)}
    place, parts = settings.out / "evaluation.json", settings.out / "videos"
    if place.is_file() and json.loads(place.read_text(encoding="utf-8")) != told:
        raise ValueError(
            f"{settings.out} holds results of another checkpoint, shard set or size; delete it, or "
            "name another --out"
        )
    for folder in (parts, settings.out / TREE) if predictor else (parts,):
        folder.mkdir(parents=True, exist_ok=True)
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        place.write_text(json.dumps(told), encoding="utf-8")
    return parts


def frames_of(video: Video, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
    """Decoded frames, RGB, uint8 [3, H, W]."""
    for t in chosen:
        image = np.array(Image.open(BytesIO(video.frames[t].image)).convert("RGB"))
        yield torch.from_numpy(image).permute(2, 0, 1)


def predict(predictor: Predictor, how: str, video: Video, out: Path) -> dict[str, Candidates]:
    """Write the masks of a video; return the candidates where they are ranked, by mask name."""
    if how == "ranked":
        return dict(predict_ranked(predictor, video, out))
    texts = [expression.text for expression in video.expressions]
    frames = frames_of(video, range(len(video.frames)))
    for window in predictor.stream(frames, texts) if texts else ():
        names = [f"{frame.name}.png" for frame in video.frames[window.start :]]
        for folder, places in folders_of(video, how).items():
            logits = restore(window.mask_logits[places], window.size)
            if how == "merged":
                labels = merge_objects(logits.sigmoid())
            else:
                labels = (logits[0] > 0).to(torch.uint8) * 255
            for name, mask in zip(names, labels.cpu().numpy(), strict=False):
                write_mask(out, f"{folder}/{name}", mask)
    return {}


def folders_of(video: Video, how: str) -> dict[str, list[int]]:
    """Folders of a video's masks, and the places of the expressions in each.

    One expression a folder or, merged, one annotator, whose n-th expression has the label n.
    """
    folders = defaultdict(list)
    for place, it in enumerate(video.expressions):
        merged = f"{it.kind or 'unnamed'}/{video.video_id}"
        folders[merged if how == "merged" else f"{video.video_id}/{it.id}"].append(place)
    return dict(sorted(folders.items()))


def predict_ranked(
    predictor: Predictor, video: Video, out: Path
) -> Iterator[tuple[str, Candidates]]:
    """All queries of every expression in the annotated frames that show its object.

    As published, a frame of a video is seen amid five, and words are in lower case.
    """
    last = len(video.frames) - 1
    for t, frame in enumerate(video.frames):
        said = [it for it in video.expressions if set(it.objects) & set(frame.masks or ())]
        if not said:
            continue
        clip = [min(max(t + k, 0), last) for k in range(-2, 3)] if last else [0]
        texts = [" ".join(it.text.lower().split()) if last else it.text for it in said]
        frames = torch.stack(list(frames_of(video, clip)))
        found = predictor.rank(frames, texts, target_frame=clip.index(t))
        for expression, candidates in zip(said, found, strict=True):
            name = f"{video.video_id}/{expression.id}/{frame.name}.png"
            write_mask(out, name, candidates.masks[0].numpy().astype(np.uint8) * 255)
            yield name, candidates


def annotated_names(video: Video) -> list[str]:
    """File names of the masks of annotated frames."""
    return [f"{frame.name}.png" for frame in video.frames if frame.masks is not None]


def truth(video: Video, objects: Sequence[str]) -> Masks:
    """Union of objects in each annotated frame, [A, H, W]."""
    annotated = [frame.masks for frame in video.frames if frame.masks is not None]
    masks = np.zeros((len(annotated), video.height, video.width), bool)
    for mask, annotation in zip(masks, annotated, strict=True):
        for name in annotation.keys() & set(objects):
            mask |= decode_mask(annotation[name])
    return masks


def score(how: str, video: Video, tree: Tree, ranked: Mapping[str, Candidates]) -> list[Row]:
    """Rows of every expression that has ground truth."""
    if not annotated_names(video):
        return []
    if how == "ranked":
        return list(score_ranked(video, tree, ranked))
    return list((score_merged if how == "merged" else score_clips)(video, tree))


def row_of(video: Video, expression: Expression, target: Masks, **more: Any) -> Row:
    """A row, with the share of the frame that the object takes where it is to be seen."""
    areas = target.mean((1, 2))
    named: dict[str, Any] = {"expression": expression.id, "text": expression.text}
    named |= {"video": video.video_id, "kind": expression.kind}
    return Row(area=float(areas.sum() / max(np.count_nonzero(areas), 1)), **named | more)


def read_clip(tree: Tree, folder: str, video: Video) -> NDArray[np.uint8]:
    """Values of the masks of the annotated frames, [A, H, W]."""
    size = (video.height, video.width)
    names = (f"{folder}/{name}" for name in annotated_names(video))
    return np.stack([read_mask(tree, name, size)[0] for name in names])


def score_clips(video: Video, tree: Tree) -> Iterator[Row]:
    """J and F over the annotated frames; `control` against other referred objects of the video."""
    targets = {it.objects: truth(video, it.objects) for it in video.expressions if it.objects}

    def j_and_f(predicted: Masks, target: Masks) -> tuple[float, float]:
        j = metrics.region_similarity(predicted, target)
        return float(np.mean(j)), float(np.mean(metrics.contour_accuracy(predicted, target)))

    for it in (it for it in video.expressions if it.objects):
        folder = f"{video.video_id}/{it.id}"
        predicted = read_clip(tree, folder, video) > 0
        j, f = j_and_f(predicted, targets[it.objects])
        others = [target for them, target in targets.items() if not {*them} & {*it.objects}]
        control = np.mean([j_and_f(predicted, other) for other in others]) if others else np.nan
        scores = {"j": j, "f": f, "control": float(control)}
        yield row_of(video, it, targets[it.objects], folder=folder, scores=scores)


def score_merged(video: Video, tree: Tree) -> Iterator[Row]:
    """Each annotator by itself: labels matched to objects for the best J&F, as DAVIS does."""
    objects = [name for name in video.objects if name != VOID]
    targets = np.stack([truth(video, [name]) for name in objects])
    for number, (folder, places) in enumerate(folders_of(video, "merged").items()):
        kind, other = folder.partition("/")[0], f"anno_{number}/{video.video_id}"
        folder = other if (tree / other).is_dir() else folder  # as the published scripts name it
        labels = read_clip(tree, folder, video)
        count = labels.max(initial=1, where=labels < int(VOID))
        planes = np.stack([labels == k + 1 for k in range(count)])
        found = metrics.score_best_assignment(planes, targets, truth(video, [VOID]))
        for name, target, j, f in zip(objects, targets, *found, strict=True):
            said = {video.expressions[it].objects: k for k, it in enumerate(places)}
            label = said.get((name,), -1)
            it = video.expressions[places[label]] if label >= 0 else Expression("", "", (name,))
            scores = {"j": float(np.mean(j)), "f": float(np.mean(f))}
            for letter, values in (("J", j), ("F", f)):
                _, recall, decay = metrics.summarise(values)
                scores |= {f"{letter} recall": recall, f"{letter} decay": decay}
            rest = {"kind": kind, "folder": folder, "label": label + 1, "scores": scores}
            yield row_of(video, it, target, **rest)


def score_ranked(video: Video, tree: Tree, ranked: Mapping[str, Candidates]) -> Iterator[Row]:
    """Overlap of the best mask in every annotated frame that shows the object, and all masks."""
    for it in video.expressions:
        for target, name in zip(truth(video, it.objects), annotated_names(video), strict=True):
            if not target.any():
                continue
            folder = f"{video.video_id}/{it.id}"
            file, rest = f"{folder}/{name}", {"folder": folder, "frame": name[:-4]}
            if found := ranked.get(file):
                coded = metrics.RankedMasks.encode(found.masks, found.scores, target)
                left, top, width, height = coco_mask.toBbox(coded.truth).tolist()
                box = [left, top, left + width, top + height]
                boxes = {"boxes": found.boxes_xyxy_px.tolist(), "truth_box": box}
            else:
                mask = read_mask(tree, file, (video.height, video.width))[0] > 0
                coded, boxes = metrics.RankedMasks.encode(mask[None], [1.0], target), {}
            scores = dict(zip(("intersections", "unions"), coded.best_overlap(), strict=True))
            ranked_row = boxes | asdict(coded)
            yield row_of(video, it, target[None], **rest, scores=scores, ranked=ranked_row)


def report(settings: Settings, how: str, shard_set: ShardSet, parts: Path, tree: Tree) -> None:
    """Write submission, tables and sheet; print the table."""
    if how == "clips":
        expected = (
            (f"{row.video_id}/{it.id}/{name}.png", (row.height, row.width))
            for row in shard_set.videos
            for it in row.expressions
            for name in row.frame_names
        )
        count = write_submission(tree, expected, settings.out / "submission.zip")
        print(f"submission: {settings.out / 'submission.zip'}, {count} masks")
    files = [parts / f"{row.key}.json" for row in shard_set.videos]
    rows = [Row(**it) for file in files for it in json.loads(file.read_text(encoding="utf-8"))]
    if not rows:
        print(f"no ground truth: masks are in {tree}, there is nothing to score")
        return
    if count := settings.sheet:
        ranked = sorted(rows, key=lambda row: -row.quality)
        middle = max((len(ranked) - count) // 2, 0)
        some = {"best": ranked[:count], "median": ranked[middle:][:count], "worst": ranked[-count:]}
        videos = {row.video_id: number for number, row in enumerate(shard_set.videos)}
        chosen = [(sort, row) for sort, those in some.items() for row in those]
        drawn = [draw_row(shard_set.video(videos[it.video]), it, tree) for _, it in chosen]
        titles = [
            f"{s} {100 * it.quality:.1f}: {it.video}, {it.text} {it.kind}" for s, it in chosen
        ]
        contact_sheet(drawn, titles, notes=inspection(rows)).save(settings.out / "sheet.png")
        print(f"inspection: {settings.out / 'sheet.png'}")
    print("\n".join(write_report(settings.out, rows)))


def draw_row(video: Video, row: Row, tree: Tree) -> list[NDArray[np.uint8]]:
    """Up to six annotated frames with the mask of a row, the truth outlined in white."""
    annotated = [t for t, frame in enumerate(video.frames) if frame.masks is not None]
    objects = next((it.objects for it in video.expressions if it.id == row.expression), ())
    targets = dict(zip(annotated, truth(video, objects), strict=True))
    if row.frame:
        annotated = [t for t in annotated if video.frames[t].name == row.frame]
    chosen = annotated[:: math.ceil(len(annotated) / 6)]
    images = []
    for t, frame in zip(chosen, frames_of(video, chosen), strict=True):
        name = f"{row.folder}/{video.frames[t].name}.png"
        labels = read_mask(tree, name, (video.height, video.width))[0]
        mask = labels == row.label if row.label else labels > 0
        tinted = draw_masks(frame.permute(1, 2, 0).numpy(), mask[None])
        images.append(draw_masks(tinted, targets[t][None], WHITE, opacity=0))
    return images


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
