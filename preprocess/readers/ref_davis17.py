"""Ref-DAVIS17: DAVIS 2017 with four annotators' expressions, from the official files or re-packed.

Official, below the root: ``DAVIS/{JPEGImages,Annotations_unsupervised}[/480p]/<video>``,
``DAVIS/ImageSets/2017/{train,val}.txt`` and ``davis_text_annotations/*.txt``. Re-packed:
``{train,valid}/{JPEGImages,Annotations_unsupervised,Annotations}[/480p]/<video>``,
``{train,valid}/meta.json`` and ``meta_expressions/{train,valid}/meta_expressions.json``.
An expression's kind is its annotator, so that each can be scored apart. Pixels of value 255 are
kept as an object "255" of category "void", to be left out of scores.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from preprocess.dataset import Listed, Source, VideoFolders, expression
from preprocess.official_files import read_json, read_text, video_folder
from preprocess.readers.ref_youtube_vos import read_listing
from shards.errors import ShardError
from shards.format.schema import Expression

SPLITS = ("train", "val")
PUBLISHED = {"train": (60, None), "val": (30, 244)}
ANNOTATORS = {  # in the order of the re-packed form; file suffix to encoding
    "annot1": "utf-8",
    "annot1_full_video": "utf-8",
    "annot2": "latin-1",
    "annot2_full_video": "latin-1",
}
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
VOID = "255"

_LINE = re.compile(r'(\S+)\s+(\d+)\s+"(.*)"\s*')


def open_ref_davis17(root: Path, split: str) -> Source:
    """List a split.

    Args:
        root: the folder that holds ``DAVIS`` or the re-packed form, or the folder above it.
        split: ``train`` or ``val``.

    Raises:
        ShardError: a file is missing or broken.
    """
    for base in (root, root / "refer_davis", root.parent if root.name == "DAVIS" else root):
        if (base / "DAVIS").is_dir() and (base / "davis_text_annotations").is_dir():
            tree, (videos, notes) = base / "DAVIS", _official(base, split)
            masks = ["Annotations_unsupervised"]
            break
        if (base / _repacked_name(split) / "JPEGImages").is_dir():
            tree, (videos, notes) = base / _repacked_name(split), _repacked(base, split)
            # ``Annotations`` may hold a mere palette beside the other one
            masks = ["Annotations_unsupervised", "Annotations"]
            break
    else:
        raise ShardError(
            f"no Ref-DAVIS17 {split} below {root}: expected DAVIS/ and davis_text_annotations/, "
            f"or {_repacked_name(split)}/JPEGImages; check --root"
        )
    labels = tuple(place for name in masks for place in _places(tree / name))
    images = _places(tree / "JPEGImages")
    reader = VideoFolders("ref-davis17", split, videos, images, labels, {VOID: "void"})
    return reader.source(PUBLISHED[split], notes=tuple(notes))


def _repacked_name(split: str) -> str:
    return {"train": "train", "val": "valid"}[split]


def _places(tree: Path) -> tuple[Path, ...]:
    """Return where the videos' folders may be."""
    return tree / "480p", tree


def _official(base: Path, split: str) -> tuple[dict[str, Listed], list[str]]:
    davis = base / "DAVIS"
    lines, notes = _read_lines(base / "davis_text_annotations")
    semantics = davis / "davis_semantics.json"
    categories = read_json(semantics) if semantics.exists() else {}
    videos = {}
    for video in read_text(davis / f"ImageSets/2017/{split}.txt").split():
        images = video_folder("frames", video, _places(davis / "JPEGImages"))
        frames = tuple(sorted(path.stem for path in images.glob("*.jpg")))
        objects = {it.objects[0]: "" for it in lines.get(video, ())} | categories.get(video, {})
        videos[video] = Listed(video, frames, objects, _number(lines.get(video, ())))
    silent = [video for video, it in videos.items() if not it.expressions]
    if silent:
        notes.append(f"no expressions for {', '.join(silent)}")
    return videos, notes


def _number(said: Iterable[Expression]) -> tuple[Expression, ...]:
    """Number a video's expressions by object, then annotator, as the re-packed form does."""
    order = list(ANNOTATORS)
    by_object = sorted(said, key=lambda it: (int(it.objects[0]), order.index(it.kind)))
    return tuple(replace(it, id=str(number)) for number, it in enumerate(by_object))


def _read_lines(folder: Path) -> tuple[dict[str, list[Expression]], list[str]]:
    """Read the annotators' files; return their lines by video, and the oddities met."""
    lines: dict[str, list[Expression]] = {}
    misspelt = set()
    for annotator, encoding in ANNOTATORS.items():
        path = folder / f"Davis17_{annotator}.txt"
        for number, row in enumerate(read_text(path, encoding).split("\n"), start=1):
            if not row.strip():
                continue
            match = _LINE.fullmatch(row)
            if match is None:
                raise ShardError(
                    f'{path}, line {number}: expected <video> <object> "<expression>", '
                    f"found {row[:80]!r}; download it again"
                )
            video, object_id, text = match.groups()
            if video in MISSPELT:
                misspelt.add(video)
            said = expression(number, text, object_id, annotator)
            lines.setdefault(MISSPELT.get(video, video), []).append(said)
    notes = [f"{name} is misspelt, read as {MISSPELT[name]}" for name in sorted(misspelt)]
    return lines, notes


def _repacked(base: Path, split: str) -> tuple[dict[str, Listed], list[str]]:
    name = _repacked_name(split)
    listed = read_listing(
        base / f"meta_expressions/{name}/meta_expressions.json", base / name / "meta.json"
    )
    videos, notes = {}, []
    for video, it in listed.items():
        expressions, odd = _tag(it.expressions)
        notes += [f"{video}: {what}" for what in odd]
        videos[video] = replace(it, expressions=expressions)
    return videos, notes


def _tag(expressions: Iterable[Expression]) -> tuple[tuple[Expression, ...], list[str]]:
    """Name the annotators of a re-packed video's expressions.

    Returns:
        expressions, of unknown kind where an object has not just one of each annotator; and what
        to say of those objects.
    """
    by_object: dict[tuple[str, ...], list[str]] = {}
    for it in expressions:
        by_object.setdefault(it.objects, []).append(it.id)
    kinds: dict[str, str] = {}
    odd = []
    for objects, names in by_object.items():
        if len(names) == len(ANNOTATORS):
            kinds |= dict(zip(names, ANNOTATORS, strict=True))
        else:
            odd.append(f"object {''.join(objects)} has {len(names)} expressions, not four")
    return tuple(replace(it, kind=kinds.get(it.id, "")) for it in expressions), odd
