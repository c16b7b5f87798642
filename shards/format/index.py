"""The columns of the Parquet index: filled while a tar is written, read back as arrays and rows."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardError
from shards.format.manifest import Counts
from shards.format.rle import BoolArray
from shards.format.schema import Expression, Video, image_suffix, masks_suffix
from shards.storage.storage import Span

_GROUP = 1024  # rows of a row group, and of a walk
IntArray = npt.NDArray[np.int64]

_TEXT = pa.string()
_SPAN = pa.struct({"offset": pa.int64(), "size": pa.int64(), "crc32c": pa.uint32()})
_OBJECT = {"id": _TEXT, "category": _TEXT, "visible": pa.list_(pa.bool_())}
_EXPRESSION = {"id": _TEXT, "text": _TEXT, "objects": pa.list_(_TEXT), "kind": _TEXT}
_FRAME = {"name": _TEXT, "extension": _TEXT, "image": _SPAN, "masks": _SPAN}
_VIDEO = {"key": _TEXT, "video_id": _TEXT, "height": pa.int32(), "width": pa.int32(), "head": _SPAN}
_LISTS = {"objects": _OBJECT, "expressions": _EXPRESSION, "frames": _FRAME}
SCHEMA = pa.schema(_VIDEO | {name: pa.list_(pa.struct(it)) for name, it in _LISTS.items()})


@dataclass(frozen=True, eq=False)
class VideoRow:
    """One video as the index knows it; arrays have one entry a frame, `[F]`.

    Attributes:
        key: Of the sample.
        video_id: The data set's own name.
        height: In pixels.
        width: In pixels.
        shard: Position in `manifest.shards`.
        frame_names: In time order.
        annotated: True where the frame carries ground truth.
        objects: Object id to category.
        expressions: What is said about the video.
        visible: Object id to True where the object is in the frame.
        extensions: "jpg" or "png".
        head: Span of the .json member: offset, size, CRC-32C.
        images: `[3, F]`, spans of the images.
        masks: `[3, F]`, spans of the masks; offset -1 where there are none.
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
        image = Span(*self.images[:, frame].tolist())
        return [image, Span(*self.masks[:, frame].tolist())] if self.annotated[frame] else [image]

    def members(self) -> dict[str, Span]:
        """Where every member of the sample lies, by its suffix."""
        found = {"json": self.head}
        for frame, extension in enumerate(self.extensions):
            suffixes = (image_suffix(frame, extension), masks_suffix(frame))
            found |= dict(zip(suffixes, self.spans(frame), strict=False))
        return found


class IndexWriter:
    """Collects the index of a shard; rows become Arrow arrays in time, which take little memory.

    Attributes:
        counts: How much was added; bytes are not counted here.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._batches: list[Any] = []
        self.counts = Counts()

    def add(self, video: Video, spans: Sequence[Span]) -> None:
        """Add a video.

        Args:
            video: As it was written: prepared.
            spans: Of its members, in the order of the tar.
        """
        members = map(vars, spans)
        row: dict[str, Any] = {name: getattr(video, name) for name in SCHEMA.names[:4]}
        row["head"] = next(members)
        masks = [frame.masks or () for frame in video.frames]
        row["objects"] = [
            {"id": name, "category": category, "visible": [name in it for it in masks]}
            for name, category in video.objects.items()
        ]
        row["expressions"] = [vars(it) for it in video.expressions]
        row["frames"] = [
            {"name": it.name, "extension": it.extension, "image": next(members)}
            | {"masks": None if it.masks is None else next(members)}
            for it in video.frames
        ]
        self._rows.append(row)
        annotated = sum(frame.masks is not None for frame in video.frames)
        objects, expressions = len(video.objects), len(video.expressions)
        self.counts += Counts(1, len(video.frames), annotated, objects, expressions)
        if len(self._rows) == _GROUP:
            self._pack()

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
        self._rows = []

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """The Parquet file, equal for equal content.

        Args:
            metadata: To go with the schema.
        """
        self._pack()
        table = pa.Table.from_batches(self._batches, SCHEMA)
        file = io.BytesIO()
        table = table.replace_schema_metadata(dict(metadata))
        layout = {"row_group_size": _GROUP, "compression": "zstd", "use_dictionary": False}
        pq.write_table(table, file, write_page_checksum=True, **layout)
        return file.getvalue()


def _numpy(values: Any) -> npt.NDArray[Any]:
    """Without regard to nulls; pyarrow's own way would import pandas if it is there: seconds."""
    if pa.types.is_boolean(values.type):
        return _numpy(values.cast(pa.uint8())).astype(bool)
    data = values.buffers()[1] or b""
    inside = slice(values.offset, values.offset + len(values))
    return np.frombuffer(data, values.type.to_pandas_dtype())[inside]


