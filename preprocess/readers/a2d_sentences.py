"""A2D-Sentences from the official files: videos decoded once, masks of three to five frames each.

Below the root (or ``a2d_sentences/`` in it): ``Release/videoset.csv``,
``Release/CLIPS320/<video>.mp4``, ``text_annotations/a2d_annotation.txt``,
``text_annotations/a2d_missed_videos.txt`` and
``text_annotations/a2d_annotation_with_instances/<video>/<frame>.h5``. Every frame of a video is
decoded and stored as JPEG; frames count from 1. An object's id is its instance's number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image

from preprocess import official_files as files
from preprocess.dataset import DataSet, ListCount, PublishedCounts, ReadOptions, Source
from preprocess.reader import Reader, VideoListing, make_expression
from preprocess.reencode import JPEG_QUALITY, encode_jpeg
from shards.errors import ShardError
from shards.format.rle import Rle, encode_mask
from shards.format.schema import Expression, Frame, Video

PUBLISHED = {  # after what the missed list and the copied instance take away
    "train": PublishedCounts(videos=3017, expressions=5359),
    "test": PublishedCounts(videos=737, expressions=1295),
}
SPLITS = tuple(PUBLISHED)  # the table of videos counts them from 0
PUBLISHED_VIDEO_ROWS = 3782
PUBLISHED_EXPRESSION_ROWS = 6655
PUBLISHED_MISSED_VIDEOS = 28
MASKS = "text_annotations/a2d_annotation_with_instances"
COPIED_INSTANCE = "1 (copy)"  # one row has it; there is no mask of it
GROWTH = 8  # JPEG frames take about so many times the bytes of their video
MAX_MASK_PIXELS = 1 << 30  # of one frame's masks: more is a damaged file, and memory would run out
MIN_DECODED_SHARE = 0.9  # of the frames that a container counts: an edit list may hide a few


@dataclass(frozen=True)
class A2dVideos(Reader):
    """Videos by key.

    Attributes:
        base: the folder ``a2d_sentences``.
        quality: of the JPEG frames.
    """

    base: Path
    quality: int

    def files(self, key: str) -> tuple[Path]:
        """Return the file of a video."""
        return (self.base / f"Release/CLIPS320/{self.videos[key].name}.mp4",)

    def read(self, key: str) -> Video:
        """Decode a video and read its masks.

        Raises:
            ShardError: a file is missing or broken, or masks and video do not fit.
        """
        listing = self.videos[key]
        (path,) = self.files(key)
        folder = files.video_folder("masks", listing.name, [self.base / MASKS])
        masks = {path.stem: read_instances(path) for path in sorted(folder.glob("*.h5"))}
        frames = []
        for number, picture in enumerate(decode_video(path), start=1):
            name = f"{number:05d}"
            frames.append(Frame(name, encode_jpeg(picture, self.quality), "jpg", masks.get(name)))
        masks_without_frame = masks.keys() - {frame.name for frame in frames}
        if masks_without_frame:
            raise ShardError(
                f"{path} has {len(frames)} frames, there are masks of frame "
                f"{min(masks_without_frame)} (they count from 1): download video and masks again"
            )
        if not masks:
            raise ShardError(f"{folder} has no .h5 file; complete the download")
        objects = _object_numbers(listing.expressions, masks)
        return self.make_video(key, _mask_size(masks), frames, dict.fromkeys(objects, ""))


def _mask_size(masks: Mapping[str, Mapping[str, Rle]]) -> tuple[int, int]:
    """Return height and width of the first mask; the format's checks compare all others."""
    for instances in masks.values():
        for rle in instances.values():
            return rle.height, rle.width
    raise AssertionError("read_instances gives at least one mask")


def _object_numbers(
    expressions: Iterable[Expression], masks: Mapping[str, Mapping[str, Rle]]
) -> list[str]:
    """Return all instances that are named or drawn, in the order of their numbers."""
    numbers: set[str] = set()
    for expression in expressions:
        numbers.update(expression.objects)
    for instances in masks.values():
        numbers.update(instances)
    return sorted(numbers, key=int)


