"""What every reader gives: a source, listed but not yet read; and videos in folders of files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

from preprocess import files
from shards.schema import Expression, Frame, ShardError, Video
from shards.writer import Plan

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

    def num_bytes(self) -> int:
        """Return the bytes of all frames; raises ShardError if one is missing."""
        return sum(files.file_size(self.images / f"{name}.jpg") for name in self.frames)


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
            plans=tuple(Plan(key, video.num_bytes()) for key, video in self.videos.items()),
            read=self.read,
            num_expressions=sum(len(video.expressions) for video in self.videos.values()),
            published=published,
            notes=tuple(notes),
        )

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken.
        """
        video, frames, sizes = self.videos[key], [], []
        for name in video.frames:
            image, size = files.read_jpeg(video.images / f"{name}.jpg")
            labels = video.labels and video.labels / f"{name}.png"
            masks = files.read_masks(labels) if labels and labels.exists() else None
            frames.append(Frame(name, image, "jpg", masks))
            sizes.append(size)
        if not frames:
            raise ShardError(f"video {key} has no frames: take it out of the list, or add them")
        numbers = {number for frame in frames for number in frame.masks or ()}
        names = {**self.label_names, **video.objects}
        return Video(
            key=key,
            dataset=self.dataset,
            split=self.split,
            video_id=key,
            height=sizes[0][0],
            width=sizes[0][1],
            frames=frames,
            objects={it: names.get(it, "") for it in sorted(numbers | {*video.objects}, key=int)},
            expressions=video.expressions,
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


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as JPEG without colour subsampling."""
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
