"""The columns of the Parquet index: filled while a tar is written, read back as arrays and rows."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.manifest import Counts
from shards.schema import BoolArray, Expression, ShardError, Video
from shards.storage import Span

IntArray = npt.NDArray[np.int64]

_SPAN = [("offset", pa.int64()), ("size", pa.int64()), ("crc32c", pa.uint32())]
_OBJECT = [("id", pa.string()), ("category", pa.string()), ("visible", pa.list_(pa.bool_()))]
_EXPRESSION = [
    ("id", pa.string()),
    ("text", pa.string()),
    ("objects", pa.list_(pa.string())),
    ("kind", pa.string()),
]
_FRAME = [
    ("name", pa.string()),
    ("extension", pa.string()),
    ("image", pa.struct(_SPAN)),
    ("masks", pa.struct(_SPAN)),
]
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("video_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("head", pa.struct(_SPAN)),
        ("objects", pa.list_(pa.struct(_OBJECT))),
        ("expressions", pa.list_(pa.struct(_EXPRESSION))),
        ("frames", pa.list_(pa.struct(_FRAME))),
    ]
)


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


class IndexWriter:
    """Collects the index of a shard in flat arrays: a million members take little memory."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {
            name: []
            for name in (
                *("key", "video_id", "name", "extension", "object", "category"),
                *("expression", "text", "kind", "named"),
            )
        }
        self._lengths = {
            name: array("i", [0])
            for name in ("objects", "visible", "expressions", "named", "frames")
        }
        self._spans = {
            (member, name): array(kind)
            for member in ("head", "image", "masks")
            for name, kind in (("offset", "q"), ("size", "q"), ("crc32c", "I"))
        }
        self._sizes = array("i")
        self._visible = bytearray()
        self._interned: dict[str, str] = {}

    @property
    def counts(self) -> Counts:
        """How much was added; bytes are not counted here."""
        return Counts(
            videos=len(self._texts["key"]),
            frames=len(self._texts["name"]),
            annotated_frames=sum(offset >= 0 for offset in self._spans["masks", "offset"]),
            objects=len(self._texts["object"]),
            expressions=len(self._texts["expression"]),
        )

    def add(self, video: Video, spans: Sequence[Span]) -> None:
        """Add a video.

        Args:
            video: As it was written: prepared.
            spans: Of its members, in the order of the tar.
        """
        members = iter(spans)
        self._texts["key"].append(video.key)
        self._texts["video_id"].append(video.video_id)
        self._sizes.extend((video.height, video.width))
        self._add_span("head", next(members))
        for frame in video.frames:
            self._texts["name"].append(self._interned.setdefault(frame.name, frame.name))
            self._texts["extension"].append(frame.extension)
            self._add_span("image", next(members))
            self._add_span("masks", None if frame.masks is None else next(members))
        self._add_objects(video)
        for it in video.expressions:
            for name, text in (("expression", it.id), ("text", it.text), ("kind", it.kind)):
                self._texts[name].append(text)
            self._texts["named"].extend(it.objects)
            self._lengths["named"].append(len(self._texts["named"]))
        self._lengths["frames"].append(len(self._texts["name"]))
        self._lengths["objects"].append(len(self._texts["object"]))
        self._lengths["expressions"].append(len(self._texts["expression"]))

    def _add_span(self, member: str, span: Span | None) -> None:
        for name, _ in _SPAN:
            missing = -1 if name == "offset" else 0
            self._spans[member, name].append(missing if span is None else getattr(span, name))

    def _add_objects(self, video: Video) -> None:
        for name, category in video.objects.items():
            self._texts["object"].append(self._interned.setdefault(name, name))
            self._texts["category"].append(self._interned.setdefault(category, category))
            self._visible.extend(name in (frame.masks or ()) for frame in video.frames)
            self._lengths["visible"].append(len(self._visible))

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """The Parquet file, equal for equal content.

        Args:
            metadata: To go with the schema.
        """
        text = {name: _texts(values) for name, values in self._texts.items()}
        objects = [text["object"], text["category"], self._list("visible", _bits(self._visible))]
        named = self._list("named", text["named"])
        expressions = [text["expression"], text["text"], named, text["kind"]]
        frames = [text["name"], text["extension"], self._span("image"), self._span("masks")]
        columns = [
            text["key"],
            text["video_id"],
            _numbers(self._sizes[::2], pa.int32()),
            _numbers(self._sizes[1::2], pa.int32()),
            self._span("head"),
            self._list("objects", pa.StructArray.from_arrays(objects, fields=_fields(_OBJECT))),
            self._list(
                "expressions", pa.StructArray.from_arrays(expressions, fields=_fields(_EXPRESSION))
            ),
            self._list("frames", pa.StructArray.from_arrays(frames, fields=_fields(_FRAME))),
        ]
        table = pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata(dict(metadata)))
        file = io.BytesIO()
        pq.write_table(
            table,
            file,
            row_group_size=1024,
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        )
        return file.getvalue()

    def _list(self, name: str, values: Any) -> Any:
        return pa.ListArray.from_arrays(_numbers(self._lengths[name], pa.int32()), values)

    def _span(self, member: str) -> Any:
        columns = [_numbers(self._spans[member, name], kind) for name, kind in _SPAN]
        missing = _bits(bytearray(it < 0 for it in self._spans[member, "offset"]))
        return pa.StructArray.from_arrays(columns, fields=_fields(_SPAN), mask=missing)


