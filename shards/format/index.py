"""The Parquet index of a shard: collected while a tar is written, read back as arrays and rows."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ShardError
from shards.format.checks import (
    BAD_NAME,
    KEY_PATTERN,
    MAX_FRAMES,
    MAX_NAME_BYTES,
    MAX_PIXELS,
    MAX_SIDE_PX,
    checked_key,
    checked_name,
)
from shards.format.manifest import Counts
from shards.format.rle import BoolArray, IntArray
from shards.format.schema import Expression, Video, image_suffix, masks_suffix
from shards.storage.storage import Span

_ROWS_PER_GROUP = 1024  # rows that are packed, and later walked over, at once
_MAX_INDEX_BYTES = 1 << 29  # unpacked; an index of 1,000 videos of 30 frames takes 2 MB
_MAX_REASON_CHARACTERS = 300
_NO_SPAN = -1  # where a frame has no masks; Arrow's nulls do not survive the way to numpy

_SPAN = pa.struct({"offset": pa.int64(), "size": pa.int64(), "crc32c": pa.uint32()})
_OBJECT = pa.struct({"id": pa.string(), "category": pa.string(), "visible": pa.list_(pa.bool_())})
_EXPRESSION = pa.struct(
    {
        "id": pa.string(),
        "text": pa.string(),
        "objects": pa.list_(pa.string()),
        "kind": pa.string(),
    }
)
_FRAME = pa.struct(
    {"name": pa.string(), "extension": pa.string(), "image": _SPAN, "masks": _SPAN},
)
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "video_id": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "head": _SPAN,
        "objects": pa.list_(_OBJECT),
        "expressions": pa.list_(_EXPRESSION),
        "frames": pa.list_(_FRAME),
    }
)


@dataclass(frozen=True, eq=False)
class VideoRow:
    """One video as the index knows it; arrays have one entry a frame, `[F]`.

    Attributes:
        key: Unique in the set.
        video_id: The data set's own name.
        height: In pixels.
        width: In pixels.
        shard: Position in `manifest.shards`.
        frame_names: In time order.
        annotated: True where the frame carries ground truth.
        objects: Object id to category.
        expressions: In the order of the data set.
        visible: Object id to True where the object is in the frame.
        extensions: "jpg" or "png" for each frame.
        head: Span of the .json member.
        images: `[3, F]`, offset, size and CRC-32C of each image.
        masks: `[3, F]`, the same of the masks; -1 where there are none.
    """

    key: str
    video_id: str
    height: int
    width: int
    shard: int
    frame_names: Sequence[str]
    annotated: BoolArray
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]
    visible: Mapping[str, BoolArray]
    extensions: Sequence[str]
    head: Span
    images: IntArray
    masks: IntArray

    def spans(self, frame: int) -> list[Span]:
        """Where a frame's image lies and, if it is annotated, its masks."""
        spans = [Span(*self.images[:, frame].tolist())]
        if self.annotated[frame]:
            spans.append(Span(*self.masks[:, frame].tolist()))
        return spans

    def members(self) -> dict[str, Span]:
        """Where every member of the sample lies, by its suffix, in the order of the tar."""
        members = {"json": self.head}
        for frame, extension in enumerate(self.extensions):
            spans = self.spans(frame)
            members[image_suffix(frame, extension)] = spans[0]
            if self.annotated[frame]:
                members[masks_suffix(frame)] = spans[1]
        return members


