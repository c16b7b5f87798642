"""The Parquet index of a shard: collected while a tar is written, read back as arrays and rows."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardError
from shards.format.manifest import Counts
from shards.format.rle import BoolArray, IntArray
from shards.format.schema import Expression, Video, image_suffix, masks_suffix
from shards.storage.storage import Span

_ROWS_PER_GROUP = 1024  # rows that are packed, and later walked over, at once
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
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"an index is damaged ({error}); copy or build it again") from None


class Columns:
    """The indexes of a whole set as flat arrays; a row is made when asked for and not kept.

    Args:
        files: The indexes in the order of the shards.

    Attributes:
        num_frames: `[N]`, of each video.
        num_expressions: `[N]`, of each video.
        shard: `[N]`, position of the video's shard in the manifest; never falls.

    Raises:
        ShardError: If a file is no index.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        try:
            tables = [read_index(data).select(SCHEMA.names) for data in files]
            table = pa.concat_tables(table.cast(SCHEMA) for table in tables).combine_chunks()
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise ShardError(f"an index does not hold its columns ({error}); build again") from None
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
            yield VideoRow(
                key=text["key"],
                video_id=text["video_id"],
                height=text["height"],
                width=text["width"],
                shard=shard,
                frame_names=names[in_block],
                annotated=self._annotated[first:last],
                objects={item["id"]: item["category"] for item in text["objects"]},
                expressions=tuple(expressions),
                visible={item["id"]: np.array(item["visible"], bool) for item in text["objects"]},
                extensions=extensions[in_block],
                head=Span(*head),
                images=self._images[:, first:last],
                masks=self._masks[:, first:last],
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
