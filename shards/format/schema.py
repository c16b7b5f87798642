"""What a sample is: the record types, their tar members, and the way from one to the other.

A sample is one video (an image is a video of one frame). This file alone knows member names and the
JSON inside them; `docs/shard_format.md` says the same in words.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from shards.errors import ShardError

FORMAT_VERSION = 1
MAX_FRAMES = 1_000_000

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"

Extension = Literal["jpg", "png"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Expression:
    """A sentence and the objects it names.

    Attributes:
        id: Unique within its video.
        text: The words, as the data set has them.
        objects: Ids of the objects named; the target is their union. Empty where the data set
            keeps them secret.
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
        key: Unique in the shard set; at most 80 ASCII letters, digits, "_" and "-", the first a
            letter or digit.
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
        `[H, W]`, True on the object; columns lie one behind the other, as in the run lengths.

    Raises:
        ShardError: If the run lengths do not fill the mask exactly.
    """
    runs, mask = _run_lengths(rle), np.zeros(rle.width * rle.height, bool)
    first, end = int(runs[0]), int(runs[: len(runs) // 2 * 2].sum())
    mask[first:end] = np.repeat(np.arange(len(runs) - 1) % 2 == 0, runs[1:])[: end - first]
    return mask.reshape(rle.width, rle.height).T


def mask_area(rle: Rle) -> int:
    """Number of pixels on the object; raises as `decode_mask` does."""
    return int(_run_lengths(rle)[1::2].sum())


def _run_lengths(rle: Rle) -> npt.NDArray[np.int64]:
    """Lengths of the runs, off first.

    A number is groups of 5 bits, low first; from the fourth on it tells the difference to the
    number two before.
    pycocotools reads past the end of counts that are too short; this refuses them, and is faster.
    """
    codes = np.frombuffer(rle.counts, np.uint8) - np.uint8(48)  # below 48 becomes large
    ends = np.flatnonzero(codes < 32)
    if len(ends) and ends[-1] == len(codes) - 1 and codes.max() < 64:
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
        if lengths.max() <= 7:
            runs = np.add.reduceat((codes & 31).astype(np.int64) << shifts, starts)
            runs -= (codes[ends] >= 16) * (np.int64(1) << 5 * lengths)
            runs[1::2] = runs[1::2].cumsum()
            runs[2::2] = runs[2::2].cumsum()
            if runs.min() >= 0 and runs.sum() == rle.height * rle.width:
                return runs
    raise ShardError(
        f"a mask's run lengths do not fill {rle.height} x {rle.width} pixels; build it again"
    )


def image_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the head of a PNG or JPEG, None if it is neither; Pillow is slower."""
    if data.startswith(_PNG):
        return (*struct.unpack(">II", data[16:24])[::-1],) if data[12:16] == b"IHDR" else None
    at = 2 if data.startswith(_JPEG) else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            return (*struct.unpack(">HH", data[at + 5 : at + 9]),)
        at += 1 if kind == 0xFF else 2 + length
    return None


def image_suffix(position: int, extension: str) -> str:
    """Name of a frame's image behind the key: "000012.jpg"."""
    return f"{position:06d}.{extension}"


def masks_suffix(position: int) -> str:
    """Name of a frame's masks behind the key: "000012.rle.json"; right behind its image."""
    return f"{position:06d}.rle.json"


