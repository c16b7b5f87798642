"""What a sample is: the record types, their tar members, and the way from one to the other.

A sample is one video (an image is a video of one frame). This file alone knows member names and the
JSON inside them; `docs/shard_format.md` says the same in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

FORMAT_VERSION = 1
MAX_FRAMES = 1_000_000

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_MAGIC = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}

Extension = Literal["jpg", "png"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
BoolArray = npt.NDArray[np.bool_]


class ShardError(ValueError):
    """Shards that cannot be written or read; one line: which thing, what is wrong, what to do."""


@dataclass(frozen=True)
class Expression:
    """A sentence and the objects it names.

    Attributes:
        id: Unique within its video.
        text: The words, as the data set has them.
        objects: Ids of the objects named; the target is their union. Empty where the data set keeps them secret.
        kind: Free tag: an annotator, or "appearance", "side", "motion" in the synthetic data.
    """

    id: str
    text: str
    objects: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run lengths.

    Attributes:
        height: In pixels.
        width: In pixels.
        counts: Run lengths, column by column, in COCO's ASCII code.
    """

    height: int
    width: int
    counts: bytes


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        name: The source's name without extension, such as "00005".
        image: The source's own encoded bytes.
        extension: What `image` is: "jpg" or "png".
        masks: Object id to mask. None: nobody annotated this frame. An absent object has no entry.
    """

    name: str
    image: bytes
    extension: Extension
    masks: Mapping[str, Rle] | None


@dataclass(frozen=True)
class Video:
    """One sample: what a dataset reader yields and what a shard gives back.

    Attributes:
        key: Unique in the shard set; ASCII letters, digits, "_" and "-", at most 80, first a letter or digit.
        dataset: Such as "ref-davis17".
        split: Such as "train".
        video_id: The data set's own name of the video.
        height: Of every frame, in pixels.
        width: Of every frame, in pixels.
        frames: In time order; may be lazy.
        objects: Object id to category, "" where unknown.
        expressions: What is said about the video.
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


def encode_mask(mask: BoolArray) -> Rle:
    """Compress a mask without loss.

    Args:
        mask: `[H, W]`, True on the object.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(height=mask.shape[0], width=mask.shape[1], counts=encoded["counts"])


def decode_mask(rle: Rle) -> BoolArray:
    """Expand a mask.

    Returns:
        `[H, W]`, True on the object.

    Raises:
        ShardError: If the run lengths do not fill the mask exactly.
    """
    runs = _run_lengths(rle)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rle.width, rle.height)
    return np.ascontiguousarray(columns.T)


def mask_area(rle: Rle) -> int:
    """Number of pixels on the object; raises as `decode_mask` does."""
    return int(_run_lengths(rle)[1::2].sum())


def _run_lengths(rle: Rle) -> npt.NDArray[np.int64]:
    """Lengths of the runs, off first: groups of 5 bits, low first, each after the third a difference to two before.

    pycocotools reads past the end of counts that are too short; this refuses them, and is faster.
    """
    codes = np.frombuffer(rle.counts, np.uint8).astype(np.int64) - 48
    (ends,) = np.nonzero((codes & 32) == 0)
    if len(ends) and ends[-1] == len(codes) - 1 and codes.min() >= 0 and codes.max() < 64:
        lengths = np.diff(ends, prepend=-1)
        starts = ends - lengths + 1
        shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
        if lengths.max() <= 7:
            runs = np.add.reduceat((codes & 31) << shifts, starts)
            runs -= ((codes[ends] & 16) != 0) * (np.int64(1) << 5 * lengths)
            runs[1::2] = runs[1::2].cumsum()
            runs[2::2] = runs[2::2].cumsum()
            if runs.min() >= 0 and runs.sum() == rle.height * rle.width:
                return runs
    raise ShardError(f"a mask's run lengths do not fill {rle.height} x {rle.width} pixels; build the shards again")


def image_suffix(position: int, extension: str) -> str:
    """Name of a frame's image behind the key: "000012.jpg"."""
    return f"{position:06d}.{extension}"


def masks_suffix(position: int) -> str:
    """Name of a frame's masks behind the key: "000012.rle.json"; in a tar right behind its image."""
    return f"{position:06d}.rle.json"


