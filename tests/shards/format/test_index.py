import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardError
from shards.format.index import SCHEMA, Columns, IndexWriter, read_index
from shards.format.schema import Expression, Video, encode_video, prepare_video
from shards.storage.storage import Span
from tests.shards.sample_videos import make_video, message


def write_index(videos: list[Video]) -> bytes:
    """An index of members of 7 bytes; the first of each video has the largest checksum."""
    index = IndexWriter()
    offset = 0
    for video in videos:
        prepared = prepare_video(video)
        spans = {}
        for number, (suffix, _) in enumerate(encode_video(prepared)):
            spans[suffix] = Span(offset, 7, 2**32 - 1 - number)
            offset += 1
        index.add(prepared, spans)
    return index.encode({"a": "b"})


def test_columns_hold_the_extremes() -> None:
    bare = make_video("bare", num_frames=1, unannotated=[0])
    bare = replace(bare, objects={}, expressions=())
    silent = replace(bare, key="silent", expressions=(Expression("0", "", ()),))
    files = [write_index([bare]), write_index([]), write_index([silent, make_video("v")])]
    columns = Columns(files, [100] * 3)
    rows = list(columns.rows(0, 3))
    assert columns.shard.tolist() == [0, 2, 2]
    assert [row.key for row in rows] == ["bare", "silent", "v"]
    assert rows[0].objects == rows[0].visible == {}
    assert rows[0].expressions == ()
    assert rows[1].expressions == (Expression("0", "", ()),)
    assert rows[0].masks.tolist() == [[-1], [-1], [-1]]
    assert rows[0].head == Span(0, 7, 2**32 - 1)
    assert rows[2].spans(0)[1] == Span(4, 7, 2**32 - 3)
    assert len(Columns([write_index([])], [0])) == 0


def one_row(**change: object) -> bytes:
    """An index of one video, with some of its columns changed."""
    video = prepare_video(make_video("v", num_frames=2))
    table = read_index(write_index([video]))
    (row,) = table.to_pylist()
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row | change], SCHEMA), file)
    return file.getvalue()


def frame(**change: object) -> dict[str, object]:
    span = {"offset": 0, "size": 7, "crc32c": 1}
    return {"name": "a", "extension": "jpg", "image": span, "masks": None} | change


def expression(**change: object) -> dict[str, object]:
    return {"id": "0", "text": "", "objects": [], "kind": ""} | change


BAD_NAMES = ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", "a\n", "a\x85", "é" * 101, None]
BAD_SPANS = [
    None,
    *({"offset": 0, "size": size, "crc32c": 1} for size in (2**40, 2**63 - 1, 101, -1, None)),
    *({"offset": offset, "size": 7, "crc32c": 1} for offset in (-1, -5, 94, 2**63 - 1, None)),
]
EMPTY: dict[str, list[object]] = {"objects": [], "expressions": []}


@pytest.mark.parametrize(
    "change",
    [
        *({"key": key} for key in ("../v", "", "a.b", "v\n", "a" * 81, None)),
        *({"video_id": name} for name in BAD_NAMES),
        *({"height": size} for size in (0, -1, 65_536, None)),
        {"height": 60_000, "width": 60_000},
        *({"head": span} for span in BAD_SPANS),
        *({"frames": [frame(image=span)], **EMPTY} for span in BAD_SPANS),
        *({"frames": [frame(masks=span)], **EMPTY} for span in BAD_SPANS[1:]),
        *({"frames": [frame(name=name)], **EMPTY} for name in BAD_NAMES),
        *({"frames": [frame(extension=name)], **EMPTY} for name in ("gif", "", "/jpg", None)),
        *({"frames": frames, **EMPTY} for frames in (None, [None], [])),
        *({"expressions": [expression(id=name)]} for name in BAD_NAMES),
        *({"expressions": [expression(**{name: None})]} for name in ("text", "objects", "kind")),
        *({"expressions": value} for value in (None, [None], [expression(objects=["7"])])),
        {"objects": [{"id": "1", "category": "", "visible": [True]}], "expressions": []},
        {"objects": [{"id": "1", "category": "", "visible": [True, None]}], "expressions": []},
        {"objects": [{"id": None, "category": "", "visible": [True] * 2}], "expressions": []},
    ],
)
def test_a_value_that_none_may_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ShardError) as caught:
        list(Columns([one_row(**change)], [100]))
    message(caught.value)


def test_two_videos_of_one_key_are_refused() -> None:
    with pytest.raises(ShardError, match="two videos of one key"):
        Columns([one_row(), one_row()], [100, 100])


def test_wrong_types_are_refused() -> None:
    for table in (
        pa.table({"key": [1]}),
        read_index(one_row()).drop_columns("frames"),
        read_index(one_row()).set_column(2, "height", pa.array(["high"])),
        read_index(one_row()).set_column(7, "frames", pa.array([5])),
        read_index(one_row()).set_column(0, "key", pa.array([b"\xff"])),
    ):
        file = io.BytesIO()
        pq.write_table(table, file)
        with pytest.raises(ShardError) as caught:
            Columns([file.getvalue()], [100])
        message(caught.value)


def test_an_index_that_unpacks_to_gigabytes_is_refused_before() -> None:
    table = pa.table({"key": pa.array(["a" * 10**6] * 600)})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    data = file.getvalue()
    assert len(data) < 10**6
    with pytest.raises(ShardError, match="bytes when unpacked") as caught:
        read_index(data)
    message(caught.value)


def test_a_file_that_is_no_index_is_refused() -> None:
    with pytest.raises(ShardError, match="an index is damaged"):
        Columns([b"PAR1 no"], [0])