def read_index(data: bytes) -> Any:
    """The table of one index; its pages are checked.

    Raises:
        ShardError: If it is no Parquet file, or a damaged one.
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
        num_frames: `[N]`, a video each.
        num_expressions: `[N]`.
        shard: `[N]`, number of the shard; never falls.

    Raises:
        ShardError: If a file is no index.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        try:
            tables = [read_index(data).select(SCHEMA.names) for data in files]
            table = pa.concat_tables(it.cast(SCHEMA) for it in tables).combine_chunks()
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise ShardError(f"an index does not hold its columns ({error}); build again") from None
        self._told = table.select(["key", "video_id", "height", "width", "objects", "expressions"])
        self._first, self._frames = _unfold(table["frames"].combine_chunks())
        self._images = _spans(self._frames.field("image"))
        self._masks = _spans(self._frames.field("masks"))
        self._annotated = self._masks[0] >= 0
        self._head = _spans(table["head"].combine_chunks())
        self.num_frames = np.diff(self._first)
        self.num_expressions = np.diff(_unfold(table["expressions"].combine_chunks())[0])
        self.shard = np.repeat(np.arange(len(tables)), [len(it) for it in tables])

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.shard)

    def __getitem__(self, video: int) -> VideoRow:
        """The row of a video."""
        at = range(len(self))[video]
        return next(self.rows(at, at + 1))

    def __iter__(self) -> Iterator[VideoRow]:
        """All rows, in blocks: many at once cost less each."""
        for start in range(0, len(self), _GROUP):
            yield from self.rows(start, start + _GROUP)

    def rows(self, start: int, stop: int) -> Iterator[VideoRow]:
        """Rows of some videos."""
        told = self._told.slice(start, stop - start).to_pylist()
        heads = [Span(*it) for it in self._head[:, start:stop].T.tolist()]
        bounds = self._first[start : stop + 1].tolist()
        names, extensions = (
            self._frames.field(it)[bounds[0] : bounds[-1]].to_pylist()
            for it in ("name", "extension")
        )
        for at, (row, (first, last)) in enumerate(zip(told, pairwise(bounds), strict=True)):
            here = slice(first - bounds[0], last - bounds[0])
            objects = row.pop("objects")
            expressions = tuple(
                Expression(**it | {"objects": tuple(it["objects"])})
                for it in row.pop("expressions")
            )
            yield VideoRow(
                **row,
                shard=int(self.shard[start + at]),
                frame_names=names[here],
                annotated=self._annotated[first:last],
                objects={it["id"]: it["category"] for it in objects},
                expressions=expressions,
                visible={it["id"]: np.array(it["visible"], bool) for it in objects},
                extensions=extensions[here],
                head=heads[at],
                images=self._images[:, first:last],
                masks=self._masks[:, first:last],
            )


def _unfold(lists: Any) -> tuple[IntArray, Any]:
    """Start of each list (and the end), `[N + 1]`, and the values of all."""
    offsets = _numpy(lists.offsets).astype(np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64), lists.flatten()


def _spans(structs: Any) -> IntArray:
    """Offset, size and CRC-32C, `[3, N]`; -1 where there is none."""
    columns = [_numpy(structs.field(name)).astype(np.int64) for name in _SPAN.names]
    return np.where(_numpy(structs.is_null()), -1, np.stack(columns))