def dump_json(value: Any) -> bytes:
    """The one way JSON is written here: UTF-8, no blanks, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def visible_objects(frame: Frame) -> set[str]:
    """Ids of the objects with at least one pixel in the frame."""
    return {id for id, rle in (frame.masks or {}).items() if mask_area(rle)}


def encode_masks(masks: Mapping[str, Rle], objects: Mapping[str, str]) -> bytes:
    """The masks member of an annotated frame; an empty mask is left out, as absence is said by no entry."""
    kept = {id: masks[id].counts.decode("ascii") for id in objects if id in masks and mask_area(masks[id])}
    return dump_json(kept)


def decode_masks(data: bytes, height: int, width: int) -> dict[str, Rle]:
    """Invert `encode_masks`; the run lengths are checked when a mask is decoded.

    Raises:
        ShardError: If the member is no JSON object of strings.
    """
    try:
        return {id: Rle(height, width, counts.encode("ascii")) for id, counts in json.loads(data).items()}
    except (AttributeError, ValueError) as error:
        raise ShardError(f"a masks member does not hold masks ({error}); build the shards again") from None


def encode_video(video: Video) -> Iterator[tuple[str, bytes]]:
    """The tar members of a video, in their order.

    Yields:
        Suffix behind the key, bytes.

    Raises:
        ShardError: If the video breaks the format; see `check_video`.
    """
    frames = list(video.frames)
    check_video(video, frames)
    head = {
        "format": FORMAT_VERSION,
        "dataset": video.dataset,
        "split": video.split,
        "video_id": video.video_id,
        "height": video.height,
        "width": video.width,
        "frames": [frame.name for frame in frames],
        "annotated": [index for index, frame in enumerate(frames) if frame.masks is not None],
        "objects": dict(video.objects),
        "expressions": [
            {"id": it.id, "text": it.text, "objects": list(it.objects), "kind": it.kind} for it in video.expressions
        ],
    }
    yield "json", dump_json(head)
    for index, frame in enumerate(frames):
        yield image_suffix(index, frame.extension), frame.image
        if frame.masks is not None:
            yield masks_suffix(index), encode_masks(frame.masks, video.objects)


def decode_sample(sample: Mapping[str, Any]) -> Video:
    """Read back one sample as `webdataset` groups it: `WebDataset(urls).map(decode_sample)`.

    Args:
        sample: "__key__", and suffix to bytes, undecoded.

    Raises:
        ShardError: If a member is missing, as in a tar cut short, or does not hold what it should.
    """
    key = sample["__key__"]
    if "json" not in sample:
        raise ShardError(f"video {key}: its .json is missing; the shard is cut short or not ours, build it again")
    try:
        head = json.loads(sample["json"])
        if head["format"] != FORMAT_VERSION:
            raise ShardError(f"video {key}: format {head['format']}, this program reads {FORMAT_VERSION}")
        annotated = set(head["annotated"])
        frames = [
            _decode_frame(sample, index, name, index in annotated, (head["height"], head["width"]))
            for index, name in enumerate(head["frames"])
        ]
        expressions = tuple(
            Expression(it["id"], it["text"], tuple(it["objects"]), it["kind"]) for it in head["expressions"]
        )
        place = {name: head[name] for name in ("dataset", "split", "video_id", "height", "width")}
        return Video(key=key, **place, frames=frames, objects=head["objects"], expressions=expressions)
    except ShardError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"video {key}: its .json breaks the format ({error!r}); build the shard again") from None


def _decode_frame(sample: Mapping[str, Any], index: int, name: str, annotated: bool, size: tuple[int, int]) -> Frame:
    extension = next((it for it in _MAGIC if image_suffix(index, it) in sample), None)
    if extension is None or (annotated and masks_suffix(index) not in sample):
        lost = "image" if extension is None else "masks"
        raise ShardError(
            f"video {sample['__key__']}: {lost} of frame {index} missing, the shard is cut short; fetch or build it again"
        )
    masks = decode_masks(sample[masks_suffix(index)], *size) if annotated else None
    return Frame(name, sample[image_suffix(index, extension)], extension, masks)


def check_video(video: Video, frames: Sequence[Frame]) -> None:
    """Refuse what a shard must not hold.

    Args:
        video: The video; its lazy frames are not touched.
        frames: Its frames, already read.

    Raises:
        ShardError: Naming the video and the first thing wrong with it.
    """
    for problem in _problems(video, frames):
        raise ShardError(f"video {video.key!r}: {problem}; mend the reader or its source")


def _problems(video: Video, frames: Sequence[Frame]) -> Iterator[str]:
    if not _KEY.fullmatch(video.key):
        yield "a key is 1 to 80 ASCII letters, digits, _ and -, the first a letter or digit"
    if not 0 < len(frames) <= MAX_FRAMES:
        yield f"{len(frames)} frames, must be 1 to {MAX_FRAMES}"
    if video.height < 1 or video.width < 1:
        yield f"size {video.height} x {video.width}"
    if len({frame.name for frame in frames}) < len(frames):
        yield "two frames of one name"
    if len({it.id for it in video.expressions}) < len(video.expressions):
        yield "two expressions of one id"
    for it in video.expressions:
        if unknown := set(it.objects) - set(video.objects):
            yield f"expression {it.id!r} names objects {sorted(unknown)}, the video has {sorted(video.objects)}"
    for frame in frames:
        yield from (f"frame {frame.name!r}: {problem}" for problem in _frame_problems(video, frame))


def _frame_problems(video: Video, frame: Frame) -> Iterator[str]:
    magic = _MAGIC.get(frame.extension)
    if magic is None or not frame.image.startswith(magic):
        yield f"its bytes are no {frame.extension} image"
    for id, rle in (frame.masks or {}).items():
        if id not in video.objects:
            yield f"mask of object {id!r}, the video has {sorted(video.objects)}"
        if (rle.height, rle.width) != (video.height, video.width):
            yield f"mask {rle.height} x {rle.width} in a video of {video.height} x {video.width}"
