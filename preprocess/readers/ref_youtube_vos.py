"""Ref-YouTube-VOS: train, and the 202 scored videos of valid, from the official files.

Below the root: ``{train,valid}/JPEGImages/<video>/<frame>.jpg``, ``train/Annotations``,
``train/meta.json`` and ``meta_expressions/{train,valid,test}/meta_expressions.json``. The valid
list names 507 videos; those of the test list are not scored and left out. Ground truth of valid is
taken where it is: ``valid/Annotations``, ``valid/meta.json``, an ``obj_id`` with each expression.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocess.dataset import DataSet, PublishedCounts, Source, without_options
from preprocess.official_files import as_shard_error, data_folder, first_folder, read_json
from preprocess.reader import VideoFolders, VideoListing, make_expression
from shards.errors import ShardError

NAME = "ref-youtube-vos"
PUBLISHED = {
    "train": PublishedCounts(videos=3471, expressions=12913),
    "valid": PublishedCounts(videos=202, expressions=834),
}

# names become parts of paths: they must not lead anywhere else
_NAME = re.compile(r"[\w-]+", re.ASCII)
_NUMBER = re.compile(r"[0-9]+")


def open_ref_youtube_vos(root: Path, split: str, *, dataset: str = NAME) -> Source:
    """List a split.

    Args:
        root: the folder ``refer_youtube_vos``, or the one above it.
        split: ``train`` or ``valid``.
        dataset: name to give; for another data set in this layout.

    Raises:
        ShardError: a file is missing or broken.
    """
    lists = data_folder("Ref-YouTube-VOS", root, "refer_youtube_vos", "meta_expressions")
    base = lists.parent / split
    images = first_folder(f"{split} frames", base / "JPEGImages")
    meta: Path | None = base / "meta.json"
    if split == "valid" and not (base / "meta.json").exists():
        meta = None
    listings = read_listing(lists / split / "meta_expressions.json", meta)
    notes = []
    labels: tuple[Path, ...] = (base / "Annotations",)
    if split == "train":
        for video, listing in listings.items():
            _check_objects(video, listing)
    else:
        unscored = read_listing(lists / "test/meta_expressions.json").keys() & listings.keys()
        for video in unscored:
            del listings[video]
        notes.append(f"left out: {len(unscored)} videos that the test list names, too")
        if not (base / "Annotations").is_dir():
            labels = ()
            notes.append(f"no masks: there is no {base / 'Annotations'}")
    published = PUBLISHED[split] if dataset == NAME else PublishedCounts()
    reader = VideoFolders(dataset, split, listings, images=(images,), labels=labels)
    return reader.make_source(published, notes=notes)


def _check_objects(video: str, listing: VideoListing) -> None:
    """Refuse an expression that does not tell which object it is about."""
    for expression in listing.expressions:
        if not expression.objects:
            raise ShardError(
                f"train meta_expressions.json: expression {expression.id} of video {video} "
                f"has no obj_id; download it again"
            )


def read_listing(
    expressions: Path,
    meta: Path | None = None,
    *,
    object_field: str = "obj_id",
    kind_field: str = "kind",
) -> dict[str, VideoListing]:
    """Read ``meta_expressions.json`` and, for the objects' categories, ``meta.json``.

    Args:
        expressions: the first file.
        meta: the second one, if there is one.
        object_field: field that says which objects an expression names.
        kind_field: field that says of what kind an expression is, if the data set has kinds.

    Raises:
        ShardError: one is missing, or not in the official form.
    """
    listed = _read_videos(expressions)
    described = {} if meta is None else _read_videos(meta)
    paths = str(expressions) if meta is None else f"{expressions} or {meta}"
    videos = {}
    for video, content in listed.items():
        problem = f"{paths}: video {video!r} is not in the official form"
        with as_shard_error(problem, "download again"):
            objects = {} if meta is None else described[video]["objects"]
            videos[video] = _make_listing(video, content, objects, object_field, kind_field)
    return videos


# Any: parsed JSON of strangers, whose wrong forms `as_shard_error` turns into a message
def _make_listing(
    video: str,
    content: Mapping[str, Any],
    objects: Mapping[str, Any],
    object_field: str,
    kind_field: str,
) -> VideoListing:
    expressions = []
    for number, entry in content["expressions"].items():
        expression = make_expression(
            number, entry["exp"], entry.get(object_field), entry.get(kind_field, "")
        )
        expressions.append(expression)
    categories: dict[str, str] = {}
    for expression in expressions:
        for object_id in expression.objects:
            categories[object_id] = ""
    for object_id, description in objects.items():
        categories[object_id] = description["category"]
    for object_id in categories:
        _check_name(object_id, _NUMBER)
    for name in content["frames"]:
        _check_name(name, _NAME)
    return VideoListing(video, tuple(content["frames"]), categories, tuple(expressions))


def _check_name(name: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is no proper name")


def _read_videos(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(_NAME.fullmatch(video) for video in videos):
        raise ShardError(f'{path} has no "videos" by their names; download it again')
    return videos


DATASET = DataSet(NAME, PUBLISHED, without_options(open_ref_youtube_vos))
