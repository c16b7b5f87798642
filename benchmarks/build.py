"""How fast is a shard set built, next to tar over the same files, and what does an index cost?

python benchmarks/build.py [--videos 60] [--rounds 5]

Draws JPEG videos (30 frames of 480 x 854, about 110 kB each), warms the cache, then takes turns:
`tar` copies the frames into one file, and one process builds the shard set from the same frames,
with index and manifest. Then the index of a million members is filled and encoded. Prints a table,
and one JSON object as the last line.
"""

import argparse
import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from preprocess.build_shards import Build, build_settings, open_set
from shards.build.writer import build_set
from shards.format.index import IndexWriter
from shards.format.rle import Rle
from shards.format.schema import Expression, Frame, Video, image_suffix, masks_suffix
from shards.storage.storage import Span

FRAMES = 30


def draw_tree(root: Path, videos: int) -> None:
    """A MeViS valid tree: frames without masks, so that both sides copy the same bytes."""
    noise = np.random.default_rng(0)
    coarse = noise.integers(0, 256, (240, 427, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((854, 480), Image.Resampling.BICUBIC))
    images = []
    for shift in range(FRAMES):
        file = BytesIO()
        Image.fromarray(np.roll(pixels, 7 * shift, 1)).save(file, "JPEG", quality=80)
        images.append(file.getvalue())
    names = [f"{number:05d}" for number in range(FRAMES)]
    listings = {}
    for video in range(videos):
        folder = root / f"valid/JPEGImages/video{video:04d}"
        folder.mkdir(parents=True)
        for name, image in zip(names, images, strict=True):
            (folder / f"{name}.jpg").write_bytes(image)
        listings[folder.name] = {"expressions": {"0": {"exp": "one"}}, "frames": names}
    (root / "valid/meta_expressions.json").write_text(json.dumps({"videos": listings}))


class Seconds(NamedTuple):
    """What a run took, child processes included."""

    wall: float
    cpu: float


def measure_seconds(run: Callable[[Path, Path], None], root: Path, out: Path) -> Seconds:
    """Run on a folder and return what it took."""
    wall_start = time.perf_counter()
    cpu_start = cpu_seconds()
    run(root, out)
    return Seconds(time.perf_counter() - wall_start, cpu_seconds() - cpu_start)


def cpu_seconds() -> float:
    """Seconds of CPU so far, those of ended children included."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def run_tar(root: Path, out: Path) -> None:
    """Copy the frames into one tar."""
    line = ["tar", "-C", str(root / "valid"), "-cf", str(out / "plain.tar"), "JPEGImages"]
    subprocess.run(line, check=True)


def run_build(root: Path, out: Path) -> None:
    """List and build the shard set, as the command does."""
    settings = Build("mevis", root, str(out), allow_partial=True)
    manifest_settings = build_settings(settings, "valid")
    source = open_set(manifest_settings, root)
    build_set(
        source.plans,
        source.read,
        str(out / "valid"),
        dataset=source.dataset,
        split=source.split,
        settings=manifest_settings,
        is_partial=source.is_partial,
    )


class IndexCost(NamedTuple):
    """What an index of so many members costs: CPU a million members, and growth of memory."""

    members: int
    seconds_per_million: float
    megabytes: float


def measure_index() -> IndexCost:
    """Fill and encode the index of a million members."""
    rle = Rle(480, 854, b"PPYo0n0U>")
    frames = [Frame(f"{number:05d}", b"", "jpg", {"1": rle, "2": rle}) for number in range(FRAMES)]
    expressions = tuple(
        Expression(str(number), "the dog on the left", ("1",)) for number in range(4)
    )
    suffixes = ["json"]
    for position in range(FRAMES):
        suffixes += [image_suffix(position, "jpg"), masks_suffix(position)]
    spans = dict.fromkeys(suffixes, Span(10**9, 110_000, 12345))
    num_videos = 1_000_000 // len(spans) + 1
    memory_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu_start = cpu_seconds()
    index = IndexWriter()
    for number in range(num_videos):
        key = f"video{number:06d}"
        video = Video(
            key=key,
            dataset="bench",
            split="train",
            video_id=key,
            height=480,
            width=854,
            frames=frames,
            objects={"1": "dog", "2": "cat"},
            expressions=expressions,
        )
        index.add(video, spans)
    index.encode({})
    memory_growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_start
    members = num_videos * len(spans)
    seconds = cpu_seconds() - cpu_start
    return IndexCost(members, seconds * 1e6 / members, memory_growth / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    index = measure_index()  # first: the peak of memory only grows
    times: dict[str, list[Seconds]] = {"tar": [], "build": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "files"
        out = Path(folder) / "out"
        draw_tree(root, arguments.videos)
        total_mb = sum(path.stat().st_size for path in root.rglob("*.jpg")) / 1e6
        for number in range(arguments.rounds + 1):
            for name, run in (("tar", run_tar), ("build", run_build)):
                out.mkdir()
                seconds = measure_seconds(run, root, out)
                shutil.rmtree(out)
                if number > 0:  # the first round warms cache and imports
                    times[name].append(seconds)
    print(f"{total_mb:.0f} MB of JPEG in {arguments.videos * FRAMES} files")
    best = {}
    for name, runs in times.items():
        wall = min(seconds.wall for seconds in runs)
        cpu = min(seconds.cpu for seconds in runs)
        best[name] = Seconds(wall, cpu)
        print(f"{name:<6} {wall:6.2f} s, {cpu:6.2f} s of CPU, {total_mb / wall:7.0f} MB/s")
    print(
        f"index of {index.members:,} members: {index.seconds_per_million:.1f} s of CPU a million, "
        f"{index.megabytes:.0f} MB"
    )
    result = {
        "speed_vs_tar": round(best["tar"].wall / best["build"].wall, 3),
        "cpu_vs_tar": round(best["tar"].cpu / best["build"].cpu, 3),
        "index_seconds_per_million": round(index.seconds_per_million, 2),
        "index_mb": round(index.megabytes, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
