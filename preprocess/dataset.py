"""What every reader gives: a source, listed but not yet read; and videos in folders of files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from preprocess import official_files as files
from shards.build.plan import Plan
from shards.errors import ShardError
from shards.format.schema import Expression, Frame, Video

Published = int | tuple[int, ...] | None
Counts = tuple[Published, Published]  # of videos, of expressions


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
    published: Counts = (None, None)
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
class Listed:
    """What the lists tell about a video.

    Args:
        name: the data set's own.
        frames: names of the frames in time order, or of those that matter.
        objects: object id to category, as far as the data set tells.
        expressions: what is said about the video.
    """

    name: str
    frames: tuple[str, ...]
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class Reader(ABC):
    """The videos of a split by key: what all readers share. Picklable.

    Args:
        dataset: name in manifests and file names.
        split: name of the split.
        videos: key to what is listed.
    """

    dataset: str
    split: str
    videos: Mapping[str, Listed]

    @abstractmethod
    def files(self, key: str) -> Iterable[Path]:
        """Return the files whose bytes a video will take; raises ShardError if one is missing."""

    @abstractmethod
    def read(self, key: str) -> Video:
        """Read a video; raises ShardError if a file of it is missing or broken."""

    def video(
        self, key: str, size: tuple[int, int], frames: Sequence[Frame], objects: Mapping[str, str]
    ) -> Video:
        """Put a video together; `size` is its height and width in pixels."""
        it = self.videos[key]
        return Video(key, self.dataset, self.split, it.name, *size, frames, objects, it.expressions)

    def source(self, published: Counts, growth: int = 1, **rest: Any) -> Source:
        """Return the source of these videos.

        Args:
            published: as in `Source`.
            growth: bytes in the shard for each byte of the files, about.
            rest: of `Source`.

        Raises:
            ShardError: a file is missing.
        """
        plans = (
            Plan(key, growth * sum(map(files.file_size, self.files(key)))) for key in self.videos
        )
        said = sum(len(video.expressions) for video in self.videos.values())
        return Source(self.dataset, self.split, tuple(plans), self.read, said, published, **rest)


@dataclass(frozen=True)
class VideoFolders(Reader):
    """Videos in folders of frames ``<frame>.jpg``, their key being the official name.

    Args:
        images: folders that may hold a video's folder of frames.
        labels: folders that may hold its folder of label maps ``<frame>.png``, a pixel's value
            being its object's id; empty: no masks.
        label_names: categories of special label values, such as 255 for void.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    label_names: Mapping[str, str] = field(default_factory=dict)

    def files(self, key: str) -> list[Path]:
        """Return the files of the frames; raises ShardError if a folder is missing."""
        if self.labels:
            files.video_folder("masks", key, self.labels)
        images = files.video_folder("frames", key, self.images)
        return [images / f"{name}.jpg" for name in self.videos[key].frames]

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken.
        """
        listed, frames, sizes = self.videos[key], [], []
        labels = files.video_folder("masks", key, self.labels) if self.labels else None
        for path in self.files(key):
            image, size = files.read_jpeg(path)
            drawn = labels and labels / f"{path.stem}.png"
            masks = files.read_masks(drawn) if drawn and drawn.exists() else None
            frames.append(Frame(path.stem, image, "jpg", masks))
            sizes.append(size)
        if not frames:
            raise ShardError(f"video {key} has no frames: take it out of the list, or add them")
        names = {**self.label_names, **listed.objects}
        numbers = {*listed.objects}.union(*(frame.masks or () for frame in frames))
        objects = {number: names.get(number, "") for number in sorted(numbers, key=int)}
        return self.video(key, sizes[0], frames, objects)


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


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as JPEG without colour subsampling."""
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
