"""JHMDB-Sentences, for evaluation only: the official frames, masks of the three published frames.

Below the root (or ``jhmdb_sentences/`` in it): ``Rename_Images/<action>/<video>/<frame>.png``,
``puppet_mask/<action>/<video>/puppet_mask.mat``, ``jhmdb_annotation.txt`` and
``jhmdb_sentences_samples_metadata.json``. The three frames of each video were drawn without a
seed: only those that the metadata names are annotated here, so that scores are the benchmark's.
The one object is "1", its category the action. Frames count from 1.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from preprocess import official_files as files
from preprocess.dataset import DataSet, ListCount, PublishedCounts, Source, without_options
from preprocess.reader import Reader, VideoListing, make_expression
from shards.errors import ShardError
from shards.format.rle import encode_mask
from shards.format.schema import Frame, Video

PUBLISHED = {"test": PublishedCounts(videos=928, expressions=928)}
PUBLISHED_METADATA_ROWS = 2784
METADATA = "jhmdb_sentences_samples_metadata.json"
OBJECT = "1"  # the person: a video has one

_FRAME = "./jhmdb_sentences/Rename_Images/{action}/{video}/{frame}.png"
_MASK = "./jhmdb_sentences/puppet_mask/{action}/{video}/puppet_mask.mat"


@dataclass(frozen=True)
class JhmdbVideos(Reader):
    """Videos by key; the frames listed have masks.

    Attributes:
        base: the folder ``jhmdb_sentences``.
    """

    base: Path

    def files(self, key: str) -> list[Path]:
        """List a video's frames.

        Raises:
            ShardError: one that the metadata names is missing.
        """
        listing = self.videos[key]
        folder = self.base / "Rename_Images" / listing.objects[OBJECT] / listing.name
        paths = sorted(folder.glob("[0-9]*.png"))
        absent = set(listing.frames) - {path.stem for path in paths}
        if absent:
            raise ShardError(f"{folder} has no frame {min(absent)}.png; complete the download")
        return paths

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken.
        """
        listing = self.videos[key]
        folder = self.base / "puppet_mask" / listing.objects[OBJECT] / listing.name
        mask_file = folder / "puppet_mask.mat"
        all_masks = read_puppet(mask_file)
        height, width, num_masks = all_masks.shape
        frames = []
        for path in self.files(key):
            masks = None
            if path.stem in listing.frames:
                number = int(path.stem)
                if number > num_masks:  # some videos have fewer masks than frames
                    raise ShardError(f"{mask_file} has {num_masks} masks, none of {path.name}")
                masks = {OBJECT: encode_mask(all_masks[:, :, number - 1])}
            frames.append(Frame(path.stem, files.read_png(path), "png", masks))
        return self.make_video(key, (height, width), frames, listing.objects)


@dataclass
class _AnnotatedVideo:
    """What the metadata tells of a video.

    Attributes:
        action: name of the folder above the video's.
        frames: names of the frames that are scored, as they were drawn.
    """

    action: str
    frames: list[str]


def open_jhmdb_sentences(root: Path, split: str = "test") -> Source:
    """List the videos.

    Args:
        root: the folder ``jhmdb_sentences``, or the one above it.
        split: ``test``.

    Raises:
        ShardError: a file is missing or broken.
    """
    images = files.data_folder("JHMDB-Sentences", root, "jhmdb_sentences", "Rename_Images")
    base = images.parent
    path = base / METADATA
    if not path.exists():
        raise ShardError(
            f"{path} is missing: the benchmark's frames were drawn without a seed, only this file "
            f"knows them; get it from where the sentences are published"
        )
    rows = files.read_json(path)
    texts = dict(files.read_rows(base / "jhmdb_annotation.txt", "video_id,query"))
    with files.as_shard_error(f"{path} is not in the official form"):
        annotated = _read_metadata(rows, texts)
    videos = {}
    for name, video in annotated.items():
        videos[key_of(name)] = VideoListing(
            name=name,
            frames=tuple(video.frames),
            objects={OBJECT: video.action},
            expressions=(make_expression(0, texts[name], OBJECT),),
        )
    reader = JhmdbVideos("jhmdb-sentences", split, videos, base)
    metadata_rows = ListCount("rows in the metadata", len(rows), PUBLISHED_METADATA_ROWS)
    return reader.make_source(PUBLISHED[split], lists=(metadata_rows,))


def _read_metadata(rows: list[list[str]], texts: Mapping[str, str]) -> dict[str, _AnnotatedVideo]:
    """Return the annotated videos by name, in the order of their first row.

    Raises:
        ValueError: a path or a sentence is not the official one.
    """
    videos: dict[str, _AnnotatedVideo] = {}
    for name, frame_path, mask_path, _, text in rows:
        action = frame_path.split("/")[-3]
        frame = Path(frame_path).stem
        parts = {"action": action, "video": name, "frame": frame}
        # action and name become parts of paths: they must not lead anywhere else
        is_official = (
            frame_path == _FRAME.format_map(parts)
            and mask_path == _MASK.format_map(parts)
            and frame.isdecimal()
            and not {action, name} & {"..", "."}
        )
        if not is_official:
            raise ValueError(f"{frame_path} or {mask_path} does not lie where it should")
        if texts[name] != text:
            raise ValueError(f"{text!r} is not what jhmdb_annotation.txt says of {name}")
        video = videos.setdefault(name, _AnnotatedVideo(action, []))
        video.frames.append(frame)
        video.action = action
    return videos


def key_of(name: str) -> str:
    """Return a key for a name with any characters, the same each time."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    # two names may become one plain one, so part of a checksum keeps them apart
    return f"v-{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def read_puppet(path: Path) -> npt.NDArray[np.bool_]:
    """Return the masks of a video, `[H, W, T]`, True on the person.

    Raises:
        ShardError: the file is missing or broken.
    """
    content = BytesIO(files.read_bytes(path))
    with files.as_shard_error(f"{path} has no readable part_mask"):
        masks = np.asarray(loadmat(content, variable_names=["part_mask"])["part_mask"])
        if masks.ndim == 2:  # MATLAB drops a last axis of one
            masks = masks[..., None]
        if masks.ndim != 3 or masks.dtype.kind not in "biuf":
            raise ValueError(f"part_mask is {masks.dtype} {masks.shape}")
        return np.not_equal(masks, 0)


DATASET = DataSet("jhmdb-sentences", PUBLISHED, without_options(open_jhmdb_sentences))
