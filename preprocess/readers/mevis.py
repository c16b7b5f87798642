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
from pathlib import Path

from preprocess.dataset import DataSet, PublishedCounts, Source, without_options
from preprocess.official_files import as_shard_error, data_folder
from preprocess.reader import VideoFolders, VideoListing
from preprocess.readers.ref_youtube_vos import read_listing
from shards.errors import ShardError
from shards.format.rle import Rle
from shards.format.schema import Video

PUBLISHED = {  # expressions: of the release of 2023, of the second release
    "train": PublishedCounts(videos=1662, expressions=(22258, 27502)),
    "valid_u": PublishedCounts(videos=50, expressions=(793, 907)),
    "valid": PublishedCounts(videos=140, expressions=(2236, 2523)),
}

_ENTRY = re.compile(rb'"(\d+)"\s*:')  # run lengths have no quotes: only at the top


@dataclass(frozen=True)
class MevisVideos(VideoFolders):
    """Videos by key, with their masks' byte ranges.

    Attributes:
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
        masks_of = {name: self._masks(self.masks, name, video) for name in video.objects}
        frames = []
        for position, frame in enumerate(video.frames):
            masks = {}
            for name, masks_of_object in masks_of.items():
                rle = masks_of_object[position]
                if rle is not None:
                    masks[name] = rle
            frames.append(replace(frame, masks=masks))
        return replace(video, frames=frames)

    def _masks(self, path: Path, name: str, video: Video) -> list[Rle | None]:
        """Return an object's mask in every frame, None where it is absent."""
        start, end = self.spans[name]
        problem = f"{path}: annotation {name} of video {video.key} is not in the official form"
        with as_shard_error(problem):
            with path.open("rb") as file:
                file.seek(start)
                entry = file.read(end - start)
            # between two entries lies a comma
            codes = json.loads(entry.rstrip().removesuffix(b","))
            if len(codes) != len(video.frames):
                raise ValueError(f"{len(codes)} masks for {len(video.frames)} frames")
            masks: list[Rle | None] = []
            for code in codes:
                if not code:
                    masks.append(None)
                    continue
                height, width = code["size"]
                masks.append(Rle(height, width, code["counts"].encode("ascii")))
            return masks


def open_mevis(root: Path, split: str) -> Source:
    """List a split.

    Args:
        root: the folder that holds the splits, or the one above, where it is called ``mevis``.
        split: ``train``, ``valid_u`` or ``valid``.

    Raises:
        ShardError: a file is missing or broken.
    """
    images = data_folder(f"MeViS {split} frames", root, "mevis", f"{split}/JPEGImages")
    base = images.parent
    notes = []
    listings = read_listing(base / "meta_expressions.json", object_field="anno_id")
    masks: Path | None = base / "mask_dict.json"
    spans: dict[str, tuple[int, int]] = {}
    if split == "valid" and not (base / "mask_dict.json").exists():
        masks = None
        notes.append("no masks: valid has no mask_dict.json, its answers are kept secret")
    else:
        spans = find_annotations(base / "mask_dict.json")
        for video, listing in listings.items():
            _check_masks(base / "mask_dict.json", spans, video, listing)
    reader = MevisVideos("mevis", split, listings, (images,), masks=masks, spans=spans)
    return reader.make_source(PUBLISHED[split], notes=notes)


def _check_masks(
    path: Path, spans: Mapping[str, tuple[int, int]], video: str, listing: VideoListing
) -> None:
    """Refuse an expression that names no object, or one without masks."""
    without_masks = listing.objects.keys() - spans.keys()
    all_named = all(expression.objects for expression in listing.expressions)
    if without_masks or not all_named:
        numbers = ", ".join(sorted(without_masks)) or "missing"
        raise ShardError(
            f"{path}: video {video} has expressions without masks "
            f"(anno_id {numbers}); download both lists again"
        )


def find_annotations(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each entry of ``mask_dict.json`` starts and ends, in constant memory.

    Raises:
        ShardError: it is missing or has none.
    """
    problem = f"{path} cannot be searched"
    with as_shard_error(problem, "complete the download"), path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # a match is `"12":`, so an entry goes from its end to the start of the next one
        matches = [
            (match[1].decode(), match.start(), match.end()) for match in _ENTRY.finditer(content)
        ]
        closing_brace = content.rfind(b"}")
    if not matches or closing_brace < matches[-1][2]:
        raise ShardError(f"{path} is cut short or has no masks; download it again")
    ends = [start_of_next for _, start_of_next, _ in matches[1:]] + [closing_brace]
    spans = {}
    for (name, _, start), end in zip(matches, ends, strict=True):
        spans[name] = (start, end)
    return spans


DATASET = DataSet("mevis", PUBLISHED, without_options(open_mevis))
