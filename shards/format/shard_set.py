"""`ShardSet`: a committed set of shards, and any frames of any of its videos, each by its range."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO, cast

import google_crc32c

from shards.errors import DamageError, ShardError
from shards.format.index import Columns, VideoRow
from shards.format.manifest import Manifest, ShardRecord
from shards.format.schema import Frame, Video, decode_masks, decode_sample
from shards.storage.cache import ShardCache
from shards.storage.storage import Span, Storage

__all__ = ["ShardSet", "VideoRow", "open_stream"]

_HEADER = 512  # bytes of a member's header in a tar; contents fill up to multiples of it
_FETCHES = 3  # of an index that is damaged on its way
_BESIDE = 4096  # bytes that header and padding may put between neighbours


class ShardSet:
    """A committed set of shards; made by `ShardSet.open`, safe between threads, pickled by address.

    Attributes:
        url: Address of the folder.
        manifest: What the set holds.
        hash: SHA-256 of the manifest.
        storage: Where it lives, and what was fetched from there.
        videos: A row for each video, in the order of the shards, and their numbers of frames and
            expressions as arrays.
    """

    def __init__(
        self, storage: Storage, manifest: Manifest, columns: Columns, *, gap: int | None = None
    ) -> None:
        self.url = storage.url
        self.storage = storage
        self.manifest = manifest
        self.hash = manifest.hash
        self._gap = gap
        self.videos = columns

    @classmethod
    def open(
        cls,
        url: str,
        *,
        gap: int | None = None,
        check_shards: bool = True,
        cache: ShardCache | None = None,
    ) -> "ShardSet":
        """Open a set.

        Args:
            url: Folder or URL prefix.
            gap: Frames so many bytes apart, or fewer, come in one request; None: if a frame or
                less lies between them, and in a local folder only neighbours.
            check_shards: Ask for the size of each shard, so that a missing or shortened one is
                found now.
            cache: Where to keep whole shards of a remote set.

        Raises:
            ShardError: If there is no manifest, it is of another format version, or an index or a
                shard is missing or not the one the manifest tells of.
        """
        storage = Storage(url)
        manifest = Manifest.load(storage)

        def load(shard: ShardRecord) -> bytes:
            if check_shards and (size := storage.size(shard.name)) != shard.bytes:
                raise _damaged(storage, shard.name, f"{size} bytes, should be {shard.bytes}")
            for _ in range(_FETCHES):
                data = storage.get(shard.index)
                if hashlib.sha256(data).hexdigest() == shard.index_sha256:
                    return data
            raise _damaged(storage, shard.index, "not the index the manifest tells of")

        if cache is not None:
            storage.use_cache(cache, {it.name: (it.sha256, it.bytes) for it in manifest.shards})
        with ThreadPoolExecutor(8) as pool:
            columns = Columns(list(pool.map(load, manifest.shards)))
        return cls(storage, manifest, columns, gap=gap)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by address."""
        return partial(ShardSet.open, gap=self._gap, check_shards=False), (self.url,)

    def read(self, video: int, frames: Sequence[int]) -> list[Frame]:
        """Some frames of a video.

        Args:
            video: Its number.
            frames: Their positions, in any order; repeats are fetched once.

        Raises:
            DamageError: If the shard is missing or a member is damaged; its part is the frame.
            ShardError: If the place does not answer.
        """
        return self._read(self.videos[video], frames)

    def video(self, video: int) -> Video:
        """A whole video, in one range."""
        row, told = self.videos[video], self.manifest
        frames = self._read(row, range(len(row.frame_names)))
        shared = ("key", "video_id", "height", "width", "objects", "expressions")
        about: dict[str, Any] = {name: getattr(row, name) for name in shared}
        return Video(**about, dataset=told.dataset, split=told.split, frames=frames)

    def _read(self, row: VideoRow, frames: Sequence[int]) -> list[Frame]:
        wanted = sorted(set(frames))
        spans, owners = self.spans(row, wanted)
        shard = self.manifest.shards[row.shard].name
        try:
            data = iter(self.storage.fetch(shard, spans, self.gap(row)))
        except DamageError as error:
            part = None if error.part is None else owners[error.part]
            raise DamageError(f"video {row.key}: {error}", part) from None
        except ShardError as error:
            raise ShardError(f"video {row.key}: {error}") from None
        made = {}
        for frame in wanted:
            name, extension, image = row.frame_names[frame], row.extensions[frame], next(data)
            masks = None
            if row.annotated[frame]:
                try:
                    masks = decode_masks(next(data), row.height, row.width)
                except ShardError as error:
                    raise DamageError(f"video {row.key}, frame {name}: {error}", frame) from None
            made[frame] = Frame(name, image, cast(Any, extension), masks)
        return [made[frame] for frame in frames]

    def spans(self, row: VideoRow, frames: Sequence[int]) -> tuple[list[Span], list[int]]:
        """The members of some frames of a video, and which frame each belongs to."""
        found = [(span, frame) for frame in frames for span in row.spans(frame)]
        return [span for span, _ in found], [frame for _, frame in found]

    def gap(self, row: VideoRow) -> int:
        """Members of a video so many bytes apart, or fewer, come in one request."""
        if self._gap is not None:
            return self._gap
        return _BESIDE if self.storage.local else _BESIDE + int(1.2 * row.images[1].mean())

    def sequential(self, shards: Container[int] | None = None) -> Iterator[Video]:
        """Whole videos in the order of the shards, each shard read once from start to end.

        Args:
            shards: Positions in `manifest.shards`; None: all.

        Raises:
            ShardError: If a shard is missing or cut short, or a member is damaged; a video is given
                whole or not at all.
        """
        for number, rows in groupby(self.videos, key=lambda row: row.shard):
            if shards is None or number in shards:
                name = self.manifest.shards[number].name
                with self.storage.stream(name) as file:
                    for row in rows:
                        yield self._next(row, file, name)

    def _next(self, row: VideoRow, file: BinaryIO, name: str) -> Video:
        """The next video of a shard, after its members were compared with the index."""
        sample: dict[str, Any] = {"__key__": row.key}
        for suffix, span in row.members().items():
            file.read(_HEADER)
            sample[suffix] = file.read(span.size)
            file.read(-span.size % _HEADER)
            if google_crc32c.value(sample[suffix]) != span.crc32c:
                place = f"{name}: {row.key}.{suffix}"
                raise _damaged(self.storage, place, "cut short or changed")
        return decode_sample(sample)


_SCHEME = "shards"


def open_stream(address: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    """Open "shards:URL/NAME.tar" for webdataset, through `shards.storage.storage`."""
    folder, _, name = address.removeprefix(f"{_SCHEME}:").rpartition("/")
    return Storage(folder).stream(name)


def register_scheme() -> None:
    """Let `webdataset.WebDataset("shards:URL/NAME.tar")` read from wherever shards may live."""
    from webdataset.gopen import gopen_schemes

    gopen_schemes[_SCHEME] = open_stream


def _damaged(storage: Storage, name: str, what: str) -> ShardError:
    return ShardError(f"{storage}/{name}: {what}; copy it again or build it again")