class IndexWriter:
    """Collects the index of a shard.

    Rows become Arrow arrays a group at a time: as Python objects they would take several times the
    memory.

    Attributes:
        counts: How much was added; bytes are not counted here.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self._rows: list[dict[str, object]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, video: Video, spans: Mapping[str, Span]) -> None:
        """Add a video.

        Args:
            video: As it was written: prepared.
            spans: Where each of its members lies, by suffix.
        """
        self._rows.append(_row(video, spans))
        self.counts += Counts(
            videos=1,
            frames=len(video.frames),
            annotated_frames=sum(frame.masks is not None for frame in video.frames),
            objects=len(video.objects),
            expressions=len(video.expressions),
        )
        if len(self._rows) == _ROWS_PER_GROUP:
            self._pack()

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
        self._rows = []

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """Write the Parquet file, equal for equal content.

        Args:
            metadata: Kept with the schema.
        """
        self._pack()  # what is left; may be nothing
        table = pa.Table.from_batches(self._batches, SCHEMA)
        file = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata(dict(metadata)),
            file,
            row_group_size=_ROWS_PER_GROUP,
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        )
        return file.getvalue()


def _row(video: Video, spans: Mapping[str, Span]) -> dict[str, object]:
    """One video in the columns of `SCHEMA`; every frame has an entry, annotated or not."""
    frames = []
    for position, frame in enumerate(video.frames):
        image_span = spans[image_suffix(position, frame.extension)]
        masks_span = None
        if frame.masks is not None:
            masks_span = _span_row(spans[masks_suffix(position)])
        frames.append(
            {
                "name": frame.name,
                "extension": frame.extension,
                "image": _span_row(image_span),
                "masks": masks_span,
            }
        )
    objects = [
        {
            "id": object_id,
            "category": category,
            "visible": [object_id in (frame.masks or {}) for frame in video.frames],
        }
        for object_id, category in video.objects.items()
    ]
    expressions = [
        {
            "id": expression.id,
            "text": expression.text,
            "objects": expression.objects,
            "kind": expression.kind,
        }
        for expression in video.expressions
    ]
    return {
        "key": video.key,
        "video_id": video.video_id,
        "height": video.height,
        "width": video.width,
        "head": _span_row(spans["json"]),
        "objects": objects,
        "expressions": expressions,
        "frames": frames,
    }


def _span_row(span: Span) -> dict[str, int]:
    return {"offset": span.offset, "size": span.size, "crc32c": span.crc32c}


def read_index(data: bytes) -> pa.Table:
    """Read the table of one index and check its pages.

    Raises:
        ShardError: If the file is not Parquet, or damaged.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        # the footer tells the sizes before anything is unpacked
        num_bytes = sum(
            file.metadata.row_group(number).total_byte_size
            for number in range(file.metadata.num_row_groups)
        )
        if num_bytes > _MAX_INDEX_BYTES:
            raise ValueError(f"{num_bytes} bytes when unpacked")
        return file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(
            f"an index is damaged ({_one_line(error)}); copy or build it again"
        ) from None


def _one_line(error: Exception) -> str:
    """Arrow's messages have several lines."""
    return " ".join(str(error).split())[:_MAX_REASON_CHARACTERS]


