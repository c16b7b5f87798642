"""What a sample is: the record types, their tar members, and the way from one to the other.

A sample is one video; an image is a video of one frame. This file alone knows the names of members
and the JSON inside them. `docs/shard_format.md` says the same in words.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from shards.errors import ShardError
from shards.format.checks import (
    MAX_FRAMES,
    checked_int,
    checked_key,
    checked_list,
    checked_name,
    checked_object,
    checked_size,
    checked_text,
    load_json,
)
from shards.format.image_header import PNG_SIGNATURE, image_size
from shards.format.rle import Rle, mask_area

FORMAT_VERSION = 1

Extension = Literal["jpg", "png"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Expression:
    """A referring expression and the objects it names.

    Attributes:
        id: Unique within its video.
        text: As the data set has it.
        objects: Ids of the objects named; the target is their union. Empty where the data set
            keeps them secret.
        kind: Free tag: an annotator, or "appearance", "side", "motion" in the synthetic data.
    """

    id: str
    text: str
    objects: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        name: The source's name without extension, such as "00005".
        image: The source's own encoded bytes.
        extension: Format of `image`.
        masks: Object id to mask; an object that is not in the frame has no entry. None if nobody
            annotated the frame.
    """

    name: str
    image: bytes
    extension: Extension
    masks: Mapping[str, Rle] | None


@dataclass(frozen=True)
class Video:
    """One sample: what a dataset reader yields and what a shard gives back.

    Attributes:
        key: Unique in the shard set; at most 80 ASCII letters, digits, "_" and "-", the first a
            letter or digit.
        dataset: Such as "ref-davis17".
        split: Such as "train".
        video_id: The data set's own name of the video.
        height: Of every frame, in pixels.
        width: Of every frame, in pixels.
        frames: In time order; may be lazy.
        objects: Object id to category, "" where unknown.
        expressions: In the order of the data set.
    """

    key: str
    dataset: str
    split: str
    video_id: str
    height: int
    width: int
    frames: Sequence[Frame]
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]


class _ObjectJson(TypedDict):
    id: str
    category: str


class _ExpressionJson(TypedDict):
    id: str
    text: str
    objects: list[str]
    kind: str


class _HeadJson(TypedDict):
    """Content of a sample's `.json` member, in the order in which it is written.

    Attributes:
        format: Version of the format.
        frames: Names of the frames.
        annotated: Positions of the frames that carry ground truth.
    """

    format: int
    dataset: str
    split: str
    video_id: str
    height: int
    width: int
    frames: list[str]
    annotated: list[int]
    objects: list[_ObjectJson]
    expressions: list[_ExpressionJson]


class _MaskJson(TypedDict):
    """One mask in a `.rle.json` member."""

    id: str
    counts: str


def image_suffix(position: int, extension: str) -> str:
    """Name of a frame's image behind the key: "000012.jpg"."""
    return f"{position:06d}.{extension}"


def masks_suffix(position: int) -> str:
    """Name of a frame's masks behind the key: "000012.rle.json".

    In the order of names it stands right behind the frame's image, so both come in one range.
    """
    return f"{position:06d}.rle.json"


def dump_json(value: object) -> bytes:
    """Write JSON in the one way of this format: UTF-8, no blanks, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def prepare_video(video: Video) -> Video:
    """Make a video ready to be written: frames in memory, empty masks left out, all checked.

    Raises:
        ShardError: If the video breaks the format; names it and the first thing wrong with it.
    """
    frames = []
    for frame in video.frames:  # a lazy video reads its files here, each once
        masks = frame.masks
        if masks is not None:
            # absence is said in one way only: an object without an entry
            masks = {object_id: rle for object_id, rle in masks.items() if mask_area(rle)}
        frames.append(replace(frame, masks=masks))
    prepared = replace(video, frames=frames)
    for problem in _problems(prepared):
        raise ShardError(f"video {video.key!r}: {problem}; mend the reader or its source")
    return prepared


def encode_video(video: Video) -> Iterator[tuple[str, bytes]]:
    """Give the tar members of a prepared video in their order.

    Yields:
        Suffix behind the key, and bytes.
    """
    yield "json", dump_json(_head_json(video))
    for position, frame in enumerate(video.frames):
        yield image_suffix(position, frame.extension), frame.image
        if frame.masks is not None:
            yield masks_suffix(position), dump_json(_masks_json(video, frame.masks))


def _head_json(video: Video) -> _HeadJson:
    annotated = [position for position, frame in enumerate(video.frames) if frame.masks is not None]
    objects: list[_ObjectJson] = [
        {"id": object_id, "category": category} for object_id, category in video.objects.items()
    ]
    expressions: list[_ExpressionJson] = [
        {
            "id": expression.id,
            "text": expression.text,
            "objects": list(expression.objects),
            "kind": expression.kind,
        }
        for expression in video.expressions
    ]
    return {
        "format": FORMAT_VERSION,
        "dataset": video.dataset,
        "split": video.split,
        "video_id": video.video_id,
        "height": video.height,
        "width": video.width,
        "frames": [frame.name for frame in video.frames],
        "annotated": annotated,
        "objects": objects,
        "expressions": expressions,
    }


def _masks_json(video: Video, masks: Mapping[str, Rle]) -> list[_MaskJson]:
    """Masks in the order of the video's objects, whatever order the reader had."""
    return [
        {"id": object_id, "counts": masks[object_id].counts.decode("ascii")}
        for object_id in video.objects
        if object_id in masks
    ]


