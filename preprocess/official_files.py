"""The official files, opened so that an error names the file and what is wrong, in one line."""

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

# A whole JPEG has its end marker within so many bytes of the file's end: padding may follow it.
JPEG_TAIL_BYTES = 4096
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
DOWNLOAD_AGAIN = "download it again"


@contextmanager
def as_shard_error(problem: str, advice: str = DOWNLOAD_AGAIN) -> Iterator[None]:
    """Re-raise any error inside as one `ShardError` that names the file.

    Args:
        problem: which file, and what is wrong with it.
        advice: what to do.

    Raises:
        ShardError: in place of any other error, which becomes its cause; one from inside is left
            as it is.
    """
    try:
        yield
    except ShardError:
        raise
    # damaged input makes json, h5py, scipy, PyAV and Pillow raise nearly everything
    except Exception as error:
        raise ShardError(f"{problem} ({type(error).__name__}: {error}); {advice}") from error


def first_folder(description: str, *candidates: Path) -> Path:
    """Return the first candidate that is a folder.

    Raises:
        ShardError: none is.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    tried = " nor ".join(str(folder) for folder in candidates)
    raise ShardError(f"no {description}: there is no folder {tried}; check --root")


def data_folder(description: str, root: Path, name: str, inside: str) -> Path:
    """Return ``root/inside`` or ``root/name/inside``, whichever exists.

    Args:
        description: of what is looked for, in an error.
        root: a data set's own folder, or the one above it.
        name: of the data set's own folder.
        inside: path of the folder to find in the data set's own one.

    Raises:
        ShardError: there is neither.
    """
    return first_folder(description, root / inside, root / name / inside)


def video_folder(description: str, video: str, trees: Iterable[Path]) -> Path:
    """Return a video's folder in the first tree that has one.

    Raises:
        ShardError: none has.
    """
    candidates = [tree / video for tree in trees]
    return first_folder(f"{description} of video {video}", *candidates)


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
    with as_shard_error(f"{path} is not {encoding}"):
        return read_bytes(path).decode(encoding)


def read_json(path: Path) -> Any:  # as `json.loads` does: what is inside is checked by its use
    """Return what a JSON file holds.

    Raises:
        ShardError: it is missing or is no JSON.
    """
    with as_shard_error(f"{path} is no valid JSON"):
        return json.loads(read_bytes(path))


def read_rows(path: Path, header: str) -> list[list[str]]:
    """Return the cells of a comma-separated table of free text; the last column may have commas.

    The csv module is of no use here: the texts have lone quotes.

    Args:
        path: the table.
        header: its first line.

    Raises:
        ShardError: it is missing, or not in this form.
    """
    first_line, *lines = read_text(path).replace("\r\n", "\n").split("\n")
    num_commas = header.count(",")
    rows = [line.split(",", num_commas) for line in lines if line.strip()]
    if first_line != header or any(len(row) <= num_commas for row in rows):
        raise ShardError(f"{path} is no table with the columns {header}; {DOWNLOAD_AGAIN}")
    return rows


def read_png(path: Path) -> bytes:
    """Return the bytes of a PNG.

    Raises:
        ShardError: it is missing, no PNG or damaged.
    """
    content = read_bytes(path)
    file = BytesIO(content)
    problem = f"{path} is no readable PNG"
    with as_shard_error(problem), Image.open(file, formats=("PNG",)) as picture:
        picture.verify()  # compares the checksums of all chunks
    return content


def read_jpeg(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return the bytes of a JPEG, and its height and width in pixels.

    The pixels are not decoded: that would take most of a build's time.

    Raises:
        ShardError: it is missing, no JPEG or cut short.
    """
    content = read_bytes(path)
    size = image_size(content) if content.startswith(JPEG_START) else None
    if size is None or 0 in size:
        raise ShardError(f"{path} is no readable JPEG; {DOWNLOAD_AGAIN}")
    if JPEG_END not in content[-JPEG_TAIL_BYTES:]:
        raise ShardError(f"{path} is cut short: its end marker is missing; {DOWNLOAD_AGAIN}")
    return content, size


def read_masks(path: Path) -> dict[str, Rle]:
    """Read a label map (palette or grey PNG) as one mask for each value but 0.

    Raises:
        ShardError: it is missing, broken or of another kind.
    """
    content = read_bytes(path)
    with as_shard_error(f"{path} is no readable PNG"):
        picture = Image.open(BytesIO(content), formats=("PNG",))
        mode = picture.mode
        labels = np.asarray(picture)
    if mode not in ("P", "L"):
        raise ShardError(
            f"{path} is a PNG of mode {mode}; label maps are palette or grey, one byte a pixel"
        )
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    masks = {}
    for value in present.tolist():
        if value != 0:
            masks[str(value)] = encode_mask(labels == value)
    return masks