class Columns:
    """The indexes of a whole set as flat arrays; a row is made when asked for and not kept.

    Args:
        files: The indexes in the order of the shards.
        shard_bytes: Of the shards; members must lie inside.

    Attributes:
        num_frames: `[N]`, of each video.
        num_expressions: `[N]`, of each video.
        shard: `[N]`, position of the video's shard in the manifest; never falls.

    Raises:
        ShardError: If a file is no index, or holds a name, size or span that none may hold.
    """

    def __init__(self, files: Sequence[bytes], shard_bytes: Sequence[int]) -> None:
        tables = [read_index(data) for data in files]
        try:
            table = pa.concat_tables(
                [table.select(SCHEMA.names).cast(SCHEMA) for table in tables]
            ).combine_chunks()
            table.validate(full=True)
            _check_nulls(table)
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise ShardError(
                f"an index does not hold its columns ({_one_line(error)}); build again"
            ) from None
        # Numbers of frames become numpy arrays; what has to become Python objects stays in Arrow,
        # which takes a fraction of their memory, until a row is asked for.
        self._texts = table.select(
            ["key", "video_id", "height", "width", "objects", "expressions"],
        )
        frames = table["frames"].combine_chunks()
        self._first_frame = _list_starts(frames)
        self._frames = frames.flatten()
        self._images = _span_array(self._frames.field("image"))
        self._masks = _span_array(self._frames.field("masks"))
        self._annotated = self._masks[0] != _NO_SPAN
        self._heads = _span_array(table["head"].combine_chunks())
        self.num_frames = np.diff(self._first_frame)
        self.num_expressions = np.diff(_list_starts(table["expressions"].combine_chunks()))
        videos_per_shard = [len(table) for table in tables]
        self.shard = np.repeat(np.arange(len(tables)), videos_per_shard)
        try:
            _check_texts(table, self._frames, self.num_frames)
            video_bytes = np.array(shard_bytes, np.int64)[self.shard]
            frame_bytes = np.repeat(video_bytes, self.num_frames)
            _check_spans(self._heads, video_bytes)
            _check_spans(self._images, frame_bytes)
            has_masks = _to_numpy(self._frames.field("masks").is_valid()).astype(bool)
            _check_spans(self._masks[:, has_masks], frame_bytes[has_masks])
        except ValueError as error:
            raise ShardError(
                f"an index holds what none may hold ({error}); copy or build the set again"
            ) from None

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.shard)

    def __getitem__(self, video: int) -> VideoRow:
        """The row of a video.

        Raises:
            IndexError: If there is no such video.
        """
        position = range(len(self))[video]  # takes negative numbers, refuses those out of range
        (row,) = self.rows(position, position + 1)
        return row

    def __iter__(self) -> Iterator[VideoRow]:
        """All rows, in blocks: many at once cost less each."""
        for start in range(0, len(self), _ROWS_PER_GROUP):
            yield from self.rows(start, start + _ROWS_PER_GROUP)

    def rows(self, start: int, stop: int) -> Iterator[VideoRow]:
        """Rows of the videos from `start` to before `stop`."""
        texts = self._texts.slice(start, stop - start).to_pylist()
        heads = self._heads[:, start:stop].T.tolist()
        shards = self.shard[start:stop].tolist()
        bounds = self._first_frame[start : stop + 1].tolist()
        # one conversion for all frames of the block
        block = slice(bounds[0], bounds[-1])
        names = self._frames.field("name")[block].to_pylist()
        extensions = self._frames.field("extension")[block].to_pylist()
        videos = zip(texts, heads, shards, pairwise(bounds), strict=True)
        for text, head, shard, (first, last) in videos:
            in_block = slice(first - block.start, last - block.start)
            expressions = [
                Expression(
                    id=expression["id"],
                    text=expression["text"],
                    objects=tuple(expression["objects"]),
                    kind=expression["kind"],
                )
                for expression in text["expressions"]
            ]
            objects = {item["id"]: item["category"] for item in text["objects"]}
            if not objects.keys() >= {name for entry in expressions for name in entry.objects}:
                raise ShardError(
                    f"video {text['key']}: an expression names an object that the video does not "
                    f"have; copy or build the set again"
                )
            yield VideoRow(
                key=text["key"],
                video_id=text["video_id"],
                height=text["height"],
                width=text["width"],
                shard=shard,
                frame_names=names[in_block],
                annotated=self._annotated[first:last],
                objects=objects,
                expressions=tuple(expressions),
                visible={item["id"]: np.array(item["visible"], bool) for item in text["objects"]},
                extensions=extensions[in_block],
                head=Span(*head),
                images=self._images[:, first:last],
                masks=self._masks[:, first:last],
            )


def _check_nulls(table: pa.Table) -> None:
    """Only the masks of a frame may be missing.

    Raises:
        ValueError: If anything else is.
    """
    waiting = [(name, table[name].combine_chunks()) for name in SCHEMA.names]
    while waiting:
        name, values = waiting.pop()
        if name == "frames.masks":
            values = values.drop_null()
        if values.null_count:
            raise ValueError(f"{name} is null")
        if pa.types.is_list(values.type):
            waiting.append((name, values.flatten()))
        elif pa.types.is_struct(values.type):
            for field in values.type:
                waiting.append((f"{name}.{field.name}", values.field(field.name)))


