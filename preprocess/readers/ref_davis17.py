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
from dataclasses import dataclass, replace
from pathlib import Path

from preprocess.dataset import DataSet, PublishedCounts, Source, without_options
from preprocess.official_files import DOWNLOAD_AGAIN, read_json, read_text, video_folder
from preprocess.reader import VideoFolders, VideoListing, make_expression
from preprocess.readers.ref_youtube_vos import read_listing
from shards.errors import ShardError
from shards.format.schema import Expression

PUBLISHED = {
    "train": PublishedCounts(videos=60),
    "val": PublishedCounts(videos=30, expressions=244),
}
REPACKED_NAMES = {"train": "train", "val": "valid"}
ANNOTATORS = {  # in the order of the re-packed form; file suffix to encoding
    "annot1": "utf-8",
    "annot1_full_video": "utf-8",
    "annot2": "latin-1",
    "annot2_full_video": "latin-1",
}
# names in the annotators' files that are not those of the videos
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
VOID = "255"

_LINE = re.compile(r'(\S+)\s+(\d+)\s+"(.*)"\s*')


@dataclass(frozen=True)
class _Layout:
    """The official or the re-packed files of a split.

    Attributes:
        tree: folder that holds those of frames and masks.
        mask_folders: names of the folders of masks, the first that has a video counts.
        videos: listings by name.
        notes: oddities met.
    """

    tree: Path
    mask_folders: tuple[str, ...]
    videos: dict[str, VideoListing]
    notes: list[str]


def open_ref_davis17(root: Path, split: str) -> Source:
    """List a split.

    Args:
        root: the folder that holds ``DAVIS`` or the re-packed form, or the folder above it.
        split: ``train`` or ``val``.

    Raises:
        ShardError: a file is missing or broken.
    """
    layout = _find_layout(root, split)
    labels: list[Path] = []
    for name in layout.mask_folders:
        labels += _video_trees(layout.tree / name)
    reader = VideoFolders(
        "ref-davis17",
        split,
        layout.videos,
        images=_video_trees(layout.tree / "JPEGImages"),
        labels=tuple(labels),
        label_names={VOID: "void"},
    )
    return reader.make_source(PUBLISHED[split], notes=layout.notes)


def _find_layout(root: Path, split: str) -> _Layout:
    """Return the first layout that is there; the official one goes before a re-packed one."""
    repacked = REPACKED_NAMES[split]
    bases = [root, root / "refer_davis"]
    if root.name == "DAVIS":
        bases.append(root.parent)
    for base in bases:
        if (base / "DAVIS").is_dir() and (base / "davis_text_annotations").is_dir():
            return _official(base, split)
        if (base / repacked / "JPEGImages").is_dir():
            return _repacked(base, split)
    raise ShardError(
        f"no Ref-DAVIS17 {split} below {root}: expected DAVIS/ and davis_text_annotations/, "
        f"or {repacked}/JPEGImages; check --root"
    )


def _video_trees(tree: Path) -> tuple[Path, ...]:
    """Return the folders that may hold the videos' own ones."""
    return tree / "480p", tree


def _official(base: Path, split: str) -> _Layout:
    davis = base / "DAVIS"
    lines, notes = _read_lines(base / "davis_text_annotations")
    semantics = davis / "davis_semantics.json"
    categories = read_json(semantics) if semantics.exists() else {}
    videos = {}
    silent = []
    for video in read_text(davis / f"ImageSets/2017/{split}.txt").split():
        folder = video_folder("frames", video, _video_trees(davis / "JPEGImages"))
        expressions = lines.get(video, [])
        objects = {expression.objects[0]: "" for expression in expressions}
        objects |= categories.get(video, {})
        videos[video] = VideoListing(
            name=video,
            frames=tuple(sorted(path.stem for path in folder.glob("*.jpg"))),
            objects=objects,
            expressions=_number(expressions),
        )
        if not expressions:
            silent.append(video)
    if silent:
        notes.append(f"no expressions for {', '.join(silent)}")
    return _Layout(davis, ("Annotations_unsupervised",), videos, notes)


def _number(expressions: Iterable[Expression]) -> tuple[Expression, ...]:
    """Number a video's expressions by object, then annotator, as the re-packed form does."""
    annotators = list(ANNOTATORS)

    def rank(expression: Expression) -> tuple[int, int]:
        return int(expression.objects[0]), annotators.index(expression.kind)

    ordered = sorted(expressions, key=rank)
    return tuple(replace(expression, id=str(number)) for number, expression in enumerate(ordered))


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
                    f"found {row[:80]!r}; {DOWNLOAD_AGAIN}"
                )
            video, object_id, text = match.groups()
            if video in MISSPELT:
                misspelt.add(video)
                video = MISSPELT[video]
            expressions = lines.setdefault(video, [])
            expressions.append(make_expression(number, text, object_id, annotator))
    notes = [f"{name} is misspelt, read as {MISSPELT[name]}" for name in sorted(misspelt)]
    return lines, notes


def _repacked(base: Path, split: str) -> _Layout:
    name = REPACKED_NAMES[split]
    listings = read_listing(
        base / f"meta_expressions/{name}/meta_expressions.json", base / name / "meta.json"
    )
    videos = {}
    notes = []
    for video, listing in listings.items():
        expressions, oddities = _name_annotators(listing.expressions)
        notes += [f"{video}: {oddity}" for oddity in oddities]
        videos[video] = replace(listing, expressions=expressions)
    # ``Annotations`` may hold a mere palette beside the other one, so it comes second
    mask_folders = ("Annotations_unsupervised", "Annotations")
    return _Layout(base / name, mask_folders, videos, notes)


def _name_annotators(
    expressions: Iterable[Expression],
) -> tuple[tuple[Expression, ...], list[str]]:
    """Name the annotators of a re-packed video's expressions.

    Returns:
        expressions, of unknown kind where an object has not just one of each annotator; and what
        to say of those objects.
    """
    ids_by_objects: dict[tuple[str, ...], list[str]] = {}
    for expression in expressions:
        ids_by_objects.setdefault(expression.objects, []).append(expression.id)
    annotator_of: dict[str, str] = {}
    oddities = []
    for objects, ids in ids_by_objects.items():
        if len(ids) == len(ANNOTATORS):
            annotator_of |= dict(zip(ids, ANNOTATORS, strict=True))
        else:
            oddities.append(f"object {''.join(objects)} has {len(ids)} expressions, not four")
    tagged = tuple(
        replace(expression, kind=annotator_of.get(expression.id, "")) for expression in expressions
    )
    return tagged, oddities


DATASET = DataSet("ref-davis17", PUBLISHED, without_options(open_ref_davis17))
