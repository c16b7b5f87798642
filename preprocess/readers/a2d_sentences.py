"""A2D-Sentences from the official files: videos decoded once, masks of three to five frames each.

Below the root (or ``a2d_sentences/`` in it): ``Release/videoset.csv``,
``Release/CLIPS320/<video>.mp4``, ``text_annotations/a2d_annotation.txt``,
``text_annotations/a2d_missed_videos.txt`` and
``text_annotations/a2d_annotation_with_instances/<video>/<frame>.h5``. Every frame of a video is
decoded and stored as JPEG; frames count from 1. An object's id is its instance's number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image

from preprocess import official_files as files
from preprocess.dataset import Listed, Reader, Source, encode_jpeg, expression
from shards.errors import ShardError
from shards.format.rle import Rle, encode_mask
from shards.format.schema import Expression, Frame, Video

SPLITS = ("train", "test")
PUBLISHED = {"train": (3017, 5359), "test": (737, 1295)}  # after the drops
QUALITY = 95
MASKS = "text_annotations/a2d_annotation_with_instances"
COPY = "1 (copy)"  # an instance that never was
GROWTH = 8  # JPEG frames take about so many times the bytes of their video
MAX_PIXELS = 1 << 30  # of one frame's masks: more is a damaged file


@dataclass(frozen=True)
class A2dVideos(Reader):
    """Videos by key.

    Args:
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
        listed, (path,) = self.videos[key], self.files(key)
        folder = files.video_folder("masks", listed.name, [self.base / MASKS])
        masks = {it.stem: read_instances(it) for it in sorted(folder.glob("*.h5"))}
        frames = [
            Frame(f"{number:05d}", encode_jpeg(it, self.quality), "jpg", masks.get(f"{number:05d}"))
            for number, it in enumerate(decode_video(path), start=1)
        ]
        if late := masks.keys() - {frame.name for frame in frames}:
            raise ShardError(
                f"{path} has {len(frames)} frames, there are masks of frame {min(late)} "
                f"(they count from 1): download video and masks again"
            )
        if not masks:
            raise ShardError(f"{folder} has no .h5 file; complete the download")
        some = next(rle for it in masks.values() for rle in it.values())
        named = {number for it in listed.expressions for number in it.objects}
        numbers = sorted(named.union(*masks.values()), key=int)
        return self.video(key, (some.height, some.width), frames, dict.fromkeys(numbers, ""))


def open_a2d_sentences(root: Path, split: str, *, quality: int = QUALITY) -> Source:
    """List a split.

    Args:
        root: the folder ``a2d_sentences``, or the one above it.
        split: ``train`` or ``test``.
        quality: of the JPEG frames.

    Raises:
        ShardError: a file is missing or broken.
    """
    base = files.data_folder("A2D-Sentences", root, "a2d_sentences", "text_annotations").parent
    wanted, num_videos = _videos_of(base / "Release/videoset.csv", split)
    missed = set(files.read_text(base / "text_annotations/a2d_missed_videos.txt").split())
    table = base / "text_annotations/a2d_annotation.txt"
    rows = files.read_rows(table, "video_id,instance_id,query")
    copies = [row for row in rows if row[1] == COPY]
    said: dict[str, list[Expression]] = {}
    for video, instance, text in rows:
        if not (instance == COPY or instance.isdecimal()) or Path(video).name != video:
            raise ShardError(
                f"{table}: {video},{instance} is no video and instance; download again"
            )
        if instance != COPY and video not in missed and video in wanted:
            its = said.setdefault(video, [])
            its.append(expression(len(its), text, instance))
    notes = (
        f"of all {num_videos} videos {len(missed)} that the missed list names are left out",
        f"of all {len(rows)} sentences {len(copies)} about instance {COPY!r} are left out",
    )
    videos = {f"v_{name}": Listed(name, (), {}, tuple(its)) for name, its in said.items()}
    return A2dVideos("a2d-sentences", split, videos, base, quality).source(
        PUBLISHED[split],
        GROWTH,
        notes=notes,
        lists=(
            ("rows in videoset.csv", num_videos, 3782),
            ("rows in a2d_annotation.txt", len(rows), 6655),
            ("missed videos", len(missed), 28),
        ),
    )


def _videos_of(path: Path, split: str) -> tuple[set[str], int]:
    """Return a split's videos by the table without header, and the number of all."""
    number = str(SPLITS.index(split))
    rows = [it.split(",") for it in files.read_text(path, "latin-1").split("\n") if it.strip()]
    if not rows or any(row[-1].strip() not in ("0", "1") for row in rows):
        raise ShardError(f"{path}: a last column is not 0 (train) or 1 (test); download it again")
    return {row[0] for row in rows if row[-1].strip() == number}, len(rows)


def read_instances(path: Path) -> dict[str, Rle]:
    """Return the masks of one frame by instance.

    Raises:
        ShardError: the file is missing, broken or not in the official form.
    """
    with files.blaming(f"{path} is no readable file of instances"):
        with h5py.File(path) as file:
            numbers = [str(int(it)) for it in np.ravel(file["instance"][()])]
            if file["reMask"].size > MAX_PIXELS:
                raise ValueError(f"reMask claims {file['reMask'].shape}")
            masks = np.asarray(file["reMask"])
        if masks.ndim == 2:  # [W, H]: a single instance has no axis of its own
            masks = masks[None]
        if masks.ndim != 3 or len(masks) != len(numbers) or not masks.size:
            raise ValueError(f"reMask is {masks.shape} for {len(numbers)} instances")
        planes = masks.transpose(0, 2, 1) != 0  # [n, W, H] -> [n, H, W]
        return {it: encode_mask(plane) for it, plane in zip(numbers, planes, strict=True)}


def decode_video(path: Path) -> Iterator[Image.Image]:
    """Yield the frames of a video in time order.

    Raises:
        ShardError: it is missing, broken or cut short.
    """
    count = 0
    with files.blaming(f"{path} cannot be decoded"), av.open(str(path)) as container:
        told = container.streams.video[0].frames
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        for frame in container.decode(video=0):
            count += 1
            yield frame.to_image()
        if count < 0.9 * told or not count:  # an edit list may hide a few
            raise ValueError(f"{count} frames of {told}")
