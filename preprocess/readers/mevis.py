"""MeViS: expressions about motion, each naming one object or several, from the official files.

Below the root (or ``mevis/`` in it): ``{train,valid_u,valid}/JPEGImages/<video>/<frame>.jpg``,
``<split>/meta_expressions.json`` and, but for valid, ``<split>/mask_dict.json``: under an
annotation's number a list over frames of compressed COCO RLE or null. An object's id here is that
number (``anno_id``). The mask file is large: it is searched once, and read by ranges.
"""

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from preprocess.dataset import Source, VideoFolders
from preprocess.official_files import blaming, data_folder
from preprocess.readers.ref_youtube_vos import read_listing
from shards.errors import ShardError
from shards.format.rle import Rle
from shards.format.schema import Video

SPLITS = ("train", "valid_u", "valid")
# expressions: of the release of 2023, of the second release
PUBLISHED = {
    "train": (1662, (22258, 27502)),
    "valid_u": (50, (793, 907)),
    "valid": (140, (2236, 2523)),
}

_ENTRY = re.compile(rb'"(\d+)"\s*:')  # run lengths have no quotes: only at the top


@dataclass(frozen=True)
class MevisVideos(VideoFolders):
    """Videos by key, with their masks' places.

    Args:
        masks: ``mask_dict.json``; None: no masks.
        spans: start and end of each annotation in it, in bytes.
    """

    masks: Path | None = None
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, key: str) -> Video:
        """Read a video.

        Raises:
            ShardError: a file is missing or broken, or the masks do not fit the frames.
        """
        video = super().read(key)
        if self.masks is None:
            return video
        masks = {name: self._masks(self.masks, name, video) for name in video.objects}
        frames = [
            replace(frame, masks={name: rle for name, it in masks.items() if (rle := it[at])})
            for at, frame in enumerate(video.frames)
        ]
        return replace(video, frames=frames)

    def _masks(self, path: Path, name: str, video: Video) -> list[Rle | None]:
        """Return an object's mask in every frame, None where it is absent."""
        start, end = self.spans[name]
        problem = f"{path}: annotation {name} of video {video.key} is not in the official form"
        with blaming(problem):
            with path.open("rb") as file:
                file.seek(start)
                found = json.loads(file.read(end - start).rstrip().removesuffix(b","))
            if len(found) != len(video.frames):
                raise ValueError(f"{len(found)} masks for {len(video.frames)} frames")
            return [
                it and Rle(it["size"][0], it["size"][1], it["counts"].encode("ascii"))
                for it in found
            ]


def open_mevis(root: Path, split: str) -> Source:
    """List a split.

    Args:
        root: the folder that holds the splits, or the one above, where it is called ``mevis``.
        split: ``train``, ``valid_u`` or ``valid``.

    Raises:
        ShardError: a file is missing or broken.
    """
    images = data_folder(f"MeViS {split} frames", root, "mevis", f"{split}/JPEGImages")
    base, notes = images.parent, []
    listed = read_listing(base / "meta_expressions.json", named="anno_id")
    masks: Path | None = base / "mask_dict.json"
    if split == "valid" and not (base / "mask_dict.json").exists():
        masks = None
        notes.append("no masks: valid has no mask_dict.json, its answers are kept secret")
    spans = find_annotations(masks) if masks else {}
    for video, it in listed.items():
        unknown = it.objects.keys() - spans.keys()
        if masks and (unknown or not all(said.objects for said in it.expressions)):
            raise ShardError(
                f"{masks}: video {video} has expressions without masks "
                f"(anno_id {', '.join(sorted(unknown)) or 'missing'}); download both lists again"
            )
    reader = MevisVideos("mevis", split, listed, (images,), masks=masks, spans=spans)
    return reader.source(PUBLISHED[split], notes=tuple(notes))


def find_annotations(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each entry of ``mask_dict.json`` starts and ends, in constant memory.

    Raises:
        ShardError: it is missing or has none.
    """
    with blaming(f"{path} cannot be searched", "complete the download"), path.open("rb") as file:
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = [(it[1].decode(), it.start(), it.end()) for it in _ENTRY.finditer(text)]
        end = text.rfind(b"}")
    starts = [*found, ("", end, end)]
    if not found or end < found[-1][2]:
        raise ShardError(f"{path} is cut short or has no masks; download it again")
    return {name: (first, last) for (name, _, first), (_, last, _) in pairwise(starts)}
