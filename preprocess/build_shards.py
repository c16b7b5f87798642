"""Turn a data set on disk into shards.

``python preprocess/build_shards.py SOURCE --root DIR --out DIR_OR_URL`` writes one shard set for
each split, ``DIR_OR_URL/<split>``. Everything is listed and checked before the first byte is
written. Run again after a crash, it keeps finished shards; a set is complete once it has its
``manifest.json``.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from preprocess.dataset import DataSet, ReadOptions, Source
from preprocess.ground_truth import write_ground_truth
from preprocess.readers import (
    a2d_sentences,
    jhmdb_sentences,
    mevis,
    ref_davis17,
    ref_youtube_vos,
    refcoco,
)
from preprocess.reencode import JPEG_QUALITY, Reencoded
from preprocess.synthetic import dataset as synthetic
from preprocess.synthetic.settings import SyntheticSettings
from preprocess.synthetic.write import is_written, write_synthetic
from shards.build.plan import Plan, Runner
from shards.build.ray_cluster import on_ray
from shards.build.writer import build_set
from shards.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.schema import Json

_REGISTRY: tuple[DataSet, ...] = (
    synthetic.DATASET,
    ref_davis17.DATASET,
    ref_youtube_vos.DATASET,
    a2d_sentences.DATASET,
    jhmdb_sentences.DATASET,
    mevis.DATASET,
    *refcoco.DATASETS,
)
DATASETS: Mapping[str, DataSet] = {dataset.name: dataset for dataset in _REGISTRY}

# The names as choices of a command line; a Literal would repeat them.
_SourceName = Annotated[
    str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(DATASETS) + "}",
        instance_from_str=lambda arguments: arguments[0],
        is_instance=lambda instance: isinstance(instance, str),
        str_from_instance=lambda name: [name],
        choices=tuple(DATASETS),
    ),
]


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

    source: tyro.conf.Positional[_SourceName]
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

    @property
    def dataset(self) -> DataSet:
        """The data set of this name.

        Raises:
            ValueError: there is none.
        """
        if self.source not in DATASETS:
            raise ValueError(f"there is no data set {self.source!r}: give {', '.join(DATASETS)}")
        return DATASETS[self.source]

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: a setting is out of range, or does not go with another.
        """
        limits = (
            ("--workers", self.workers, 1024),
            ("--shard-mb", self.shard_mb, 100_000),
            ("--max-side", self.max_side, 100_000),
            ("--quality", self.quality, 100),
        )
        for flag, value, largest in limits:
            if value is not None and not 1 <= value <= largest:
                raise ValueError(f"{flag} must be 1 to {largest}")
        if self.filter_leaks and not self.dataset.filters_leaks:
            names = [dataset.name for dataset in DATASETS.values() if dataset.filters_leaks]
            raise ValueError(f"--filter-leaks is for {', '.join(names)} only")
        if self.address and self.engine != "ray":
            raise ValueError("--address is that of a Ray cluster: add --engine ray")
        known = self.dataset.splits
        unknown = [split for split in self.split if split not in known]
        if unknown:
            raise ValueError(
                f"{self.source} has no split {', '.join(unknown)}: it has {', '.join(known)}"
            )


def open_set(settings: Mapping[str, Json], root: Path) -> Source:
    """Open what a shard set is, or was, built from.

    Args:
        settings: those in the set's manifest.
        root: folder that holds the official files.

    Raises:
        ShardError: they are of no set that this command builds, or a file is missing or broken.
    """
    name = str(settings.get("source"))
    split = str(settings.get("set"))
    dataset = DATASETS.get(name)
    if dataset is None or split not in dataset.splits:
        raise ShardError(
            f"the set was built from {name!r} {split!r}, which no reader here knows; known are "
            f"{', '.join(DATASETS)}"
        )
    max_side = _number(settings, "max_side")
    quality = _number(settings, "quality")
    options = ReadOptions(
        filter_leaks=bool(settings.get("filter_leaks")),
        quality=quality or JPEG_QUALITY,
    )
    source = dataset.open(root, split, options)
    # a reader that decodes videos has encoded every frame in the quality asked for already
    encode_all = quality is not None and not dataset.decodes_videos
    if max_side is None and not encode_all:
        return source
    read = Reencoded(source.read, max_side, options.quality, always=encode_all)
    return replace(source, read=read)