def dump_json(value: Any) -> bytes:
    """The one way JSON is written here: UTF-8, no blanks, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def prepare_video(video: Video) -> Video:
    """A video ready to be written: frames in memory, empty masks left out, everything checked.

    Raises:
        ShardError: If it breaks the format; names the video and the first thing wrong with it.
    """
    frames = []
    for frame in video.frames:
        masks = frame.masks and {id_: it for id_, it in frame.masks.items() if mask_area(it)}
        frames.append(replace(frame, masks=masks))
    prepared = replace(video, frames=frames)
    for problem in _problems(prepared):
        raise ShardError(f"video {video.key!r}: {problem}; mend the reader or its source")
    return prepared


def encode_video(video: Video) -> Iterator[tuple[str, bytes]]:
    """The tar members of a prepared video, in their order.

    Yields:
        Suffix behind the key, bytes.
    """
    head: dict[str, Any] = {"format": FORMAT_VERSION} | {
        name: getattr(video, name) for name in ("dataset", "split", "video_id", "height", "width")
    }
    head["frames"] = [frame.name for frame in video.frames]
    head["annotated"] = [at for at, it in enumerate(video.frames) if it.masks is not None]
    head["objects"] = [{"id": it, "category": kind} for it, kind in video.objects.items()]
    head["expressions"] = [asdict(expression) for expression in video.expressions]
    yield "json", dump_json(head)
    for position, frame in enumerate(video.frames):
        yield image_suffix(position, frame.extension), frame.image
        if frame.masks is not None:
            visible = [
                {"id": it, "counts": frame.masks[it].counts.decode("ascii")}
                for it in video.objects
                if it in frame.masks
            ]
            yield masks_suffix(position), dump_json(visible)


def decode_masks(data: bytes, height: int, width: int) -> dict[str, Rle]:
    """The masks of a frame from their member; run lengths are checked when one is expanded.

    Args:
        data: The `.rle.json` member.
        height: Of the video, in pixels.
        width: Of the video, in pixels.

    Raises:
        ShardError: If the member is no JSON list of ids and counts.
    """
    try:
        masks = json.loads(data)
        return {it["id"]: Rle(height, width, it["counts"].encode("ascii")) for it in masks}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"a masks member holds no masks ({error}); build it again") from None


def decode_sample(sample: Mapping[str, Any]) -> Video:
    """Read back one sample as `webdataset` groups it: `WebDataset(urls).map(decode_sample)`.

    Args:
        sample: "__key__", and suffix to bytes, undecoded.

    Raises:
        ShardError: If a member is missing, as in a tar cut short, or does not hold what it should.
    """
    try:
        head = json.loads(sample["json"])
        if head["format"] != FORMAT_VERSION:
            raise ShardError(f"format {head['format']}, this program reads {FORMAT_VERSION}")
        expressions = tuple(
            Expression(it["id"], it["text"], tuple(it["objects"]), it["kind"])
            for it in head["expressions"]
        )
        return Video(
            key=sample["__key__"],
            **{name: head[name] for name in ("dataset", "split", "video_id", "height", "width")},
            frames=[_decode_frame(sample, head, at) for at in range(len(head["frames"]))],
            objects={it["id"]: it["category"] for it in head["objects"]},
            expressions=expressions,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ShardError(
            f"video {sample.get('__key__')}: {what}; its shard is cut short or damaged, copy it "
            f"again or build it again"
        ) from None


def _decode_frame(sample: Mapping[str, Any], head: Mapping[str, Any], position: int) -> Frame:
    png = image_suffix(position, "png") in sample
    extension: Extension = "png" if png else "jpg"
    masks = None
    if position in head["annotated"]:
        masks = decode_masks(sample[masks_suffix(position)], head["height"], head["width"])
    image = sample[image_suffix(position, extension)]
    return Frame(head["frames"][position], image, extension, masks)


def _problems(video: Video) -> Iterator[str]:
    if not _KEY.fullmatch(video.key):
        yield "a key is 1 to 80 ASCII letters, digits, _ and -, the first a letter or digit"
    if not 0 < len(video.frames) <= MAX_FRAMES:
        yield f"{len(video.frames)} frames, must be 1 to {MAX_FRAMES}"
    if len({frame.name for frame in video.frames}) < len(video.frames):
        yield "two frames of one name"
    if len({it.id for it in video.expressions}) < len(video.expressions):
        yield "two expressions of one id"
    objects = sorted(video.objects)
    for it in video.expressions:
        if unknown := set(it.objects) - set(objects):
            yield f"expression {it.id!r} names objects {sorted(unknown)}, the video has {objects}"
    for frame in video.frames:
        if frame.extension not in ("jpg", "png"):
            yield f"frame {frame.name!r} is called {frame.extension}, must be jpg or png"
        yield from (f"frame {frame.name!r}: {it}" for it in _frame_problems(video, frame))


def _frame_problems(video: Video, frame: Frame) -> Iterator[str]:
    size, found = f"{video.height} x {video.width}", image_size(frame.image)
    if found is None or frame.image.startswith(_PNG) != (frame.extension == "png"):
        yield f"its bytes are no {frame.extension} image"
    elif found != (video.height, video.width):
        yield f"{found[0]} x {found[1]} pixels, the video has {size}"
    for name, rle in (frame.masks or {}).items():
        if name not in video.objects:
            yield f"mask of object {name!r}, the video has {sorted(video.objects)}"
        if (rle.height, rle.width) != (video.height, video.width):
            yield f"mask of {rle.height} x {rle.width} pixels, the video has {size}"