def decode_masks(data: bytes, height: int, width: int) -> dict[str, Rle]:
    """Read the masks of a frame from their member; run lengths are checked when one is expanded.

    Args:
        data: The `.rle.json` member.
        height: Of the video, in pixels.
        width: Of the video, in pixels.

    Raises:
        ShardError: If the member is no JSON list of ids and counts.
    """
    try:
        masks: dict[str, Rle] = {}
        for content in checked_list(load_json(data), "the member"):
            mask = checked_object(content, "a mask")
            object_id = checked_text(mask["id"], "a mask's id")
            counts = checked_text(mask["counts"], "a mask's counts")
            masks[object_id] = Rle(height, width, counts.encode("ascii"))
        return masks
    except (KeyError, ValueError) as error:
        raise ShardError(f"a masks member holds no masks ({error}); build it again") from None


def decode_sample(sample: Mapping[str, Any]) -> Video:  # webdataset mixes text and bytes
    """Read back one sample as `webdataset` groups it: `WebDataset(urls).map(decode_sample)`.

    Args:
        sample: Suffix to bytes, undecoded, and "__key__" to the key.

    Raises:
        ShardError: If a member is missing, as in a tar cut short, or does not hold what it should.
    """
    try:
        return _decode_members(sample["__key__"], sample)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        # a key is plain ASCII; what is none must not break the line
        key_text = ascii(str(sample.get("__key__")))[1:-1]
        raise ShardError(
            f"video {key_text}: {problem}; its shard is cut short or damaged, copy it "
            f"again or build it again"
        ) from None


def _decode_members(key: str, members: Mapping[str, bytes]) -> Video:
    checked_key(key)
    head = _checked_head(load_json(members["json"]))
    expressions = [
        Expression(
            id=expression["id"],
            text=expression["text"],
            objects=tuple(expression["objects"]),
            kind=expression["kind"],
        )
        for expression in head["expressions"]
    ]
    frames = [_decode_frame(members, head, position) for position in range(len(head["frames"]))]
    return Video(
        key=key,
        dataset=head["dataset"],
        split=head["split"],
        video_id=head["video_id"],
        height=head["height"],
        width=head["width"],
        frames=frames,
        objects={item["id"]: item["category"] for item in head["objects"]},
        expressions=tuple(expressions),
    )


def _checked_head(content: object) -> _HeadJson:
    """A head with every field of the right type, and no name that leads into another folder.

    Raises:
        KeyError: If a field is missing.
        ValueError: If a field holds what it may not.
    """
    head = checked_object(content, "the head")
    version = checked_int(head["format"], "the format's version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format {version}, this program reads {FORMAT_VERSION}")
    height, width = checked_size(head["height"], head["width"])
    frames = [
        checked_name(name, "a frame's name") for name in checked_list(head["frames"], "frames")
    ]
    if not 0 < len(frames) <= MAX_FRAMES:
        raise ValueError(f"{len(frames)} frames, must be 1 to {MAX_FRAMES}")
    return {
        "format": version,
        "dataset": checked_name(head["dataset"], "dataset"),
        "split": checked_name(head["split"], "split"),
        "video_id": checked_name(head["video_id"], "video_id"),
        "height": height,
        "width": width,
        "frames": frames,
        "annotated": [
            checked_int(position, "an annotated frame", 0, len(frames) - 1)
            for position in checked_list(head["annotated"], "annotated")
        ],
        "objects": [
            _checked_object_json(item) for item in checked_list(head["objects"], "objects")
        ],
        "expressions": [
            _checked_expression(expression)
            for expression in checked_list(head["expressions"], "expressions")
        ],
    }


