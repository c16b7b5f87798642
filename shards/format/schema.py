"""What a sample is: the record types, their tar members, and the way from one to the other.

A sample is one video (an image is a video of one frame). This file alone knows member names and the
JSON inside them; `docs/shard_format.md` says the same in words.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from shards.errors import ShardError
from shards.format.image_header import PNG_SIGNATURE
from shards.format.image_header import image_size as image_size
from shards.format.rle import BoolArray as BoolArray
from shards.format.rle import Rle as Rle
from shards.format.rle import decode_mask as decode_mask
from shards.format.rle import encode_mask as encode_mask
from shards.format.rle import mask_area as mask_area

FORMAT_VERSION = 1
MAX_FRAMES = 1_000_000

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")

Extension = Literal["jpg", "png"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


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
    if found is None or frame.image.startswith(PNG_SIGNATURE) != (frame.extension == "png"):
        yield f"its bytes are no {frame.extension} image"
    elif found != (video.height, video.width):
        yield f"{found[0]} x {found[1]} pixels, the video has {size}"
    for name, rle in (frame.masks or {}).items():
        if name not in video.objects:
            yield f"mask of object {name!r}, the video has {sorted(video.objects)}"
        if (rle.height, rle.width) != (video.height, video.width):
            yield f"mask of {rle.height} x {rle.width} pixels, the video has {size}"