def _fields(types: Sequence[tuple[str, Any]]) -> list[Any]:
    return [pa.field(name, kind) for name, kind in types]


# pyarrow's own ways between Arrow and Python or numpy import pandas where it is installed, which
# takes seconds in every process; the next four do not.


def _numbers(values: Any, kind: Any) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _bits(values: bytearray) -> Any:
    bits = np.packbits(np.frombuffer(values, np.uint8), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def _texts(values: Sequence[str]) -> Any:
    encoded = [value.encode() for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numpy(values: Any) -> npt.NDArray[Any]:
    """Without regard to nulls."""
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
        raise ShardError(
            f"an index is damaged ({error}); copy it again or build it again"
        ) from None


class Columns:
    """The indexes of a whole set as flat arrays; rows are made from them on demand.

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
        self._flat = {name: _only_chunk(table[name]) for name in SCHEMA.names}
        self._first, self._inside = {}, {}
        for name in ("objects", "expressions", "frames"):
            self._first[name], self._inside[name] = _unfold(self._flat[name])
        objects, expressions = self._inside["objects"], self._inside["expressions"]
        self._first["visible"], visible = _unfold(objects.field("visible"))
        self._first["named"], self._named = _unfold(expressions.field("objects"))
        self._visible = _numpy(visible)
        frames = self._inside["frames"]
        self._images, self._masks = _spans(frames.field("image")), _spans(frames.field("masks"))
        self._annotated = self._masks[0] >= 0
        self._head = _spans(self._flat["head"])
        self.num_frames = np.diff(self._first["frames"])
        self.num_expressions = np.diff(self._first["expressions"])
        self.shard = np.repeat(np.arange(len(tables)), [len(it) for it in tables])

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.shard)

    def rows(self, start: int, stop: int) -> Iterator[VideoRow]:
        """Rows of some videos; many at once cost less each."""
        keys, video_ids, heights, widths = (
            self._flat[name][start:stop].to_pylist()
            for name in ("key", "video_id", "height", "width")
        )
        shards = self.shard[start:stop].tolist()
        heads = [Span(*it) for it in self._head[:, start:stop].T.tolist()]
        frames = self._first["frames"][start : stop + 1]
        span = slice(int(frames[0]), int(frames[-1]))
        names = self._inside["frames"].field("name")[span].to_pylist()
        extensions = self._inside["frames"].field("extension")[span].to_pylist()
        objects = list(self._objects(start, stop))
        expressions = list(self._expressions(start, stop))
        for row, (first, last) in enumerate(pairwise(frames.tolist())):
            here = slice(first - span.start, last - span.start)
            yield VideoRow(
                key=keys[row],
                video_id=video_ids[row],
                height=heights[row],
                width=widths[row],
                shard=shards[row],
                frame_names=names[here],
                annotated=self._annotated[first:last],
                objects=objects[row][0],
                expressions=expressions[row],
                visible=objects[row][1],
                extensions=extensions[here],
                head=heads[row],
                images=self._images[:, first:last],
                masks=self._masks[:, first:last],
            )

    def _objects(
        self, start: int, stop: int
    ) -> Iterator[tuple[dict[str, str], dict[str, BoolArray]]]:
        """Categories and visibility of each video in the range."""
        bounds = self._first["objects"][start : stop + 1].tolist()
        inside, span = self._inside["objects"], slice(bounds[0], bounds[-1])
        names = inside.field("id")[span].to_pylist()
        categories = inside.field("category")[span].to_pylist()
        views = self._first["visible"][bounds[0] : bounds[-1] + 1].tolist()
        seen = [self._visible[a:b] for a, b in pairwise(views)]
        for first, last in pairwise(bounds):
            here = slice(first - span.start, last - span.start)
            yield (
                dict(zip(names[here], categories[here], strict=True)),
                dict(zip(names[here], seen[here], strict=True)),
            )

    def _expressions(self, start: int, stop: int) -> Iterator[tuple[Expression, ...]]:
        """Expressions of each video in the range."""
        bounds = self._first["expressions"][start : stop + 1].tolist()
        inside, span = self._inside["expressions"], slice(bounds[0], bounds[-1])
        ids, texts, kinds = (inside.field(it)[span].to_pylist() for it in ("id", "text", "kind"))
        ends = self._first["named"][bounds[0] : bounds[-1] + 1].tolist()
        named = self._named[ends[0] : ends[-1]].to_pylist()
        objects = [tuple(named[a - ends[0] : b - ends[0]]) for a, b in pairwise(ends)]
        every = [Expression(*it) for it in zip(ids, texts, objects, kinds, strict=True)]
        for first, last in pairwise(bounds):
            yield tuple(every[first - span.start : last - span.start])


def _only_chunk(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _unfold(lists: Any) -> tuple[IntArray, Any]:
    """Start of each list (and the end), `[N + 1]`, and the values of all."""
    offsets = _numpy(lists.offsets).astype(np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64), lists.flatten()


def _spans(structs: Any) -> IntArray:
    """Offset, size and CRC-32C, `[3, N]`; -1 where there is none."""
    columns = [_numpy(structs.field(name)).astype(np.int64) for name, _ in _SPAN]
    return np.where(_numpy(structs.is_null()), -1, np.stack(columns))
