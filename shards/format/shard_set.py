"""`ShardSet`: a committed set of shards, and any frames of any of its videos, each by its range."""

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import BinaryIO, NamedTuple, cast

import google_crc32c

from shards.errors import DamageError, ShardError
from shards.format.index import Columns, VideoRow
from shards.format.manifest import Manifest, ShardRecord
from shards.format.rle import Rle
from shards.format.schema import Extension, Frame, Video, decode_masks, decode_sample
from shards.format.tar import BLOCK_BYTES
from shards.storage.cache import CachedShard, ShardCache
from shards.storage.storage import Span, Storage

__all__ = ["ShardSet", "VideoRow", "open_stream", "register_scheme"]

_INDEX_FETCHES = 3  # of an index that is damaged on its way
_INDEX_THREADS = 8
# Between two members that follow each other lie padding and a header, 1,023 bytes at most; the room
# that is left takes a masks member or two that nobody asked for.
_HEADER_AND_PADDING_BYTES = 4096
# A remote request costs more than the bytes of a frame, so one that nobody asked for is read over.
# docs/benchmarks.md, Storage, has what other gaps cost; 1.2 allows for frames above the mean.
_FRAMES_PER_GAP = 1.2


class FrameSpans(NamedTuple):
    """The members of some frames of a video.

    Attributes:
        spans: Where they lie.
        frames: The frame that each of them belongs to.
    """

    spans: list[Span]
    frames: list[int]


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
        self.videos = columns
        self._gap = gap

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
                noticed now.
            cache: Keeps whole shards of a remote set.

        Raises:
            ShardError: If there is no manifest, it is of another format version, or an index or a
                shard is missing or not the one that the manifest lists.
        """
        storage = Storage(url)
        manifest = Manifest.load(storage)
        if cache is not None:
            entries = {
                shard.name: CachedShard(shard.sha256, shard.bytes) for shard in manifest.shards
            }
            storage.use_cache(cache, entries)

        def load(shard: ShardRecord) -> bytes:
            if check_shards:
                _check_size(storage, shard)
            return _load_index(storage, shard)

        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            files = list(pool.map(load, manifest.shards))
        try:
            columns = Columns(files, [shard.bytes for shard in manifest.shards])
        except ShardError as error:
            raise ShardError(f"{storage}: {error}") from None
        return cls(storage, manifest, columns, gap=gap)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def __reduce__(self) -> tuple[Callable[[str], "ShardSet"], tuple[str]]:
        """Pickle by address; the shards were checked when this set was opened."""
        return partial(ShardSet.open, gap=self._gap, check_shards=False), (self.url,)

    def read(self, video: int, frames: Sequence[int]) -> list[Frame]:
        """Read some frames of a video.

        Args:
            video: Position in `videos`.
            frames: Positions in the video, in any order; repeats are fetched once.

        Raises:
            DamageError: If the shard is missing or a member is damaged; its part is the frame.
            ShardError: If the storage does not answer.
        """
        return self._read(self.videos[video], frames)

    def video(self, video: int) -> Video:
        """Read a whole video, in one range."""
        row = self.videos[video]
        frames = self._read(row, range(len(row.frame_names)))
        return Video(
            key=row.key,
            dataset=self.manifest.dataset,
            split=self.manifest.split,
            video_id=row.video_id,
            height=row.height,
            width=row.width,
            frames=frames,
            objects=row.objects,
            expressions=row.expressions,
        )

    def _read(self, row: VideoRow, frames: Sequence[int]) -> list[Frame]:
        distinct = sorted(set(frames))
        spans, owners = self.spans(row, distinct)
        shard = self.manifest.shards[row.shard].name
        try:
            members = self.storage.fetch(shard, spans, self.gap(row))
        except DamageError as error:
            part = None if error.part is None else owners[error.part]
            raise DamageError(f"video {row.key}: {error}", part) from None
        except ShardError as error:
            raise ShardError(f"video {row.key}: {error}") from None
        members_of: dict[int, list[bytes]] = {frame: [] for frame in distinct}
        for member, owner in zip(members, owners, strict=True):
            members_of[owner].append(member)
        decoded = {frame: _decode_frame(row, frame, members_of[frame]) for frame in distinct}
        return [decoded[frame] for frame in frames]

    def spans(self, row: VideoRow, frames: Sequence[int]) -> FrameSpans:
        """Find the members of some frames of a video: of each frame its image, then its masks."""
        spans: list[Span] = []
        owners: list[int] = []
        for frame in frames:
            for span in row.spans(frame):
                spans.append(span)
                owners.append(frame)
        return FrameSpans(spans, owners)

    def gap(self, row: VideoRow) -> int:
        """Members of a video so many bytes apart, or fewer, come in one request."""
        if self._gap is not None:
            return self._gap
        if self.storage.local is not None:
            return _HEADER_AND_PADDING_BYTES
        mean_image_bytes = row.images[1].mean()
        return _HEADER_AND_PADDING_BYTES + int(_FRAMES_PER_GAP * mean_image_bytes)

    def sequential(self, shards: Container[int] | None = None) -> Iterator[Video]:
        """Read whole videos in the order of the shards, each shard once from start to end.

        Args:
            shards: Positions in `manifest.shards`; None: all.

        Raises:
            ShardError: If a shard is missing or cut short, or a member is damaged; a video is
                yielded whole or not at all.
        """
        for number, rows in groupby(self.videos, key=lambda row: row.shard):
            if shards is not None and number not in shards:
                continue
            name = self.manifest.shards[number].name
            with self.storage.stream(name) as file:
                for row in rows:
                    yield self._next_video(row, file, name)

    def _next_video(self, row: VideoRow, file: BinaryIO, shard: str) -> Video:
        """Read the next video of a shard; its members are compared with the index."""
        sample: dict[str, object] = {"__key__": row.key}
        for suffix, span in row.members().items():
            file.read(BLOCK_BYTES)  # the tar header
            member = file.read(span.size)
            file.read(-span.size % BLOCK_BYTES)  # padding
            if google_crc32c.value(member) != span.crc32c:
                raise _damaged(self.storage, f"{shard}: {row.key}.{suffix}", "cut short or changed")
            sample[suffix] = member
        return decode_sample(sample)


def _decode_frame(row: VideoRow, frame: int, members: Sequence[bytes]) -> Frame:
    """A frame from its members: its image and, if it is annotated, its masks."""
    name = row.frame_names[frame]
    masks: dict[str, Rle] | None = None
    if row.annotated[frame]:
        try:
            masks = decode_masks(members[1], row.height, row.width)
        except ShardError as error:
            raise DamageError(f"video {row.key}, frame {name}: {error}", frame) from None
    # the index holds what `prepare_video` has checked
    extension = cast(Extension, row.extensions[frame])
    return Frame(name, members[0], extension, masks)


def _check_size(storage: Storage, shard: ShardRecord) -> None:
    size = storage.size(shard.name)
    if size != shard.bytes:
        raise _damaged(storage, shard.name, f"{size} bytes, should be {shard.bytes}")


def _load_index(storage: Storage, shard: ShardRecord) -> bytes:
    # a remote index has no checksum on its way, so one that is wrong is fetched anew
    for _ in range(_INDEX_FETCHES):
        data = storage.get(shard.index)
        if hashlib.sha256(data).hexdigest() == shard.index_sha256:
            return data
    raise _damaged(storage, shard.index, "not the index the manifest tells of")


def _damaged(storage: Storage, name: str, problem: str) -> ShardError:
    return ShardError(f"{storage}/{name}: {problem}; copy it again or build it again")


_SCHEME = "shards"


def open_stream(address: str, mode: str = "rb", bufsize: int = 8192) -> BinaryIO:
    """Open "shards:URL/NAME.tar" for webdataset, through `shards.storage`.

    Args:
        address: Of a tar, behind our scheme.
        mode: Only "rb"; webdataset passes it.
        bufsize: Not used; webdataset passes it.
    """
    folder, _, name = address.removeprefix(f"{_SCHEME}:").rpartition("/")
    return Storage(folder).stream(name)


def register_scheme() -> None:
    """Let `webdataset.WebDataset("shards:URL/NAME.tar")` read from wherever shards may live."""
    from webdataset.gopen import gopen_schemes

    gopen_schemes[_SCHEME] = open_stream
