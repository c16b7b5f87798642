"""What a set holds, in numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.commands.arguments import Url
from shards.commands.table import format_table
from shards.format.manifest import Manifest
from shards.format.shard_set import ShardSet

QUANTILES = (0, 0.25, 0.5, 0.75, 1)
NUM_LISTED = 12  # of the words, kinds and sizes that are counted
MAX_BARS = 41  # of a histogram

Samples = npt.NDArray[np.int64]


def stats(url: Url, plot: Path | None = None) -> str:
    """Count what a set holds.

    Args:
        url: Folder or URL of the set.
        plot: Draw lengths and words as histograms into this PNG.
    """
    shard_set = ShardSet.open(url)
    manifest = shard_set.manifest
    words = Counter[str]()
    kinds = Counter[str]()
    sizes = Counter[str]()
    words_per_expression = []
    for row in shard_set.videos:
        sizes[f"{row.height} x {row.width}"] += 1
        for expression in row.expressions:
            spoken = expression.text.lower().split()
            words.update(spoken)
            words_per_expression.append(len(spoken))
            kinds[expression.kind or "-"] += 1
    distributions = {
        "frames a video": shard_set.videos.num_frames,
        "expressions a video": shard_set.videos.num_expressions,
        "words an expression": np.array(words_per_expression, np.int64),
    }
    lines = [
        f"{manifest.dataset} {manifest.split}, {len(manifest.shards)} shards, {shard_set.storage}",
        _totals_table(manifest),
        _quantiles_table(distributions),
        f"{len(words):,} different words; most often: {_most_common(words)}",
        f"kinds of expression: {_most_common(kinds)}",
        f"sizes of frames: {_most_common(sizes)}",
    ]
    lines += [f"skipped {skipped.key}: {skipped.reason}" for skipped in manifest.skipped]
    if plot:
        _plot(distributions, plot)
        lines.append(f"wrote {plot}")
    return "\n".join(lines)


def _totals_table(manifest: Manifest) -> str:
    lines = [("", "total")]
    for name, count in asdict(manifest.counts).items():
        lines.append((name.replace("_", " "), f"{count:,}"))
    lines.append(("skipped videos", f"{len(manifest.skipped):,}"))
    return format_table(lines)


def _quantiles_table(distributions: Mapping[str, Samples]) -> str:
    lines: list[tuple[str, ...]] = [("", "least", "25 %", "median", "75 %", "most")]
    for name, values in distributions.items():
        if len(values):
            quantiles = [f"{quantile:g}" for quantile in np.quantile(values, QUANTILES)]
            lines.append((name, *quantiles))
    return format_table(lines)


def _most_common(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(NUM_LISTED))


def _plot(distributions: Mapping[str, Samples], path: Path) -> None:
    # matplotlib takes a second to import, and most calls draw nothing
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(distributions), 3), layout="constrained")
    panels = figure.subplots(1, len(distributions))
    for axes, (name, values) in zip(panels, distributions.items(), strict=True):
        smallest = int(values.min(initial=1))
        largest = int(values.max(initial=1))
        # every bar holds equally many whole numbers, and its edges lie halfway between two of them
        width = (largest - smallest) // (MAX_BARS - 1) + 1
        edges = np.arange(smallest, largest + width + 1, width) - 0.5
        axes.hist(values, bins=edges)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(name)
    figure.savefig(path)
