"""Turn a data set on disk into shards.

``python preprocess/build_shards.py SOURCE --root DIR --out DIR_OR_URL`` writes one shard set for
each split, ``DIR_OR_URL/<split>``. Everything is listed and checked before the first byte is
written. Run again after a crash, it keeps finished shards; a set is complete once it has its
``manifest.json``.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

from preprocess.dataset import Source
from preprocess.ground_truth import write_ground_truth
from preprocess.readers import (
    a2d_sentences,
    jhmdb_sentences,
    mevis,
    ref_davis17,
    ref_youtube_vos,
    refcoco,
)
from preprocess.reencode import Reencoded
from preprocess.synthetic.write import SyntheticSettings, is_written, write_synthetic
from shards.build.plan import Plan
from shards.build.ray_cluster import on_ray
from shards.build.writer import build_set
from shards.errors import ShardError
from shards.format.schema import Json

Opener = Callable[..., Source]
Videos = Literal["ref-davis17", "ref-youtube-vos", "a2d-sentences", "jhmdb-sentences", "mevis"]
Name = Literal["synthetic", Videos, "refcoco", "refcoco+", "refcocog"]


def opens(
    opener: Opener, splits: Iterable[str], prefix: str = "", **told: str
) -> dict[str, Opener]:
    """Return what opens each split of a data set, by the name of the shard set to be."""
    return {f"{prefix}{split}": partial(opener, split=split, **told) for split in splits}


_IMAGES = {"name": "refcoco", "dataset": "synthetic-image"}
READERS: Mapping[str, Mapping[str, Opener]] = {
    "ref-davis17": opens(ref_davis17.open_ref_davis17, ref_davis17.SPLITS),
    "ref-youtube-vos": opens(ref_youtube_vos.open_ref_youtube_vos, ref_youtube_vos.SPLITS),
    "a2d-sentences": opens(a2d_sentences.open_a2d_sentences, a2d_sentences.SPLITS),
    "jhmdb-sentences": opens(jhmdb_sentences.open_jhmdb_sentences, jhmdb_sentences.SPLITS),
    "mevis": opens(mevis.open_mevis, mevis.SPLITS),
    **{it: opens(refcoco.open_refcoco, splits, name=it) for it, splits in refcoco.SPLITS.items()},
    "synthetic": {
        **opens(ref_youtube_vos.open_ref_youtube_vos, ("train", "valid"), dataset="synthetic"),
        **opens(refcoco.open_refcoco, ("train", "val"), "image-", **_IMAGES),
    },
}


@dataclass(frozen=True)
class Build:
    """Turn a data set on disk into shards, one set for each split, as OUT/<split>.

    Args:
        source: the data set; docs/datasets.md tells where to get each. "synthetic" draws its files.
        root: folder that holds the official files.
        out: folder or URL (s3://, gs://, ...) to write the shard sets below.
        split: splits to build; all if none is named.
        workers: number of processes; the bytes do not depend on it.
        engine: local processes, or Ray.
        address: of a running Ray cluster; without it Ray is started here.
        shard_mb: size to aim at for a shard, in MB.
        on_error: stop at the first video that cannot be read, or skip it and list it.
        allow_partial: go on if there are more or fewer videos than published.
        filter_leaks: of RefCOCO, RefCOCO+, RefCOCOg: leave out of train what is in val or test of
            any of the three.
        max_side: shrink videos whose longer side has more pixels; else bytes are copied.
        quality: JPEG quality, 1 to 100; given, every frame is encoded anew; 95 where it has to be.
        synthetic: what to draw, if the source is "synthetic".
    """

    source: tyro.conf.Positional[Name]
    root: Path
    out: str
    split: tuple[str, ...] = ()
    workers: int = 1
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    shard_mb: int = 256
    on_error: Literal["stop", "skip"] = "stop"
    allow_partial: bool = False
    filter_leaks: bool = False
    max_side: int | None = None
    quality: int | None = None
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: a setting is out of range, or does not go with another.
        """
        limits = {"workers": 1024, "shard_mb": 100_000, "max_side": 100_000, "quality": 100}
        for name, most in limits.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 to {most}")
        if self.filter_leaks and self.source not in refcoco.REFS:
            raise ValueError(f"--filter-leaks is for {', '.join(refcoco.REFS)} only")
        if self.address and self.engine != "ray":
            raise ValueError("--address is that of a Ray cluster: add --engine ray")
        splits = READERS[self.source]
        if unknown := [split for split in self.split if split not in splits]:
            raise ValueError(
                f"{self.source} has no split {', '.join(unknown)}: it has {', '.join(splits)}"
            )


def open_set(told: Mapping[str, Any], root: Path) -> Source:
    """Open what a shard set is, or was, built from.

    Args:
        told: the settings in the set's manifest.
        root: folder that holds the official files.

    Raises:
        ShardError: they are of no set that this command builds, or a file is missing or broken.
    """
    source, name = str(told.get("source")), str(told.get("set"))
    if name not in READERS.get(source, {}):
        raise ShardError(f"the set was built from {source!r} {name!r}, which no reader here knows")
    max_side, quality = told.get("max_side"), told.get("quality")
    options: dict[str, Any] = {}
    if told.get("filter_leaks"):
        options["filter_leaks"] = True
    if source == "a2d-sentences":
        options["quality"], quality = quality or a2d_sentences.QUALITY, None
    opened = READERS[source][name](root, **options)
    if max_side or quality:
        again = Reencoded(opened.read, max_side, quality or a2d_sentences.QUALITY, bool(quality))
        opened = replace(opened, read=again)
    return opened


def settings_of(name: str, settings: Build) -> dict[str, Json]:
    """Return what a set's manifest tells: all that decides its content but the files."""
    told: dict[str, Json] = {"source": settings.source, "set": name}
    for option in ("filter_leaks", "max_side", "quality"):
        if value := getattr(settings, option):
            told[option] = value
    if settings.source == "a2d-sentences" or settings.max_side or settings.quality:
        quality = settings.quality or a2d_sentences.QUALITY
        told["encoder"] = f"JPEG quality {quality} 4:4:4, pillow {version('pillow')}"
        told["decoder"] = f"av {version('av')}" if settings.source == "a2d-sentences" else "pillow"
    if settings.source == "synthetic":
        told |= asdict(settings.synthetic)
    return told


def build(settings: Build) -> None:
    """Build the sets asked for.

    Raises:
        ValueError: the files or what is at ``out`` are wrong.
        OSError: reading or writing failed.
    """
    settings.check()
    drawn = settings.synthetic
    if settings.source == "synthetic" and not is_written(settings.root, drawn):
        with tqdm(total=drawn.total, desc="drawing", unit="scenes", dynamic_ncols=True) as bar:
            workers = settings.workers
            write_synthetic(settings.root, drawn, workers=workers, progress=bar.update)
    elif not settings.root.is_dir():
        raise ValueError(f"--root {settings.root} is no folder: name the one with the files")
    names = settings.split or READERS[settings.source]
    told = {name: settings_of(name, settings) for name in names}
    opened = {name: open_set(it, settings.root) for name, it in told.items()}
    if not settings.allow_partial:
        for source in opened.values():
            source.check_complete()
    for name, source in opened.items():
        write_set(source, f"{settings.out.rstrip('/')}/{name}", told[name], settings)


def write_set(source: Source, out: str, told: Mapping[str, Json], settings: Build) -> None:
    """Write one shard set and say what is in it."""
    title = f"{source.dataset} {source.split}"
    for note in source.notes:
        print(f"{title}: {note}")
    total = sum(plan.num_bytes for plan in source.plans)
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        number = count(1)

        def show(plan: Plan) -> None:
            bar.set_postfix_str(f"{next(number)}/{len(source.plans)} videos", refresh=False)
            bar.update(plan.num_bytes)

        on_cluster = settings.engine == "ray"
        manifest = build_set(
            source.plans,
            source.read,
            out,
            dataset=source.dataset,
            split=source.split,
            settings=told,
            shard_bytes=settings.shard_mb * 1_000_000,
            workers=settings.workers,
            on_error=settings.on_error,
            progress=show,
            runner=on_ray(settings.address, settings.workers) if on_cluster else None,
        )
    counts = manifest.counts
    print(
        f"{title}: {counts.videos} videos, {counts.frames} frames, "
        f"{counts.expressions} expressions, {counts.bytes / 1e6:.1f} MB in "
        f"{len(manifest.shards)} shards: {out}"
    )
    for skipped in manifest.skipped:
        print(f"{title}: skipped {skipped.key}: {skipped.reason}")
    for name in write_ground_truth(manifest, out, settings.root):
        print(f"{title}: {settings.root} has no {name}: derived, in {settings.out}")


def main() -> None:
    """Read the command line and build; an error is one line and an exit code that is not 0."""
    try:
        build(tyro.cli(Build, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
