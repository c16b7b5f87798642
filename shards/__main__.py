"""Look at a shard set and check it.

python -m shards verify URL [--full] [--root DIR]
python -m shards inspect URL [--key KEY]
python -m shards stats URL [--plot FILE.png]
python -m shards preview URL [--out FILE.png]
python -m shards plan URL ... [--rank R --world-size W]
python -m shards bench URL ...
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Annotated

import google_crc32c
import numpy as np
import tyro

from shards.build.writer import sha256_of
from shards.errors import ShardError
from shards.format.rle import mask_area
from shards.format.schema import encode_video, prepare_video
from shards.format.shard_set import ShardSet

Url = Annotated[str, tyro.conf.Positional]


def verify(url: Url, full: bool = False, root: Path | None = None) -> None:
    """Check a set: manifest, indexes and sizes; with --full every byte, sample and mask.

    Args:
        url: Folder or URL of the set.
        full: Read everything.
        root: Folder with the files the set was built from: read them again and compare.
    """
    shard_set = ShardSet.open(url)
    told, rows = shard_set.manifest.counts, shard_set.videos
    frames, expressions = rows.num_frames.sum(), rows.num_expressions.sum()
    found = {"videos": len(rows), "frames": frames, "expressions": expressions}
    damage = [
        f"{name}: the manifest tells of {asdict(told)[name]}, the indexes of {count}"
        for name, count in found.items()
        if count != asdict(told)[name]
    ]
    if full:
        damage += _damage(shard_set)
    if root:
        damage += _differences(shard_set, root)
    if damage:
        raise ShardError("\n".join(damage))
    how = "every byte checked" if full else "sizes and indexes checked; --full reads every byte"
    how += f"; equal to {root}" if root else ""
    print(f"{url}: whole, {len(shard_set.manifest.shards)} shards, {told.videos} videos ({how})")


def _damage(shard_set: ShardSet) -> Iterator[str]:
    """What is wrong with each shard: at most its checksum and its first bad video."""
    for number, shard in enumerate(shard_set.manifest.shards):
        try:
            if sha256_of(shard_set.storage, shard.name) != shard.sha256:
                yield f"{shard.name}: its SHA-256 is not the manifest's; copy or build it again"
            for frame in chain.from_iterable(it.frames for it in shard_set.sequential([number])):
                for rle in (frame.masks or {}).values():
                    mask_area(rle)
        except ShardError as error:
            yield str(error)


def _differences(shard_set: ShardSet, root: Path) -> Iterator[str]:
    """Where a set is not what its source gives now, by the members' sizes and checksums.

    The readers belong to other packages: they are registered as entry points of group
    "shards.readers", and take the settings of a manifest and the root.
    """
    manifest = shard_set.manifest
    readers = list(entry_points(group="shards.readers"))
    if not readers:
        raise ShardError("no package with readers is installed; install this project again")
    source = readers[0].load()(manifest.settings, root)
    keys = {plan.key for plan in source.plans}
    rows = {row.key: row for row in shard_set.videos}
    known = rows.keys() | {it.key for it in manifest.skipped}
    yield from (f"{key}: in the set, not in {root}" for key in sorted(known - keys))
    yield from (f"{key}: in {root}, not in the set" for key in sorted(keys - known))
    for key in sorted(rows.keys() & keys):
        told = {name: (it.size, it.crc32c) for name, it in rows[key].members().items()}
        members = encode_video(prepare_video(source.read(key)))
        if told != {name: (len(data), google_crc32c.value(data)) for name, data in members}:
            yield f"{key}: not what {root} gives"


def inspect(url: Url, key: str | None = None) -> None:
    """Show one video as a table.

    Args:
        url: Folder or URL of the set.
        key: Of the video; the first one if not given.
    """
    shard_set = ShardSet.open(url)
    row = next((it for it in shard_set.videos if key is None or it.key == key), None)
    if row is None:
        raise ShardError(f"{url} has no video {key!r}; `python -m shards stats` tells what it has")
    shard = shard_set.manifest.shards[row.shard].name
    print(f"{row.key}  ({row.video_id})  {row.height} x {row.width}, {shard}")
    print(table([("object", "category"), *row.objects.items()]))
    expressions = [(it.id, it.kind, " ".join(it.objects), it.text) for it in row.expressions]
    print(table([("expression", "kind", "objects", "text"), *expressions]))
    lines = [("frame", "name", "image", "bytes", "offset", "mask bytes", "objects visible")]
    for at, name in enumerate(row.frame_names):
        image, *masks = row.spans(at)
        seen = " ".join(it for it, visible in row.visible.items() if visible[at])
        size = str(masks[0].size) if masks else "-"
        place = (str(image.size), str(image.offset), size)
        lines.append((str(at), name, row.extensions[at], *place, seen if masks else "?"))
    print(table(lines))


def stats(url: Url, plot: Path | None = None) -> None:
    """Count what a set holds.

    Args:
        url: Folder or URL of the set.
        plot: Draw lengths and words as histograms into this PNG.
    """
    shard_set = ShardSet.open(url)
    manifest = shard_set.manifest
    print(f"{manifest.dataset} {manifest.split}, {len(manifest.shards)} shards, {url}")
    counts = [(name.replace("_", " "), f"{n:,}") for name, n in asdict(manifest.counts).items()]
    print(table([("", "total"), *counts, ("skipped videos", f"{len(manifest.skipped):,}")]))
    words, kinds, sizes, lengths = Counter[str](), Counter[str](), Counter[str](), []
    for row in shard_set.videos:
        sizes[f"{row.height} x {row.width}"] += 1
        for it in row.expressions:
            said = it.text.lower().split()
            lengths.append(len(said))
            words.update(said)
            kinds[it.kind or "-"] += 1
    spread = {
        "frames a video": shard_set.videos.num_frames,
        "expressions a video": shard_set.videos.num_expressions,
        "words an expression": np.array(lengths),
    }
    lines = [
        (name, *(f"{it:g}" for it in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))))
        for name, values in spread.items()
        if len(values)
    ]
    print(table([("", "least", "25 %", "median", "75 %", "most"), *lines]))
    print(f"{len(words):,} different words; most often: {_most(words)}")
    print(f"kinds of expression: {_most(kinds)}")
    print(f"sizes of frames: {_most(sizes)}")
    for skipped in manifest.skipped:
        print(f"skipped {skipped.key}: {skipped.reason}")
    if plot:
        _plot(spread, plot)


def _most(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(12))


def _plot(spread: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(spread), 3), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(spread)), spread.items(), strict=True):
        least, most = int(values.min(initial=1)), int(values.max(initial=1))
        width = (most - least) // 40 + 1  # whole numbers a bar
        axes.hist(values, bins=np.arange(least, most + width + 1, width) - 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(name)
    figure.savefig(path)
    print(f"wrote {path}")


def preview(
    url: Url, out: Path = Path("preview.png"), videos: int = 4, frames: int = 5, key: str = ""
) -> None:
    """Draw frames with their masks and expressions.

    Args:
        url: Folder or URL of the set.
        out: The PNG to write.
        videos: How many, evenly spread over the set.
        frames: How many of each.
        key: Draw the videos whose key contains this.
    """
    from shards.commands.preview import contact_sheet

    shard_set = ShardSet.open(url)
    fitting = [at for at, row in enumerate(shard_set.videos) if key in row.key]
    if not fitting or videos < 1 or frames < 1:
        raise ShardError(f"{url}: no video to draw; ask for at least one, with another --key")
    chosen = np.linspace(0, len(fitting) - 1, min(videos, len(fitting))).round().astype(int)
    sheet = contact_sheet(shard_set, [fitting[at] for at in chosen], num_frames=frames)
    sheet.save(out)
    print(f"wrote {out}")


def table(lines: Iterable[Sequence[str]]) -> str:
    """Lay out lines of cells in columns; the first line is the head."""
    cells = [[str(it) for it in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(it.ljust(w) for it, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:], ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; 1 if the set is damaged or cannot be read."""
    from shards.commands.plan import bench, plan

    commands = {it.__name__: it for it in (verify, inspect, stats, preview, plan, bench)}
    try:
        said = tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m shards", args=arguments
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if said is not None:
        print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