def open_a2d_sentences(root: Path, split: str, *, quality: int = JPEG_QUALITY) -> Source:
    """List a split.

    Args:
        root: the folder ``a2d_sentences``, or the one above it.
        split: ``train`` or ``test``.
        quality: of the JPEG frames, 1 to 100.

    Raises:
        ShardError: a file is missing or broken.
    """
    base = files.data_folder("A2D-Sentences", root, "a2d_sentences", "text_annotations").parent
    videos_of_split, num_videos = _read_video_table(base / "Release/videoset.csv", split)
    missed = set(files.read_text(base / "text_annotations/a2d_missed_videos.txt").split())
    table = base / "text_annotations/a2d_annotation.txt"
    rows = files.read_rows(table, "video_id,instance_id,query")
    num_copies = 0
    expressions_of: dict[str, list[Expression]] = {}
    for video, instance, text in rows:
        is_copy = instance == COPIED_INSTANCE
        # the name becomes part of a path: it must not lead anywhere else
        if not (is_copy or instance.isdecimal()) or Path(video).name != video:
            raise ShardError(
                f"{table}: {video},{instance} is no video and instance; download again"
            )
        if is_copy:
            num_copies += 1
        elif video not in missed and video in videos_of_split:
            expressions = expressions_of.setdefault(video, [])
            expressions.append(make_expression(len(expressions), text, instance))
    videos = {}
    for name, expressions in expressions_of.items():
        # some names begin with a dash, which the shards' keys must not
        videos[f"v_{name}"] = VideoListing(name, (), {}, tuple(expressions))
    reader = A2dVideos("a2d-sentences", split, videos, base, quality)
    return reader.make_source(
        PUBLISHED[split],
        growth=GROWTH,
        notes=(
            f"of all {num_videos} videos {len(missed)} that the missed list names are left out",
            f"of all {len(rows)} sentences {num_copies} about instance {COPIED_INSTANCE!r} "
            f"are left out",
        ),
        lists=(
            ListCount("rows in videoset.csv", num_videos, PUBLISHED_VIDEO_ROWS),
            ListCount("rows in a2d_annotation.txt", len(rows), PUBLISHED_EXPRESSION_ROWS),
            ListCount("missed videos", len(missed), PUBLISHED_MISSED_VIDEOS),
        ),
    )


def _read_video_table(path: Path, split: str) -> tuple[set[str], int]:
    """Return a split's videos by the table without header, and the number of all."""
    split_number = str(SPLITS.index(split))
    lines = files.read_text(path, "latin-1").split("\n")
    rows = [line.split(",") for line in lines if line.strip()]
    if not rows or any(row[-1].strip() not in ("0", "1") for row in rows):
        raise ShardError(f"{path}: a last column is not 0 (train) or 1 (test); download it again")
    return {row[0] for row in rows if row[-1].strip() == split_number}, len(rows)


def read_instances(path: Path) -> dict[str, Rle]:
    """Return the masks of one frame by instance.

    Raises:
        ShardError: the file is missing, broken or not in the official form.
    """
    with files.as_shard_error(f"{path} is no readable file of instances"):
        with h5py.File(path) as file:
            numbers = [str(int(number)) for number in np.ravel(file["instance"][()])]
            # asked before reading: a damaged header may claim any size
            if file["reMask"].size > MAX_MASK_PIXELS:
                raise ValueError(f"reMask claims {file['reMask'].shape}")
            masks = np.asarray(file["reMask"])
        if masks.ndim == 2:  # [W, H]: a single instance has no axis of its own
            masks = masks[None]
        if masks.ndim != 3 or len(masks) != len(numbers) or not masks.size:
            raise ValueError(f"reMask is {masks.shape} for {len(numbers)} instances")
        planes = masks.transpose(0, 2, 1) != 0  # [n, W, H] -> [n, H, W]
        return {number: encode_mask(plane) for number, plane in zip(numbers, planes, strict=True)}


def decode_video(path: Path) -> Iterator[Image.Image]:
    """Yield the frames of a video in time order.

    Raises:
        ShardError: it is missing, broken or cut short.
    """
    num_decoded = 0
    with files.as_shard_error(f"{path} cannot be decoded"), av.open(str(path)) as container:
        stream = container.streams.video[0]
        num_frames = stream.frames
        # by default FFmpeg (PyAV 18.1) paints over what is damaged and says nothing
        stream.codec_context.options = {"err_detect": "explode"}
        for frame in container.decode(video=0):
            num_decoded += 1
            yield frame.to_image()
        if num_decoded < MIN_DECODED_SHARE * num_frames or num_decoded == 0:
            raise ValueError(f"{num_decoded} frames of {num_frames}")


def _open_split(root: Path, split: str, options: ReadOptions) -> Source:
    return open_a2d_sentences(root, split, quality=options.quality)


DATASET = DataSet("a2d-sentences", PUBLISHED, _open_split, decodes_videos=True)