def _checked_object_json(content: object) -> _ObjectJson:
    item = checked_object(content, "an object")
    return {
        "id": checked_text(item["id"], "an object's id"),
        "category": checked_text(item["category"], "a category"),
    }


def _checked_expression(content: object) -> _ExpressionJson:
    expression = checked_object(content, "an expression")
    return {
        "id": checked_name(expression["id"], "an expression's id"),
        "text": checked_text(expression["text"], "an expression"),
        "objects": [
            checked_text(object_id, "an object's id")
            for object_id in checked_list(expression["objects"], "an expression's objects")
        ],
        "kind": checked_text(expression["kind"], "an expression's kind"),
    }


def _decode_frame(members: Mapping[str, bytes], head: _HeadJson, position: int) -> Frame:
    # the head does not say which format an image has: its member's name does
    is_png = image_suffix(position, "png") in members
    extension: Extension = "png" if is_png else "jpg"
    masks = None
    if position in head["annotated"]:
        masks = decode_masks(members[masks_suffix(position)], head["height"], head["width"])
    return Frame(
        name=head["frames"][position],
        image=members[image_suffix(position, extension)],
        extension=extension,
        masks=masks,
    )


def _problems(video: Video) -> Iterator[str]:
    """Everything that is wrong with a video, looked for only as far as somebody asks."""
    try:
        _check_names(video)
        checked_size(video.height, video.width)
    except ValueError as error:
        yield str(error)
    if not 0 < len(video.frames) <= MAX_FRAMES:
        yield f"{len(video.frames)} frames, must be 1 to {MAX_FRAMES}"
    if len({frame.name for frame in video.frames}) < len(video.frames):
        yield "two frames of one name"
    if len({expression.id for expression in video.expressions}) < len(video.expressions):
        yield "two expressions of one id"
    objects = sorted(video.objects)
    for expression in video.expressions:
        unknown = set(expression.objects) - set(objects)
        if unknown:
            yield (
                f"expression {expression.id!r} names objects {sorted(unknown)}, "
                f"the video has {objects}"
            )
    for frame in video.frames:
        if frame.extension not in ("jpg", "png"):
            yield f"frame {frame.name!r} is called {frame.extension}, must be jpg or png"
        for problem in _frame_problems(video, frame):
            yield f"frame {frame.name!r}: {problem}"


def _check_names(video: Video) -> None:
    """Refuse what `decode_sample` and the index would refuse.

    Raises:
        ValueError: If a name may not be one.
    """
    checked_key(video.key)
    checked_name(video.dataset, "dataset")
    checked_name(video.split, "split")
    checked_name(video.video_id, "video_id")
    for frame in video.frames:
        checked_name(frame.name, "a frame's name")
    for object_id, category in video.objects.items():
        checked_text(object_id, "an object's id")
        checked_text(category, "a category")
    for expression in video.expressions:
        checked_name(expression.id, "an expression's id")
        checked_text(expression.text, "an expression")
        checked_text(expression.kind, "an expression's kind")


def _frame_problems(video: Video, frame: Frame) -> Iterator[str]:
    video_size = (video.height, video.width)
    size_text = f"{video.height} x {video.width}"
    actual_size = image_size(frame.image)
    is_png = frame.image.startswith(PNG_SIGNATURE)
    if actual_size is None or is_png != (frame.extension == "png"):
        yield f"its bytes are no {frame.extension} image"
    elif actual_size != video_size:
        yield f"{actual_size[0]} x {actual_size[1]} pixels, the video has {size_text}"
    masks = frame.masks or {}
    for object_id, rle in masks.items():
        if object_id not in video.objects:
            yield f"mask of object {object_id!r}, the video has {sorted(video.objects)}"
        if (rle.height, rle.width) != video_size:
            yield f"mask of {rle.height} x {rle.width} pixels, the video has {size_text}"