def _check_texts(table: pa.Table, frames: pa.StructArray, num_frames: IntArray) -> None:
    """Check whatever becomes a path, a type or a shape.

    Args:
        table: All columns.
        frames: Of all videos.
        num_frames: `[N]`, of each video.

    Raises:
        ValueError: If there is a value that none may hold.
    """
    keys = table["key"].combine_chunks()
    is_key = pc.match_substring_regex(keys, f"^{KEY_PATTERN.pattern}$")
    for key in keys.filter(pc.invert(is_key)).to_pylist():
        checked_key(key)  # raises
    if len(keys.unique()) < len(keys):
        raise ValueError("two videos of one key")
    expressions = table["expressions"].combine_chunks().flatten()
    _check_names(table["video_id"].combine_chunks(), "video_id")
    _check_names(frames.field("name"), "a frame's name")
    _check_names(expressions.field("id"), "an expression's id")
    extensions = set(frames.field("extension").unique().to_pylist())
    if not extensions <= {"jpg", "png"}:
        raise ValueError("a frame is neither jpg nor png")
    height = _to_numpy(table["height"].combine_chunks()).astype(np.int64)
    width = _to_numpy(table["width"].combine_chunks()).astype(np.int64)
    sides = np.stack([height, width])
    if np.any((sides < 1) | (sides > MAX_SIDE_PX)) or np.any(height * width > MAX_PIXELS):
        raise ValueError(f"height and width must be 1 to {MAX_SIDE_PX}, of {MAX_PIXELS} pixels")
    if np.any((num_frames < 1) | (num_frames > MAX_FRAMES)):
        raise ValueError(f"a video must have 1 to {MAX_FRAMES} frames")
    objects = table["objects"].combine_chunks()
    num_objects = np.diff(_list_starts(objects))
    num_visible = np.diff(_list_starts(objects.flatten().field("visible")))
    if not np.array_equal(num_visible, np.repeat(num_frames, num_objects)):
        raise ValueError("visible must have one entry a frame")


def _check_names(names: pa.StringArray, title: str) -> None:
    """Refuse names that lead into another folder; whole columns at once.

    Raises:
        ValueError: If there is one.
    """
    is_bad = pc.or_(
        pc.match_substring_regex(names, BAD_NAME),
        pc.greater(pc.binary_length(names), MAX_NAME_BYTES),
    )
    for name in names.filter(is_bad).to_pylist():
        checked_name(name, title)  # raises


def _check_spans(spans: IntArray, shard_bytes: IntArray) -> None:
    """Refuse spans beyond their shards: room for them would be made before they are read.

    Args:
        spans: `[3, N]`, offset, size, CRC-32C.
        shard_bytes: `[N]`, of the shard of each.

    Raises:
        ValueError: If there is one.
    """
    offsets, sizes, _ = spans
    # subtracted, for a sum might not fit 64 bits
    is_bad = (offsets < 0) | (sizes < 0) | (offsets > shard_bytes) | (sizes > shard_bytes - offsets)
    if np.any(is_bad):
        position = int(np.argmax(is_bad))
        raise ValueError(
            f"{sizes[position]} bytes at {offsets[position]} of a shard of {shard_bytes[position]}"
        )


def _list_starts(lists: pa.ListArray) -> IntArray:
    """Start of each list in the flattened values, and the end of the last, `[N + 1]`."""
    if len(lists) == 0:
        return np.zeros(1, np.int64)
    offsets = _to_numpy(lists.offsets).astype(np.int64)
    return offsets - offsets[0]


def _span_array(spans: pa.StructArray) -> IntArray:
    """Offset, size and CRC-32C, `[3, N]`; -1 where there is no span."""
    columns = [_to_numpy(spans.field(name)).astype(np.int64) for name in _SPAN.names]
    return np.where(_to_numpy(spans.is_null()), _NO_SPAN, np.stack(columns))


def _to_numpy(values: pa.Array) -> npt.NDArray[np.generic]:
    """An Arrow array of numbers or booleans as numpy, without regard to nulls.

    `Array.to_numpy` of pyarrow 26 imports pandas if it is installed, which takes seconds.
    """
    if pa.types.is_boolean(values.type):
        # Arrow packs 8 booleans into a byte
        return _to_numpy(values.cast(pa.uint8())).astype(bool)
    dtype = values.type.to_pandas_dtype()  # numpy's type, in spite of its name
    if len(values) == 0:
        return np.empty(0, dtype)
    data = values.buffers()[1]  # the first buffer says which values are null
    start = values.offset
    return np.frombuffer(data, dtype)[start : start + len(values)]
