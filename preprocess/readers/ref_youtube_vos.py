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

from preprocess.dataset import Listed, Source, VideoFolders, expression
from preprocess.official_files import blaming, data_folder, first_folder, read_json
from shards.errors import ShardError

SPLITS = ("train", "valid")
PUBLISHED = {"train": (3471, 12913), "valid": (202, 834)}

_NAME = re.compile(r"[\w-]+", re.ASCII)
_NUMBER = re.compile(r"[0-9]+")


def open_ref_youtube_vos(root: Path, split: str, *, dataset: str = "ref-youtube-vos") -> Source:
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
    with_meta = split == "train" or (base / "meta.json").exists()
    listed = read_listing(
        lists / split / "meta_expressions.json", base / "meta.json" if with_meta else None
    )
    for video, bare in ((video, it) for video, its in listed.items() for it in its.expressions):
        if split == "train" and not bare.objects:
            raise ShardError(
                f"train meta_expressions.json: expression {bare.id} of video {video} "
                f"has no obj_id; download it again"
            )
    notes = []
    if split == "valid":
        unscored = read_listing(lists / "test/meta_expressions.json").keys() & listed.keys()
        listed = {video: it for video, it in listed.items() if video not in unscored}
        notes.append(f"left out: {len(unscored)} videos that the test list names, too")
    labels: tuple[Path, ...] = (base / "Annotations",)
    if split == "valid" and not labels[0].is_dir():
        labels = ()
        notes.append(f"no masks: there is no {base / 'Annotations'}")
    published = PUBLISHED[split] if dataset == "ref-youtube-vos" else (None, None)
    reader = VideoFolders(dataset, split, listed, (images,), labels)
    return reader.source(published, notes=tuple(notes))


def read_listing(
    expressions: Path, meta: Path | None = None, *, named: str = "obj_id"
) -> dict[str, Listed]:
    """Read ``meta_expressions.json`` and, for the objects' categories, ``meta.json``.

    Args:
        expressions: the first file.
        meta: the second one, if there is one.
        named: field that says which objects an expression names.

    Raises:
        ShardError: one is missing, or not in the official form.
    """
    listed = _read_videos(expressions)
    described = {} if meta is None else _read_videos(meta)
    files, videos = f"{expressions}{f' or {meta}' if meta else ''}", {}
    for video, content in listed.items():
        with blaming(f"{files}: video {video!r} is not in the official form", "download again"):
            objects = described[video]["objects"] if meta else {}
            videos[video] = _list_video(video, content, objects, named)
    return videos


def _list_video(
    video: str, content: Mapping[str, Any], objects: Mapping[str, Any], named: str
) -> Listed:
    expressions = tuple(
        expression(number, it["exp"], it.get(named), it.get("kind", ""))
        for number, it in content["expressions"].items()
    )
    categories = {number: "" for it in expressions for number in it.objects}
    categories |= {number: it["category"] for number, it in objects.items()}
    for number in categories:
        _checked(number, _NUMBER)
    frames = tuple(_checked(name, _NAME) for name in content["frames"])
    return Listed(video, frames, categories, expressions)


def _checked(name: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is no proper name")
    return name


def _read_videos(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(_NAME.fullmatch(video) for video in videos):
        raise ShardError(f'{path} has no "videos" by their names; download it again')
    return videos
