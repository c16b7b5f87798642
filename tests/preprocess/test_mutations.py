"""Files that the net or a disk has damaged: an error in one line or a listed skip, each time.

SGMG_MUTATIONS=500 tries as many as the name says; 64 by default.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocess.build_shards import Build, build
from shards.__main__ import main as shards_main
from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from tests.preprocess.trees import TREES, draw

MUTATIONS = int(os.environ.get("SGMG_MUTATIONS", "64"))
KINDS = {  # a source that has files of each kind
    ".json": ["mevis", "ref-youtube-vos", "jhmdb-sentences", "refcoco"],
    ".png": ["jhmdb-sentences", "ref-youtube-vos", "ref-davis17"],
    ".jpg": ["mevis", "ref-youtube-vos", "refcoco", "ref-davis17"],
    ".h5": ["a2d-sentences"],
    ".mat": ["jhmdb-sentences"],
    ".p": ["refcoco"],
    ".mp4": ["a2d-sentences"],
    ".csv": ["a2d-sentences"],
    ".txt": ["a2d-sentences", "jhmdb-sentences", "ref-davis17"],
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for source in TREES:
        draw(source, folder / source)
    return folder


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Cut a file short, or alter it: a block of zeros or noise, a piece lost, flipped bytes."""
    damage = ("cut", "zeros", "noise", "lost", "flips", "empty")[int(rng.integers(6))]
    changed = bytearray(data)
    start = int(rng.integers(max(1, len(data) * 3 // 4)))
    length = int(rng.integers(16, 200))
    if damage == "empty":
        return b"", damage
    if damage == "cut":
        return data[:start], damage
    if damage == "lost":
        del changed[start : start + length]
    elif damage == "flips":
        for position in rng.integers(0, len(data), 8):
            changed[position] ^= int(rng.integers(1, 256))
    else:
        block = bytes(length) if damage == "zeros" else rng.bytes(length)
        changed[start : start + length] = block
    return bytes(changed), damage


@pytest.mark.parametrize("number", range(MUTATIONS))
def test_a_damaged_file_is_an_error_or_a_listed_skip(
    originals: Path, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(number)
    kind = list(KINDS)[number % len(KINDS)]
    source = KINDS[kind][int(rng.integers(len(KINDS[kind])))]
    root = Path(shutil.copytree(originals / source, tmp_path / "root"))
    paths = sorted(path for path in root.rglob(f"*{kind}") if path.is_file())
    path = paths[int(rng.integers(len(paths)))]
    data, damage = mutate(path.read_bytes(), rng)
    path.write_bytes(data)
    split, out = TREES[source][0], tmp_path / "out"
    leaks = kind == ".p"  # reads the lists of the other two
    settings = Build(
        source,
        root,
        str(out),
        (split,),
        on_error="skip",
        allow_partial=True,
        filter_leaks=leaks,
    )
    error = ""
    try:
        build(settings)
    except (ShardError, OSError) as raised:
        error = str(raised)
    if error:
        assert error.isprintable()
        lost = "there are no videos to write; check the root and the split"  # the list is shorter
        assert path.name in error or path.parent.name in error or error == lost
        assert len(error) < 1000
        assert not list(out.rglob("manifest.json"))
        result = "error"
    else:
        shard_set = ShardSet.open(str(out / split))
        skipped = shard_set.manifest.skipped
        assert all(path.stem in video.reason or video.key in video.reason for video in skipped)
        assert shards_main(["verify", str(out / split), "--full"]) == 0
        result = "skip" if skipped else "unseen"
        # what still reads as a whole file of its kind cannot be known to be wrong
        assert skipped or damage not in ("cut", "empty") or kind == ".txt", path
    with capsys.disabled():
        if "SGMG_MUTATIONS" in os.environ:
            sys.stderr.write(f"\n{number} {kind} {damage}: {result}")
