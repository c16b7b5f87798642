"""The official files, opened so that what is missing or broken is said by name, in one line."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.errors import ShardError
from shards.format.image_header import image_size
from shards.format.rle import Rle, encode_mask

TAIL = 4096  # a whole JPEG ends within this many bytes of the file's end
AGAIN = "download it again"


@contextmanager
def blaming(problem: str, advice: str = AGAIN) -> Iterator[None]:
    """Turn whatever damaged input runs into inside into one line.

    Args:
        problem: which file, and what it is not.
        advice: what to do.

    Raises:
        ShardError: in place of any other error; that one is its cause.
    """
    try:
        yield
    except ShardError:
        raise
    except Exception as error:  # what wrong data does to the libraries that read it has no end
        raise ShardError(f"{problem} ({type(error).__name__}: {error}); {advice}") from error


def first_folder(what: str, *candidates: Path) -> Path:
    """Return the first candidate that is a folder.

    Raises:
        ShardError: none is.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    tried = " nor ".join(str(folder) for folder in candidates)
    raise ShardError(f"no {what}: there is no folder {tried}; check --root")


def data_folder(what: str, root: Path, name: str, inside: str) -> Path:
    """Return a folder below a data set's own one, `name`, be the root that or the one above it."""
    return first_folder(what, root / inside, root / name / inside)


def video_folder(what: str, video: str, trees: Iterable[Path]) -> Path:
    """Return a video's folder in the first of some folders that has one, as `first_folder` does."""
    return first_folder(f"{what} of video {video}", *(tree / video for tree in trees))


def file_size(path: Path) -> int:
    """Return a file's size in bytes.

    Raises:
        ShardError: it is missing.
    """
    with _missing(path):
        return path.stat().st_size


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        ShardError: it is missing or cannot be read.
    """
    with _missing(path):
        return path.read_bytes()


@contextmanager
def _missing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}; complete the download") from error


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return a file's text.

    Raises:
        ShardError: it is missing or not in this encoding.
    """
    with blaming(f"{path} is not {encoding}"):
        return read_bytes(path).decode(encoding)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ShardError: it is missing or is no JSON.
    """
    with blaming(f"{path} is no valid JSON"):
        return json.loads(read_bytes(path))


def read_rows(path: Path, header: str) -> list[list[str]]:
    """Return the cells of a comma-separated table of free text; the last column may have commas.

    Args:
        path: the table.
        header: its first line.

    Raises:
        ShardError: it is missing, or not in this form.
    """
    first, *lines = read_text(path).replace("\r\n", "\n").split("\n")
    rows = [line.split(",", header.count(",")) for line in lines if line.strip()]
    if first != header or any(len(row) <= header.count(",") for row in rows):
        raise ShardError(f"{path} is no table with the columns {header}; {AGAIN}")
    return rows


def read_png(path: Path) -> bytes:
    """Return the bytes of a PNG that is whole; raises ShardError for any other."""
    image = read_bytes(path)
    with blaming(f"{path} is no readable PNG"), Image.open(BytesIO(image), formats=("PNG",)) as it:
        it.verify()
    return image


def read_jpeg(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return the bytes of a JPEG, and its height and width in pixels.

    Raises:
        ShardError: it is missing, no JPEG or cut short.
    """
    image = read_bytes(path)
    size = image_size(image) if image.startswith(b"\xff\xd8") else None
    if size is None or 0 in size:
        raise ShardError(f"{path} is no readable JPEG; {AGAIN}")
    if b"\xff\xd9" not in image[-TAIL:]:
        raise ShardError(f"{path} is cut short: its end marker is missing; {AGAIN}")
    return image, size


def read_masks(path: Path) -> dict[str, Rle]:
    """Read a label map (palette or grey PNG) as one mask for each value but 0.

    Raises:
        ShardError: it is missing, broken or of another kind.
    """
    content = read_bytes(path)
    with blaming(f"{path} is no readable PNG"):
        picture = Image.open(BytesIO(content), formats=("PNG",))
        mode, labels = picture.mode, np.asarray(picture)
    if mode not in ("P", "L"):
        raise ShardError(
            f"{path} is a PNG of mode {mode}; label maps are palette or grey, one byte a pixel"
        )
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    return {str(value): encode_mask(labels == value) for value in present.tolist() if value}
