"""What readers share: the videos of a split by key, and videos in folders of files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preprocess import official_files as files
from preprocess.dataset import LeftOut, ListCount, PublishedCounts, Source
from shards.build.plan import Plan
from shards.errors import ShardError
from shards.format.schema import Expression, Frame, Video


@dataclass(frozen=True)
class VideoListing:
    """What the lists tell about a video.

    Attributes:
        name: the data set's own.
        frames: names of the frames in time order, or of those that matter.
        objects: object id to category, as far as the data set tells.
        expressions: in the data set's own order.
    """

    name: str
    frames: tuple[str, ...]
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class Reader(ABC):
    """The videos of a split by key. Picklable.

    Attributes:
        dataset: name in manifests and file names.
        split: name of the split.
        videos: key to what is listed.
    """

    dataset: str
    split: str
    videos: Mapping[str, VideoListing]

    @abstractmethod
    def files(self, key: str) -> Iterable[Path]:
        """Return the files whose bytes a video will take; raises ShardError if one is missing."""

    @abstractmethod
    def read(self, key: str) -> Video:
        """Read a video; raises ShardError if a file of it is missing or broken."""

    def make_video(
        self, key: str, size: tuple[int, int], frames: Sequence[Frame], objects: Mapping[str, str]
    ) -> Video:
        """Put a video together; `size` is its height and width in pixels."""
        height, width = size
        listing = self.videos[key]
        return Video(
            key=key,
            dataset=self.dataset,
            split=self.split,
            video_id=listing.name,
            height=height,
            width=width,
            frames=frames,
            objects=objects,
            expressions=listing.expressions,
        )

    def make_source(
        self,
        published: PublishedCounts,
        *,
        growth: int = 1,
        notes: Iterable[str] = (),
        lists: tuple[ListCount, ...] = (),
        left_out: LeftOut = LeftOut(),  # noqa: B008  (a tuple never changes)
    ) -> Source:
        """Return the source of these videos.

        Args:
            published: as in `Source`.
            growth: bytes in the shard for each byte of the files, about.
            notes: as in `Source`.
            lists: as in `Source`.
            left_out: as in `Source`.

        Raises:
            ShardError: a file is missing.
        """
        plans = []
        for key in self.videos:
            num_bytes = sum(files.file_size(path) for path in self.files(key))
            plans.append(Plan(key, growth * num_bytes))
        return Source(
            dataset=self.dataset,
            split=self.split,
            plans=tuple(plans),
            read=self.read,
            num_expressions=sum(len(listing.expressions) for listing in self.videos.values()),
            published=published,
            notes=tuple(notes),
            lists=lists,
            left_out=left_out,
        )


@dataclass(frozen=True)
class VideoFolders(Reader):
    """Videos in folders of frames ``<frame>.jpg``, their key being the official name.

    Attributes:
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
        self._label_folder(key)
        images = files.video_folder("frames", key, self.images)
        return [images / f"{name}.jpg" for name in self.videos[key].frames]

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken.
        """
        label_folder = self._label_folder(key)
        frames = []
        sizes = []
        for path in self.files(key):
            image, size = files.read_jpeg(path)
            masks = None
            if label_folder is not None:
                label_map = label_folder / f"{path.stem}.png"
                # a frame without a label map is one that nobody annotated
                if label_map.exists():
                    masks = files.read_masks(label_map)
            frames.append(Frame(path.stem, image, "jpg", masks))
            sizes.append(size)
        if not frames:
            raise ShardError(f"video {key} has no frames: take it out of the list, or add them")
        return self.make_video(key, sizes[0], frames, self._objects(key, frames))

    def _label_folder(self, key: str) -> Path | None:
        """Return the folder of label maps, None in a split without; ShardError if missing."""
        if not self.labels:
            return None
        return files.video_folder("masks", key, self.labels)

    def _objects(self, key: str, frames: Iterable[Frame]) -> dict[str, str]:
        """Return id and category of what is listed or drawn, in the order of the ids."""
        listed = self.videos[key].objects
        categories = {**self.label_names, **listed}
        numbers = set(listed)
        for frame in frames:
            numbers.update(frame.masks or {})
        return {number: categories.get(number, "") for number in sorted(numbers, key=int)}


def make_expression(
    number: object, text: object, object_id: object, kind: object = ""
) -> Expression:
    """Make an expression about an object, a list of them, or None where that is not told.

    Raises:
        ValueError: the text or the kind is no string.
    """
    if not isinstance(text, str) or not isinstance(kind, str):
        raise ValueError(f"expression {number}: {text!r} ({kind!r}) is no text")
    object_ids = object_id if isinstance(object_id, list) else [object_id]
    # a dict keeps the order and drops repeats
    objects = dict.fromkeys(str(number) for number in object_ids if number is not None)
    return Expression(str(number), text, tuple(objects), kind)
