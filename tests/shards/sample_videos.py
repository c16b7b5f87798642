"""Small videos and shard sets for the tests of this folder."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.build.plan import Plan
from shards.build.writer import build_set
from shards.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.rle import Rle, encode_mask
from shards.format.schema import Expression, Extension, Frame, Video

PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG"}


def encode_image(pixels: np.ndarray, extension: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, PILLOW_FORMATS[extension])
    return file.getvalue()


def make_video(
    key: str,
    *,
    num_frames: int = 5,
    height: int = 36,
    width: int = 52,
    unannotated: Sequence[int] = (),
    absent: Sequence[int] = (),
    extension: Extension = "jpg",
) -> Video:
    """Two objects: "1" in every annotated frame, "2" in those that are not `absent`."""
    generator = np.random.default_rng(list(key.encode()))
    frames = []
    for number in range(num_frames):
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        masks: dict[str, Rle] | None = None
        if number not in unannotated:
            first = np.zeros((height, width), bool)
            first[number : number + 9, 3:20] = True
            second = generator.random((height, width)) < 0.3
            masks = {"1": encode_mask(first)}
            if number not in absent:
                masks["2"] = encode_mask(second)
        frames.append(Frame(f"{number * 5:05d}", encode_image(pixels, extension), extension, masks))
    return Video(
        key=key,
        dataset="toy",
        split="train",
        video_id=f"{key}.id",
        height=height,
        width=width,
        frames=frames,
        objects={"2": "dog", "1": ""},
        expressions=(
            Expression("0", "the dog on the left", ("2",), "side"),
            Expression("1", "an “odd” café, both", ("1", "2")),
        ),
    )


def toy_video(key: str) -> Video:
    """A reader: videos of several shapes, by their key "toy-NN"; "bad" in a key fails."""
    if "bad" in key:
        raise OSError(f"{key}.mp4 is unreadable")
    number = int(key.rpartition("-")[2])
    return make_video(
        key,
        num_frames=1 + number % 6,
        unannotated=[2] if number % 2 else [],
        absent=[0, 1] if number % 3 else [],
        extension="png" if number % 4 == 3 else "jpg",
    )


def toy_keys(count: int = 9) -> list[str]:
    return [f"toy-{number:02d}" for number in range(count)]


def build_toy(out: Path | str, keys: Sequence[str] | None = None, **settings: Any) -> Manifest:
    """Build a small set; any argument of `build_set` may be changed."""
    plans = [Plan(key, 15_000) for key in keys or toy_keys()]
    arguments: dict[str, Any] = {
        "dataset": "toy",
        "split": "train",
        "settings": {"a": 1},
        "shard_bytes": 45_000,
    }
    return build_set(plans, toy_video, str(out), **arguments | settings)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def message(error: BaseException) -> str:
    """What the user reads: one line."""
    assert isinstance(error, ShardError)
    assert "\n" not in str(error)
    return str(error)
