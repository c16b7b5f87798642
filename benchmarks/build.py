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
from io import BytesIO
from pathlib import Path

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
    listed = {}
    for video in range(videos):
        folder = root / f"valid/JPEGImages/video{video:04d}"
        folder.mkdir(parents=True)
        for name, image in zip(names, images, strict=True):
            (folder / f"{name}.jpg").write_bytes(image)
        listed[folder.name] = {"expressions": {"0": {"exp": "one"}}, "frames": names}
    (root / "valid/meta_expressions.json").write_text(json.dumps({"videos": listed}))


def seconds(function: object, *arguments: object) -> tuple[float, float]:
    """Wall and CPU seconds, those of child processes included."""
    started, used = time.perf_counter(), cpu()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started, cpu() - used


def cpu() -> float:
    """Seconds of CPU so far, those of ended children included."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
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


def measure_index() -> tuple[float, float, int]:
    """Seconds of CPU a million members, MB of memory growth, members."""
    rle = Rle(480, 854, b"PPYo0n0U>")
    names = [f"{number:05d}" for number in range(FRAMES)]
    frames = [Frame(name, b"", "jpg", {"1": rle, "2": rle}) for name in names]
    said = tuple(Expression(str(number), "the dog on the left", ("1",)) for number in range(4))
    suffixes = ["json"]
    for position in range(FRAMES):
        suffixes += [image_suffix(position, "jpg"), masks_suffix(position)]
    spans = dict.fromkeys(suffixes, Span(10**9, 110_000, 12345))
    videos = 1_000_000 // len(spans) + 1
    before, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, cpu()
    index = IndexWriter()
    for number in range(videos):
        key = f"video{number:06d}"
        objects = {"1": "dog", "2": "cat"}
        index.add(Video(key, "bench", "train", key, 480, 854, frames, objects, said), spans)
    index.encode({})
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    members = videos * len(spans)
    return (cpu() - used) * 1e6 / members, grown, members


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    index_seconds, index_mb, members = measure_index()  # first: memory only grows
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "files", Path(folder) / "out"
        draw_tree(root, arguments.videos)
        total = sum(path.stat().st_size for path in root.rglob("*.jpg"))
        times: dict[str, list[tuple[float, float]]] = {"tar": [], "build": []}
        for number in range(arguments.rounds + 1):  # the first warms cache and imports
            for name, run in (("tar", run_tar), ("build", run_build)):
                out.mkdir()
                times[name].append(seconds(run, root, out))
                shutil.rmtree(out)
            if number == 0:
                times = {name: [] for name in times}
    print(f"{total / 1e6:.0f} MB of JPEG in {arguments.videos * FRAMES} files")
    best = {}
    for name, its in times.items():
        best[name] = [min(it) for it in zip(*its, strict=True)]
        wall, used = best[name]
        print(f"{name:<6} {wall:6.2f} s, {used:6.2f} s of CPU, {total / 1e6 / wall:7.0f} MB/s")
    print(
        f"index of {members:,} members: {index_seconds:.1f} s of CPU a million, {index_mb:.0f} MB"
    )
    print(
        json.dumps(
            {
                "speed_vs_tar": round(best["tar"][0] / best["build"][0], 3),
                "cpu_vs_tar": round(best["tar"][1] / best["build"][1], 3),
                "index_seconds_per_million": round(index_seconds, 2),
                "index_mb": round(index_mb, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
