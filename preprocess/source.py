"""What every reader gives: a source, listed but not yet read; and videos that are folders of files.

The official files are opened here, so that what is missing or broken is said by name, in one line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.schema import Expression, Frame, Rle, ShardError, Video, encode_mask, image_size
from shards.writer import Plan

TAIL = 4096  # a whole JPEG ends within this many bytes of the file's end
Published = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Source:
    """One split of one data set.

    Args:
        dataset: name in manifests and file names.
        split: name of the split.
        plans: what there is to read, in the data set's own order.
        read: turns the key of a plan into a video; picklable.
        num_expressions: over all plans.
        published: official numbers of videos and of expressions, None where not known, several
            where several releases differ.
        notes: known oddities met while listing, in plain words.
        lists: what else was counted: its name, number found, official number.
        left_out: videos and expressions that are listed but filtered out.
    """

    dataset: str
    split: str
    plans: tuple[Plan, ...]
    read: Callable[[str], Video]
    num_expressions: int
    published: tuple[Published, Published] = (None, None)
    notes: tuple[str, ...] = ()
    lists: tuple[tuple[str, int, int], ...] = ()
    left_out: tuple[int, int] = (0, 0)

    def check_complete(self) -> None:
        """Compare with the published counts.

        Raises:
            ShardError: the source has more or fewer videos or expressions.
        """
        found = (len(self.plans) + self.left_out[0], self.num_expressions + self.left_out[1])
        counts = zip(("videos", "expressions"), found, self.published, strict=True)
        for what, number, published in (*self.lists, *counts):
            allowed = published if isinstance(published, tuple) else (published,)
            if published is not None and number not in allowed:
                told = " or ".join(map(str, allowed))
                raise ShardError(
                    f"{self.dataset} {self.split} has {number} {what}, published are {told}: "
                    f"complete the download, or add --allow-partial to go on with these"
                )


@dataclass(frozen=True)
class VideoFolder:
    """A video whose frames, and label maps if any, are files in folders.

    Args:
        images: folder of ``<frame>.jpg``.
        labels: folder of ``<frame>.png``, a pixel's value being its object's id; None: no masks.
        frames: names of the frames in time order.
        objects: object id to category, as far as the data set tells.
        expressions: what is said about the video.
    """

    images: Path
    labels: Path | None
    frames: tuple[str, ...]
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class VideoFolders:
    """Videos by their key, which is also the official name.

    Args:
        dataset: name in manifests and file names.
        split: name of the split.
        videos: key to folders.
        label_names: categories of special label values, such as 255 for void.
    """

    dataset: str
    split: str
    videos: Mapping[str, VideoFolder]
    label_names: Mapping[str, str] = field(default_factory=dict)

    def source(self, published: tuple[Published, Published], notes: Iterable[str] = ()) -> Source:
        """Return the source of these videos.

        Raises:
            ShardError: a frame is missing.
        """
        return Source(
            dataset=self.dataset,
            split=self.split,
            plans=tuple(
                Plan(key, sum(file_size(video.images / f"{name}.jpg") for name in video.frames))
                for key, video in self.videos.items()
            ),
            read=self.read,
            num_expressions=sum(len(video.expressions) for video in self.videos.values()),
            published=published,
            notes=tuple(notes),
        )

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing, broken or of another size than the rest.
        """
        files = self.videos[key]
        frames = []
        size: tuple[int, int] | None = None
        for name in files.frames:
            image = read_bytes(files.images / f"{name}.jpg")
            size = jpeg_size(image, files.images / f"{name}.jpg", size)
            masks = None
            if files.labels is not None and (files.labels / f"{name}.png").exists():
                masks = read_masks(files.labels / f"{name}.png", size)
            frames.append(Frame(name=name, image=image, extension="jpg", masks=masks))
        if size is None:
            raise ShardError(f"video {key} has no frames: take it out of the list, or add them")
        numbers = {number for frame in frames for number in frame.masks or ()}
        names = {**self.label_names, **files.objects}
        return Video(
            key=key,
            dataset=self.dataset,
            split=self.split,
            video_id=key,
            height=size[0],
            width=size[1],
            frames=frames,
            objects={it: names.get(it, "") for it in sorted(numbers | {*files.objects}, key=int)},
            expressions=files.expressions,
        )


def expression(number: object, text: object, object_id: object, kind: object = "") -> Expression:
    """Make an expression about an object, a list of them, or None where that is not told.

    Raises:
        ValueError: the text or the kind is no string.
    """
    if not isinstance(text, str) or not isinstance(kind, str):
        raise ValueError(f"expression {number}: {text!r} ({kind!r}) is no text")
    named = object_id if isinstance(object_id, list) else [object_id]
    objects = dict.fromkeys(str(it) for it in named if it is not None)
    return Expression(str(number), text, tuple(objects), kind)


@contextmanager
def blaming(problem: str, advice: str = "download it again") -> Iterator[None]:
    """Turn whatever damaged input runs into inside into one line.

    Args:
        problem: which file, and what it is not.
        advice: what to do.

    Raises:
        ShardError: in place of an error that wrong data can cause.
    """
    try:
        yield
    except ShardError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
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
    try:
        return read_bytes(path).decode(encoding)
    except UnicodeDecodeError as error:
        raise ShardError(f"{path} is not {encoding} ({error}); download it again") from error


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
        raise ShardError(f"{path} is no table with the columns {header}; download it again")
    return rows


def png_size(image: bytes, path: Path) -> tuple[int, int]:
    """Return height and width in pixels of a PNG that is whole; raises as `jpeg_size` does."""
    with _opened_png(image, path) as picture:
        picture.verify()
        return picture.height, picture.width


@contextmanager
def _opened_png(image: bytes, path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(BytesIO(image), formats=("PNG",)) as picture:
            yield picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ShardError(f"{path} is no readable PNG; download it again") from error


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as JPEG without colour subsampling."""
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def jpeg_size(image: bytes, path: Path, expected: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width in pixels of a JPEG that is whole.

    Args:
        image: the file's bytes.
        path: named in errors.
        expected: height and width that it must have, if known.

    Raises:
        ShardError: it is no JPEG, is cut short, or has another size.
    """
    size = image_size(image) if image.startswith(b"\xff\xd8") else None
    if size is None or 0 in size:
        raise ShardError(f"{path} is no readable JPEG; download it again")
    if b"\xff\xd9" not in image[-TAIL:]:
        raise ShardError(f"{path} is cut short: its end marker is missing; download it again")
    if expected is not None and size != expected:
        raise ShardError(
            f"{path} has {size[0]}x{size[1]} pixels, expected are {expected[0]}x{expected[1]}"
        )
    return size


def read_masks(path: Path, size: tuple[int, int]) -> dict[str, Rle]:
    """Read a label map (palette or grey PNG) as one mask for each value but 0.

    Args:
        path: the PNG.
        size: height and width that it must have.

    Raises:
        ShardError: it is broken, of another kind or of another size.
    """
    with _opened_png(read_bytes(path), path) as picture:
        mode, labels = picture.mode, np.asarray(picture)
    if mode not in ("P", "L"):
        raise ShardError(
            f"{path} is a PNG of mode {mode}; label maps are palette or grey, one byte a pixel"
        )
    if labels.shape != size:
        raise ShardError(
            f"{path} has {labels.shape[0]}x{labels.shape[1]} pixels, "
            f"its frame {size[0]}x{size[1]}: they must be equal"
        )
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    return {str(value): encode_mask(labels == value) for value in present.tolist() if value}
