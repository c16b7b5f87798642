"""From scores of single expressions to the tables of a benchmark. Nothing here knows a data set."""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from sgmg.evaluation.ranked_metrics import average_precision, box_precision, overlap_summary
from sgmg.evaluation.scores import ExpressionScore

Groups = Mapping[str, Sequence[ExpressionScore]]

MAX_LISTED_VIDEOS = 60  # a table names each video up to so many
# upper limits of the classes in the inspection, and what a table calls them
LENGTH_CLASSES = (
    (4, "up to 4 words"),
    (8, "5 to 8 words"),
    (math.inf, "more than 8 words"),
)
AREA_CLASSES = (
    (0.02, "object below 2 % of the frame"),
    (0.1, "object 2 to 10 %"),
    (math.inf, "object above 10 %"),
)
MOTION_WORD = "motion word"
NO_MOTION_WORD = "no motion word"
MOTION = re.compile(
    r"\b((mov|walk|run|jump|turn|fly|rid|driv|climb|danc|fall|roll|rotat|spin|chas|follow|leav|com|"
    r"go|throw|juggl|swing|slid|crawl|swim|shak|approach|enter)\w?(s|es|ed|ing)|motion)\b",
    re.IGNORECASE,
)
# groups of kinds of the synthetic expressions that get a number of their own in the summary:
# what one frame can tell, and what only motion can
KIND_GROUPS = {
    "appearance+side": {"appearance", "side"},
    "motion": {"motion"},
}
CSV_FIELDS = ("video", "expression", "text", "kind", "frame", "area")


def averages(group: Sequence[ExpressionScore]) -> dict[str, float]:
    """Scores of a group, per cent, by the names that tables show; NaN counts for nothing."""
    columns = {name: np.array([score.scores[name] for score in group]) for name in group[0].scores}
    if "unions" in columns:
        summary = overlap_summary(columns["intersections"], columns["unions"])
        return {name: 100 * value for name, value in summary.items()}
    means = {}
    for name, values in columns.items():
        # nanmean of nothing but NaN would warn
        means[name] = float("nan") if np.isnan(values).all() else 100 * float(np.nanmean(values))
    j = means.pop("j")
    f = means.pop("f")
    return {"J": j, "F": f, "J&F": (j + f) / 2, **means}


def summarise(scores: Sequence[ExpressionScore]) -> dict[str, float]:
    """The benchmark's numbers, per cent; `appearance+side` and `motion` where kinds are these."""
    ranked_masks = [score.ranked_masks for score in scores if score.ranked_masks is not None]
    if ranked_masks:
        precision = average_precision(ranked_masks) | _box_precision(scores)
        # pycocotools gives -1 for sizes that no object has
        known = {name: 100 * value for name, value in precision.items() if value >= 0}
        return known | averages(scores)

    summary = averages(scores)
    # a table calls the column by its role, the summary by what was done
    summary["shuffled"] = summary.pop("control", float("nan"))
    for name, kinds in KIND_GROUPS.items():
        group = [score for score in scores if score.kind in kinds]
        if group:
            summary[name] = averages(group)["J&F"]
    return summary


def _box_precision(scores: Sequence[ExpressionScore]) -> dict[str, float]:
    """Precision of the candidates' boxes; nothing where one expression has no boxes."""
    boxes = []
    box_scores = []
    truths = []
    for score in scores:
        if score.ranked_boxes is None or score.ranked_masks is None:
            return {}
        boxes.append(score.ranked_boxes.candidates_xyxy_px)
        box_scores.append(score.ranked_masks.scores)
        truths.append(score.ranked_boxes.truth_xyxy_px)
    return box_precision(torch.tensor(boxes), torch.tensor(box_scores), torch.tensor(truths))


def table(scores: Sequence[ExpressionScore]) -> list[str]:
    """Markdown lines: each video if they are few, each kind, all."""
    videos = defaultdict(list)
    kinds = defaultdict(list)
    for score in scores:
        videos[score.video].append(score)
        if score.kind:
            kinds[f"kind {score.kind}"].append(score)
    groups: dict[str, Sequence[ExpressionScore]] = {}
    if len(videos) <= MAX_LISTED_VIDEOS:
        groups |= videos
    groups |= kinds
    groups["all"] = scores
    return _tabulate(groups)


def inspection(scores: Sequence[ExpressionScore]) -> list[str]:
    """The same by length of the expression, size of the object and presence of motion words."""
    classes = [name for _, name in (*LENGTH_CLASSES, *AREA_CLASSES)]
    groups: dict[str, list[ExpressionScore]] = {
        name: [] for name in (*classes, MOTION_WORD, NO_MOTION_WORD)
    }
    for score in scores:
        num_words = len(score.text.split())
        groups[_class_of(num_words, LENGTH_CLASSES)].append(score)
        groups[_class_of(score.area, AREA_CLASSES)].append(score)
        motion = MOTION_WORD if MOTION.search(score.text) else NO_MOTION_WORD
        groups[motion].append(score)
    return _tabulate({name: group for name, group in groups.items() if group})


def _class_of(value: float, classes: Sequence[tuple[float, str]]) -> str:
    """Name of the first class whose upper limit is not exceeded; the last has no limit."""
    return next(name for limit, name in classes if value <= limit)


def _tabulate(groups: Groups) -> list[str]:
    """A Markdown table with a row a group: its size and its scores, columns aligned."""
    means = {name: averages(group) for name, group in groups.items()}
    columns = next(iter(means.values()))
    rows = [["", "expressions", *columns]]
    for name, values in means.items():
        numbers = [f"{value:.1f}" for value in values.values()]
        rows.append([name, str(len(groups[name])), *numbers])

    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0]]
    rule += ["-" * (width - 1) + ":" for width in widths[1:]]  # the colon aligns to the right
    rows.insert(1, rule)
    lines = []
    for head, *cells in rows:
        padded = [head.ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    return lines


def write_report(out: Path, scores: Sequence[ExpressionScore]) -> list[str]:
    """Write `expressions.csv`, `summary.json`, `summary.txt` and `table.md`.

    Args:
        out: Folder.
        scores: At least one.

    Returns:
        Lines for the terminal; the last is the summary.
    """
    with (out / "expressions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*CSV_FIELDS, *scores[0].scores])
        writer.writeheader()
        for score in scores:
            fields = {name: getattr(score, name) for name in CSV_FIELDS}
            writer.writerow(fields | dict(score.scores))

    summary = summarise(scores)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")

    # one line: J&F stands for J and F
    numbers = [f"{name} {value:.1f}" for name, value in summary.items() if name not in {"J", "F"}]
    summary_line = " ".join(numbers)
    (out / "summary.txt").write_text(summary_line + "\n")

    lines = table(scores)
    page = [*lines, "", *inspection(scores), "", summary_line]
    (out / "table.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    return [*lines, summary_line]
