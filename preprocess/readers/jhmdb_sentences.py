"""JHMDB-Sentences, for evaluation only: the official frames, masks of the three published frames.

Below the root (or ``jhmdb_sentences/`` in it): ``Rename_Images/<action>/<video>/<frame>.png``,
``puppet_mask/<action>/<video>/puppet_mask.mat``, ``jhmdb_annotation.txt`` and
``jhmdb_sentences_samples_metadata.json``. The three frames of each video were drawn without a
seed: only those that the metadata names are annotated here, so that scores are the benchmark's.
The one object is "1", its category the action. Frames count from 1.
"""

import hashlib
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from preprocess import official_files as files
from preprocess.dataset import Listed, Reader, Source, expression
from shards.errors import ShardError
from shards.format.rle import Rle, encode_mask
from shards.format.schema import Frame, Video

SPLITS = ("test",)
PUBLISHED = (928, 928)
METADATA = "jhmdb_sentences_samples_metadata.json"
_FRAME = "./jhmdb_sentences/Rename_Images/{0}/{1}/{2}.png"
_MASK = "./jhmdb_sentences/puppet_mask/{0}/{1}/puppet_mask.mat"


@dataclass(frozen=True)
class JhmdbVideos(Reader):
    """Videos by key, below the folder ``jhmdb_sentences``; the frames listed have masks."""

    base: Path

    def files(self, key: str) -> list[Path]:
        """List a video's frames.

        Raises:
            ShardError: one that the metadata names is missing.
        """
        video = self.videos[key]
        folder = self.base / "Rename_Images" / video.objects["1"] / video.name
        paths = sorted(folder.glob("[0-9]*.png"))
        if absent := {*video.frames} - {path.stem for path in paths}:
            raise ShardError(f"{folder} has no frame {min(absent)}.png; complete the download")
        return paths

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken.
        """
        video = self.videos[key]
        mat = self.base / "puppet_mask" / video.objects["1"] / video.name / "puppet_mask.mat"
        masks, frames = read_puppet(mat), []
        for path in self.files(key):
            its: dict[str, Rle] | None = None
            if path.stem in video.frames:
                if int(path.stem) > masks.shape[2]:  # some videos have fewer masks than frames
                    raise ShardError(f"{mat} has {masks.shape[2]} masks, none of {path.name}")
                its = {"1": encode_mask(masks[:, :, int(path.stem) - 1])}
            frames.append(Frame(path.stem, files.read_png(path), "png", its))
        return self.video(key, (masks.shape[0], masks.shape[1]), frames, video.objects)


def open_jhmdb_sentences(root: Path, split: str = "test") -> Source:
    """List the videos.

    Args:
        root: the folder ``jhmdb_sentences``, or the one above it.
        split: ``test``.

    Raises:
        ShardError: a file is missing or broken.
    """
    images = files.data_folder("JHMDB-Sentences", root, "jhmdb_sentences", "Rename_Images")
    path = images.parent / METADATA
    if not path.exists():
        raise ShardError(
            f"{path} is missing: the benchmark's frames were drawn without a seed, only this file "
            f"knows them; get it from where the sentences are published"
        )
    rows = files.read_json(path)
    queries = dict(files.read_rows(images.parent / "jhmdb_annotation.txt", "video_id,query"))
    drawn: dict[str, list[str]] = {}
    actions = {}
    with files.blaming(f"{path} is not in the official form"):
        for name, frame, mask, _, text in rows:
            action, number = frame.split("/")[-3], Path(frame).stem
            told = [it.format(action, name, number) for it in (_FRAME, _MASK)]
            if told != [frame, mask] or not number.isdecimal() or {action, name} & {"..", "."}:
                raise ValueError(f"{frame} or {mask} does not lie where it should")
            if queries[name] != text:
                raise ValueError(f"{text!r} is not what jhmdb_annotation.txt says of {name}")
            drawn.setdefault(name, []).append(number)
            actions[name] = action
    videos = {
        key_of(it): Listed(it, (*drawn[it],), {"1": actions[it]}, (expression(0, queries[it], 1),))
        for it in drawn
    }
    reader = JhmdbVideos("jhmdb-sentences", split, videos, images.parent)
    return reader.source(PUBLISHED, lists=(("rows in the metadata", len(rows), 2784),))


def key_of(name: str) -> str:
    """Return a key for a name with any characters, the same each time."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return f"v-{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def read_puppet(path: Path) -> np.ndarray[Any, Any]:
    """Return the masks of a video, `[H, W, T]`, True on the person.

    Raises:
        ShardError: the file is missing or broken.
    """
    content = BytesIO(files.read_bytes(path))
    with files.blaming(f"{path} has no readable part_mask"):
        masks = np.asarray(loadmat(content, variable_names=["part_mask"])["part_mask"])
        if masks.ndim == 2:  # MATLAB drops a last axis of one
            masks = masks[..., None]
        if masks.ndim != 3 or masks.dtype.kind not in "biuf":
            raise ValueError(f"part_mask is {masks.dtype} {masks.shape}")
        return masks != 0
