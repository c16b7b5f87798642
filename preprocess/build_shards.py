"""Turn a data set on disk into shards.

``python preprocess/build_shards.py SOURCE --root DIR --out DIR_OR_URL`` writes one shard set for
each split, ``DIR_OR_URL/<split>``. Everything is listed and checked before the first byte is
written. Run again after a crash, it keeps finished shards; a set is complete once it has its
``manifest.json``.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from preprocess import ref_davis17, ref_youtube_vos, refcoco
from preprocess.source import Source
from preprocess.synthetic import SyntheticSettings, is_written, write_synthetic
from shards.schema import Json
from shards.writer import build_set

Name = Literal["synthetic", "ref-davis17", "ref-youtube-vos", "refcoco", "refcoco+", "refcocog"]
Open = Callable[[Path], Source]


@dataclass(frozen=True)
class Build:
    """Turn a data set on disk into shards, one set for each split, as OUT/<split>.

    Args:
        source: the data set; docs/datasets.md tells where to get each. "synthetic" draws its files.
        root: folder that holds the official files.
        out: folder or URL (s3://, gs://, ...) to write the shard sets below.
        split: splits to build; all if none is named.
        workers: number of processes; the bytes do not depend on it.
        shard_mb: size to aim at for a shard, in MB.
        allow_partial: go on if there are more or fewer videos than published.
        synthetic: what to draw, if the source is "synthetic".
    """

    source: tyro.conf.Positional[Name]
    root: Path
    out: str
    split: tuple[str, ...] = ()
    workers: int = 1
    shard_mb: int = 256
    allow_partial: bool = False
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)


def sets_of(source: Name) -> Mapping[str, Open]:
    """Return what opens each split of a data set, by the name of the shard set to be."""
    if source == "ref-davis17":
        opener: Callable[..., Source] = ref_davis17.open_ref_davis17
        return {split: partial(opener, split=split) for split in ref_davis17.SPLITS}
    if source == "ref-youtube-vos":
        opener = ref_youtube_vos.open_ref_youtube_vos
        return {split: partial(opener, split=split) for split in ref_youtube_vos.SPLITS}
    if source == "synthetic":
        videos = partial(ref_youtube_vos.open_ref_youtube_vos, dataset="synthetic")
        images = partial(refcoco.open_refcoco, name="refcoco", dataset="synthetic-image")
        return {split: partial(videos, split=split) for split in ref_youtube_vos.SPLITS} | {
            f"image-{split}": partial(images, split=split) for split in ("train", "val")
        }
    opener = partial(refcoco.open_refcoco, name=source)
    return {split: partial(opener, split=split) for split in refcoco.SPLITS[source]}


def build(settings: Build) -> None:
    """Build the sets asked for.

    Raises:
        ValueError: the settings, the files or what is at ``out`` are wrong.
        OSError: reading or writing failed.
    """
    if settings.workers < 1 or settings.shard_mb < 1:
        raise ValueError("--workers and --shard-mb must be at least 1")
    openers = sets_of(settings.source)
    unknown = [split for split in settings.split if split not in openers]
    if unknown:
        raise ValueError(
            f"{settings.source} has no split {', '.join(unknown)}: it has {', '.join(openers)}"
        )
    if settings.source == "synthetic":
        draw_files(settings)
    elif not settings.root.is_dir():
        raise ValueError(f"--root {settings.root} is no folder: name the one with the files")
    chosen = settings.split or tuple(openers)
    sources = {name: openers[name](settings.root) for name in chosen}
    if not settings.allow_partial:
        for source in sources.values():
            source.check_complete()
    for name, source in sources.items():
        write_set(source, f"{settings.out.rstrip('/')}/{name}", settings)


def draw_files(settings: Build) -> None:
    """Write the synthetic data set's files below the root, if they are not there."""
    if is_written(settings.root, settings.synthetic):
        return
    with progress_bar("drawing", settings.synthetic.total, "scenes", scale=False) as bar:
        write_synthetic(
            settings.root, settings.synthetic, workers=settings.workers, progress=bar.update
        )


def write_set(source: Source, out: str, settings: Build) -> None:
    """Write one shard set and say what is in it."""
    for note in source.notes:
        print(f"{source.dataset} {source.split}: {note}")
    told: dict[str, Json] = {"source": settings.source}
    if settings.source == "synthetic":
        told |= asdict(settings.synthetic)
    total = sum(plan.num_bytes for plan in source.plans)
    with progress_bar(f"{source.dataset} {source.split}", total, "B", scale=True) as bar:

        def show(done_bytes: int, done_videos: int) -> None:
            bar.set_postfix_str(f"{done_videos}/{len(source.plans)} videos", refresh=False)
            bar.update(done_bytes - bar.n)

        manifest = build_set(
            source.plans,
            source.read,
            out,
            dataset=source.dataset,
            split=source.split,
            settings=told,
            shard_bytes=settings.shard_mb * 1_000_000,
            workers=settings.workers,
            progress=show,
        )
    counts = manifest.counts
    print(
        f"{source.dataset} {source.split}: {counts.videos} videos, {counts.frames} frames, "
        f"{counts.expressions} expressions, {counts.bytes / 1e6:.1f} MB in "
        f"{len(manifest.shards)} shards: {out}"
    )


@contextmanager
def progress_bar(title: str, total: int, unit: str, *, scale: bool) -> Iterator[tqdm]:
    """Show progress on standard error: share, rate and time left."""
    with tqdm(total=total, desc=title, unit=unit, unit_scale=scale, dynamic_ncols=True) as bar:
        yield bar


def main() -> None:
    """Read the command line and build; an error is one line and an exit code that is not 0."""
    try:
        build(tyro.cli(Build, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
