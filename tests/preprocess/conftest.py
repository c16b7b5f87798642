"""Small files and checks for the readers' tests."""

import hashlib
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.dataset import Source
from shards.format.rle import BoolArray, decode_mask
from shards.format.schema import Video


def jpeg(height: int, width: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: object) -> Path:
    """Write bytes, text, a label map [H, W] as palette PNG, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, np.ndarray):
        picture = Image.fromarray(content.astype(np.uint8)).convert("L")
        picture.putpalette(bytes(range(256)) * 3)
        picture.save(path)
    else:
        path.write_text(json.dumps(content))
    return path


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def digest(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def masks_of(source: Source, key: str) -> list[dict[str, BoolArray] | None]:
    return decoded(source.read(key))


def decoded(video: Video) -> list[dict[str, BoolArray] | None]:
    """Masks of every frame, None where it is not annotated."""
    frames: list[dict[str, BoolArray] | None] = []
    for frame in video.frames:
        if frame.masks is None:
            frames.append(None)
        else:
            frames.append({name: decode_mask(rle) for name, rle in frame.masks.items()})
    return frames


def check_round_trip(video: Video, images: Path, labels: Path) -> None:
    """Check that a video has its files' own bytes, and masks that are its label maps."""
    assert len(video.frames) == len(list(images.glob("*.jpg")))
    for frame, masks in zip(video.frames, decoded(video), strict=True):
        assert frame.image == (images / f"{frame.name}.jpg").read_bytes()
        assert masks is not None
        expected = labels_of(labels / f"{frame.name}.png")
        assert expected.shape == (video.height, video.width)
        values = np.unique(expected).tolist()
        assert set(masks) == {str(value) for value in values if value != 0}
        assert set(masks) <= set(video.objects)
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, expected == int(name))