def _number(settings: Mapping[str, Json], name: str) -> int | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, int):
        raise ShardError(f"the set was built with {name} {value!r}, which is no number")
    return value


def build_settings(settings: Build, split: str) -> dict[str, Json]:
    """Return the settings in a set's manifest: all that decides its content but the files."""
    content: dict[str, Json] = {"source": settings.source, "set": split}
    if settings.filter_leaks:
        content["filter_leaks"] = True
    if settings.max_side:
        content["max_side"] = settings.max_side
    if settings.quality:
        content["quality"] = settings.quality
    decodes_videos = settings.dataset.decodes_videos
    if decodes_videos or settings.max_side or settings.quality:
        # encoded frames follow the versions of the libraries that decode and encode them
        quality = settings.quality or JPEG_QUALITY
        content["encoder"] = f"JPEG quality {quality} 4:4:4, pillow {version('pillow')}"
        content["decoder"] = f"av {version('av')}" if decodes_videos else "pillow"
    if settings.dataset is synthetic.DATASET:
        content |= asdict(settings.synthetic)
    return content


def build(settings: Build) -> None:
    """Build the sets asked for.

    Raises:
        ValueError: the files or what is at ``out`` are wrong.
        OSError: reading or writing failed.
    """
    settings.check()
    if settings.dataset is synthetic.DATASET:
        draw_files(settings)
    elif not settings.root.is_dir():
        raise ValueError(f"--root {settings.root} is no folder: name the one with the files")
    splits = settings.split or tuple(settings.dataset.splits)
    sources = {}
    for split in splits:
        sources[split] = open_set(build_settings(settings, split), settings.root)
    if not settings.allow_partial:
        for source in sources.values():
            source.check_complete()
    for split, source in sources.items():
        write_set(source, f"{settings.out.rstrip('/')}/{split}", split, settings)


def draw_files(settings: Build) -> None:
    """Draw the demo's files, unless they are there."""
    if is_written(settings.root, settings.synthetic):
        return
    total = settings.synthetic.total
    with tqdm(total=total, desc="drawing", unit="scenes", dynamic_ncols=True) as bar:
        write_synthetic(
            settings.root,
            settings.synthetic,
            workers=settings.workers,
            progress=bar.update,
        )


def write_set(source: Source, out: str, split: str, settings: Build) -> None:
    """Write one shard set and report what is in it.

    Args:
        source: the split, listed.
        out: folder or URL of the set.
        split: name of the set, which that of the source may differ from.
        settings: of the command.
    """
    title = f"{source.dataset} {source.split}"
    for note in source.notes:
        print(f"{title}: {note}")
    runner: Runner | None = None
    if settings.engine == "ray":
        runner = on_ray(settings.address, settings.workers)
    total = sum(plan.num_bytes for plan in source.plans)
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        videos_done = count(1)

        def show(plan: Plan) -> None:
            bar.set_postfix_str(f"{next(videos_done)}/{len(source.plans)} videos", refresh=False)
            bar.update(plan.num_bytes)

        manifest = build_set(
            source.plans,
            source.read,
            out,
            dataset=source.dataset,
            split=source.split,
            settings=build_settings(settings, split),
            is_partial=source.is_partial,
            shard_bytes=settings.shard_mb * 1_000_000,
            workers=settings.workers,
            on_error=settings.on_error,
            progress=show,
            runner=runner,
        )
    _report(manifest, title, out)
    for name in write_ground_truth(manifest, out, settings.root):
        print(f"{title}: {settings.root} has no {name}: derived, in {settings.out}")


def _report(manifest: Manifest, title: str, out: str) -> None:
    counts = manifest.counts
    print(
        f"{title}: {counts.videos} videos, {counts.frames} frames, "
        f"{counts.expressions} expressions, {counts.bytes / 1e6:.1f} MB in "
        f"{len(manifest.shards)} shards: {out}"
    )
    for skipped in manifest.skipped:
        print(f"{title}: skipped {skipped.key}: {skipped.reason}")


def main() -> None:
    """Read the command line and build; an error is one line and an exit code that is not 0."""
    try:
        build(tyro.cli(Build, description=__doc__))
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        sys.exit(f"error: {message}")


if __name__ == "__main__":
    main()
