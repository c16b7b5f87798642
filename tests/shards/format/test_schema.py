import dataclasses
import json
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.errors import ShardError
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import (
    Expression,
    Extension,
    Frame,
    Video,
    decode_masks,
    decode_sample,
    encode_video,
    prepare_video,
)
from tests.shards.sample_videos import encode_image, make_video, message

EXTENSIONS: tuple[Extension, ...] = ("jpg", "png")

texts = st.text(max_size=12)
characters = st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/\\")
names = st.text(characters, min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
name_lists = st.lists(names, min_size=1, max_size=3, unique=True)
name_lists_or_none: st.SearchStrategy[list[str]] = st.one_of(st.just([]), name_lists)


@st.composite
def videos(draw: st.DrawFn) -> Video:
    """Any video of the format, its frames without ground truth, without objects, or with some."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    objects = {object_id: draw(texts) for object_id in draw(name_lists_or_none)}
    extension = draw(st.sampled_from(EXTENSIONS))
    image = encode_image(np.zeros((height, width, 3), np.uint8), extension)
    frames = []
    for name in draw(name_lists):
        masks = None
        if draw(st.booleans()):
            visible = draw(st.sets(st.sampled_from([*objects, "nobody"]))) & set(objects)
            masks = {
                object_id: encode_mask(draw(hnp.arrays(bool, (height, width))))
                for object_id in visible
            }
        frames.append(Frame(name, image, extension, masks))
    expressions = []
    for expression_id in draw(name_lists_or_none):
        targets: tuple[str, ...] = ()
        if objects:
            targets = tuple(draw(st.sets(st.sampled_from(list(objects)))))
        expressions.append(Expression(expression_id, draw(texts), targets, draw(texts)))
    return Video(
        key="k-1_A",
        dataset=draw(names),
        split=draw(names),
        video_id=draw(names),
        height=height,
        width=width,
        frames=frames,
        objects=objects,
        expressions=tuple(expressions),
    )


@settings(max_examples=60, deadline=None)
@given(videos())
def test_a_sample_survives_the_round_trip(video: Video) -> None:
    prepared = prepare_video(video)
    members = list(encode_video(prepared))
    suffixes = [suffix for suffix, _ in members]
    assert suffixes[0] == "json"
    assert suffixes[1:] == sorted(suffixes[1:])
    assert decode_sample({"__key__": video.key, **dict(members)}) == prepared
    for frame, prepared_frame in zip(video.frames, prepared.frames, strict=True):
        if frame.masks is None:
            assert prepared_frame.masks is None
            continue
        assert prepared_frame.masks == {
            object_id: rle for object_id, rle in frame.masks.items() if decode_mask(rle).any()
        }


def test_members_are_where_the_format_puts_them() -> None:
    video = prepare_video(make_video("v", num_frames=3, unannotated=[1], absent=[2]))
    members = dict(encode_video(video))
    assert list(members) == [
        "json",
        "000000.jpg",
        "000000.rle.json",
        "000001.jpg",
        "000002.jpg",
        "000002.rle.json",
    ]
    assert members["000001.jpg"] == video.frames[1].image
    masks = json.loads(members["000000.rle.json"])
    assert [mask["id"] for mask in masks] == ["2", "1"]  # in the order of the objects
    head = json.loads(members["json"])
    assert head["frames"] == ["00000", "00005", "00010"]
    assert head["annotated"] == [0, 2]
    assert head["expressions"][1]["text"] == "an “odd” café, both"


BAD_NAMES = ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", "a\n", "a\x7f", "a\x85", "a" * 201]
HEAD = ["format", "dataset", "split", "video_id", "height", "width", "frames", "annotated"]
HEAD += ["objects", "expressions"]


def expression(**change: object) -> dict[str, object]:
    return {"id": "0", "text": "", "objects": [], "kind": ""} | change


BAD_EXPRESSIONS = [
    *(expression(id=name) for name in BAD_NAMES),
    *(expression(**{field: None}) for field in ("id", "text", "objects", "kind")),
    expression(objects=[None]),
    expression(objects="1"),
    expression(text="\ud800"),
]


@pytest.mark.parametrize("lost", ["json", "000001.jpg", "000002.rle.json"])
def test_a_sample_cut_short_is_refused(lost: str) -> None:
    members = dict(encode_video(prepare_video(make_video("v", num_frames=3))))
    del members[lost]
    with pytest.raises(ShardError, match=f"video v: it has no '{lost}'; its shard is cut short"):
        decode_sample({"__key__": "v", **members})


@pytest.mark.parametrize("head", [b"", b"[]", b"{}", b'{"format": 2}', b"\xff", b'{"format": 1}'])
def test_a_broken_head_is_refused(head: bytes) -> None:
    members = dict(encode_video(prepare_video(make_video("v"))))
    with pytest.raises(ShardError, match="video v"):
        decode_sample({"__key__": "v", **members, "json": head})


@pytest.mark.parametrize(
    "change",
    [
        *({field: None} for field in HEAD),
        *({field: {"a": []}} for field in HEAD),
        *({field: True} for field in HEAD),
        *({field: name} for field in ("dataset", "split", "video_id") for name in BAD_NAMES),
        *({"frames": [name]} for name in (*BAD_NAMES, None, 5)),
        {"frames": []},
        *({"annotated": [position]} for position in (-1, 2, "0", None, 10**30)),
        *({"height": size} for size in (0, -1, 65_536, "36", 36.0)),
        {"height": 60_000, "width": 60_000},
        *({"objects": [item]} for item in (None, {}, {"id": 1, "category": ""}, {"id": "1"})),
        *({"expressions": [record]} for record in BAD_EXPRESSIONS),
    ],
)
def test_a_head_that_says_what_none_may_say_is_refused(change: dict[str, object]) -> None:
    members = dict(encode_video(prepare_video(make_video("v", num_frames=2))))
    # escaped, for UTF-8 cannot say half a surrogate pair, but JSON can
    head = json.dumps(json.loads(members["json"]) | change).encode()
    with pytest.raises(ShardError, match="video v") as caught:
        decode_sample({"__key__": "v", **members, "json": head})
    message(caught.value)


@pytest.mark.parametrize("key", ["../v", "a/v", "", ".", "-v", "v\n", "a" * 81])
def test_a_key_that_is_a_path_is_refused(key: str) -> None:
    members = dict(encode_video(prepare_video(make_video("v"))))
    with pytest.raises(ShardError, match="is no key") as caught:
        decode_sample({"__key__": key, **members})
    message(caught.value)


def test_json_nested_too_deep_is_refused() -> None:
    members = dict(encode_video(prepare_video(make_video("v"))))
    with pytest.raises(ShardError, match="video v: its JSON is nested too deep") as caught:
        decode_sample({"__key__": "v", **members, "json": b"[" * 10**6})
    message(caught.value)
    with pytest.raises(ShardError, match="nested too deep"):
        decode_masks(b"[" * 10**6, 4, 4)


@pytest.mark.parametrize("name", ["00005", "Wave!_@18_wave_0", "--h5fAKYurM", "0062f687f1", "é.b"])
def test_names_of_the_data_sets_are_names(name: str) -> None:
    video = make_video("v", num_frames=1)
    frames = [dataclasses.replace(video.frames[0], name=name)]
    expressions = (Expression(name, "x", ()),)
    video = dataclasses.replace(video, video_id=name, frames=frames, expressions=expressions)
    members = dict(encode_video(prepare_video(video)))
    assert decode_sample({"__key__": "v", **members}) == video


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b'{"1": "a"}',
        b'[{"id": "1"}]',
        b'[{"id": 1, "counts": "a"}]',
        b'[{"id": "1", "counts": "\xc3\xa9"}]',
    ],
)
def test_broken_masks_are_refused(data: bytes) -> None:
    with pytest.raises(ShardError, match="holds no masks"):
        decode_masks(data, 4, 4)


GOOD = make_video("v", num_frames=2)
FRAME = GOOD.frames[0]
GIF = cast(Extension, "gif")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": "a.b"}, "a key is 1 to 80"),
        ({"key": "_a"}, "a key is 1 to 80"),
        ({"key": "a" * 81}, "a key is 1 to 80"),
        ({"key": "é"}, "a key is 1 to 80"),
        ({"video_id": "../v"}, "video_id is '../v', must be a name"),
        ({"dataset": ""}, "dataset is '', must be a name"),
        ({"split": ".."}, "split is '..', must be a name"),
        ({"frames": [dataclasses.replace(FRAME, name="a/b")]}, "a frame's name is 'a/b'"),
        ({"expressions": (Expression("a\0", "x", ()),)}, "an expression's id is 'a.x00'"),
        ({"expressions": (Expression("a", "\ud800", ()),)}, "which is no Unicode text"),
        ({"height": 65_536}, "the height is 65536, must be a whole number, 1 to 65535"),
        ({"height": 60_000, "width": 60_000}, "60000 x 60000 pixels are more than"),
        ({"frames": []}, "0 frames"),
        ({"frames": [FRAME, FRAME]}, "two frames of one name"),
        ({"height": 37}, "36 x 52 pixels, the video has 37 x 52"),
        ({"objects": {"1": ""}, "expressions": ()}, "mask of object '2'"),
        ({"expressions": GOOD.expressions[:1] * 2}, "two expressions of one id"),
        ({"expressions": (Expression("0", "x", ("7",)),)}, "names objects \\['7'\\]"),
        ({"frames": [dataclasses.replace(FRAME, image=b"GIF89a")]}, "are no jpg image"),
        ({"frames": [dataclasses.replace(FRAME, extension="png")]}, "are no png image"),
        (
            {"frames": [dataclasses.replace(FRAME, extension=GIF)]},
            "is called gif",
        ),
    ],
)
def test_what_breaks_the_format_is_named(change: dict[str, Any], problem: str) -> None:
    video = dataclasses.replace(GOOD, **change)
    with pytest.raises(ShardError, match=problem) as caught:
        prepare_video(video)
    assert video.key in message(caught.value)  # quoted, so no key breaks the line
