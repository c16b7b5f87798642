from dataclasses import replace

import pytest

from shards.errors import ShardError
from shards.format.index import Columns, IndexWriter
from shards.format.schema import Expression, Video, encode_video, prepare_video
from shards.storage.storage import Span
from tests.shards.sample_videos import make_video


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
    columns = Columns(files)
    rows = list(columns.rows(0, 3))
    assert columns.shard.tolist() == [0, 2, 2]
    assert [row.key for row in rows] == ["bare", "silent", "v"]
    assert rows[0].objects == rows[0].visible == {}
    assert rows[0].expressions == ()
    assert rows[1].expressions == (Expression("0", "", ()),)
    assert rows[0].masks.tolist() == [[-1], [-1], [-1]]
    assert rows[0].head == Span(0, 7, 2**32 - 1)
    assert rows[2].spans(0)[1] == Span(4, 7, 2**32 - 3)
    assert len(Columns([write_index([])])) == 0


def test_a_file_that_is_no_index_is_refused() -> None:
    with pytest.raises(ShardError, match="an index is damaged"):
        Columns([b"PAR1 no"])
