"""RefCOCO, RefCOCO+ and RefCOCOg from the official files, or from the converted form.

Below the root (or ``coco/`` in it): ``train2014/`` with the images and either
``<name>/refs(unc).p`` (RefCOCOg: ``refs(umd).p``) beside ``<name>/instances.json``, or the
converted ``instances_<name>_<split>.json``, in ``<name>/`` or beside it. The pickles come from the
net: they are read by an unpickler that admits plain containers, numbers and strings only. A sample
is an image with all objects that the split refers to; each sentence is an expression.
"""

import io
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pycocotools import mask as coco_mask

from preprocess import official_files as files
from preprocess.dataset import Listed, Reader, Source, expression
from shards.format.rle import Rle
from shards.format.schema import Expression, Frame, Video

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
PUBLISHED = {  # images, sentences
    "refcoco": {
        "train": (16994, 120624), "val": (1500, 10834), "testA": (750, 5657), "testB": (750, 5095),
    },
    "refcoco+": {
        "train": (16992, 120191), "val": (1500, 10758), "testA": (750, 5726), "testB": (750, 4889),
    },
    "refcocog": {"train": (21899, 80512), "val": (1300, 4896), "test": (2600, 9602)},
}  # fmt: skip
SPLITS = {name: tuple(splits) for name, splits in PUBLISHED.items()}


@dataclass(frozen=True)
class ReferredImage(Listed):
    """An image and what is said about it; its one frame is the name in the images' folder.

    Args:
        size: height and width in pixels.
        outlines: annotation id to COCO's segmentation, as JSON: a tenth of the parsed size.
    """

    size: tuple[int, int]
    outlines: Mapping[str, bytes]


@dataclass(frozen=True)
class ReferredImages(Reader):
    """Images by key, in a folder."""

    videos: Mapping[str, ReferredImage]
    folder: Path

    def files(self, key: str) -> list[Path]:
        """Return the file of an image."""
        return [self.folder / name for name in self.videos[key].frames]

    def read(self, key: str) -> Video:
        """Read an image as a video of one frame.

        Raises:
            ShardError: the image is missing or broken, or a mask cannot be drawn.
        """
        it, (path,) = self.videos[key], self.files(key)
        image, _ = files.read_jpeg(path)
        masks = {name: _mask(name, outline, it.size) for name, outline in it.outlines.items()}
        return self.video(key, it.size, [Frame(path.stem, image, "jpg", masks)], it.objects)


def open_refcoco(
    root: Path, name: str, split: str, *, dataset: str = "", filter_leaks: bool = False
) -> Source:
    """List a split.

    Args:
        root: the folder that holds ``train2014``, or the one above, where it is called ``coco``.
        name: ``refcoco``, ``refcoco+`` or ``refcocog``.
        split: one of the data set's splits.
        dataset: name to give; for another data set in this layout.
        filter_leaks: leave out of train what is in val or test of any of the three data sets.

    Raises:
        ShardError: a file is missing or broken.
    """
    folder = files.data_folder("COCO images", root, "coco", "train2014")
    base = folder.parent
    found = _converted_file(base, name, split)
    if found is None:
        images = _official(base / name / REFS[name], base / name / "instances.json", split)
    else:
        images = _converted(found)
    leaks: dict[str, ReferredImage] = {}
    notes = []
    if filter_leaks and split == "train":
        for other in REFS:
            held_out = images.keys() & held_out_images(base, other)
            leaks |= {key: images[key] for key in held_out}
            notes.append(f"{len(held_out)} images are in val or test of {other}: left out")
        images = {key: it for key, it in images.items() if key not in leaks}
    reader = ReferredImages(dataset or name.replace("+", "-plus"), split, images, folder)
    return reader.source(
        (None, None) if dataset else PUBLISHED[name][split],
        notes=tuple(notes),
        left_out=(len(leaks), sum(len(it.expressions) for it in leaks.values())),
    )


def _converted_file(base: Path, name: str, split: str) -> Path | None:
    """Return the converted form's file, unless there are the official ones or neither."""
    if (base / name / REFS[name]).exists():
        return None
    converted = f"instances_{name}_{split}.json"
    found = [path for path in (base / name / converted, base / converted) if path.exists()]
    return found[0] if found else None


def held_out_images(base: Path, name: str) -> set[str]:
    """Return the keys of all images in a data set's splits other than train.

    Raises:
        ShardError: a file is missing or broken.
    """
    keys: set[int] = set()
    for split in SPLITS[name][1:]:
        converted = _converted_file(base, name, split)
        path = converted or base / name / REFS[name]
        with files.blaming(f"{path} lists no images"):
            if converted:
                keys |= {it["original_id"] for it in files.read_json(path)["images"]}
            else:
                keys |= {it["image_id"] for it in read_plain_pickle(path) if it["split"] == split}
    return {f"{key:012d}" for key in keys}


# a sentence: its image's row, annotation id, category, outline as JSON, the expression
_Row = tuple[Mapping[str, Any], str, str, bytes, Expression]


def _gather(image_id: str, rows: Iterable[_Row]) -> dict[str, ReferredImage]:
    """Group sentences by image, in the order of first sight; ``image_id`` is its column."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(f"{row[0][image_id]:012d}", []).append(row)
    return {
        key: ReferredImage(
            name=str(int(key)),
            frames=(_plain(group[0][0]["file_name"]),),  # in refs it carries an annotation's id
            objects={object_id: category for _, object_id, category, _, _ in group},
            expressions=tuple(row[-1] for row in group),
            size=(int(group[0][0]["height"]), int(group[0][0]["width"])),
            outlines={object_id: outline for _, object_id, _, outline, _ in group},
        )
        for key, group in groups.items()
    }


def _official(refs_path: Path, instances_path: Path, split: str) -> dict[str, ReferredImage]:
    refs, instances = read_plain_pickle(refs_path), files.read_json(instances_path)

    def rows() -> Iterator[_Row]:
        images = {it["id"]: it for it in instances["images"]}
        annotations = {it["id"]: it for it in instances["annotations"]}
        categories = {it["id"]: it["name"] for it in instances["categories"]}
        for ref in refs:
            if ref["split"] == split:
                object_id, category = str(ref["ann_id"]), categories[ref["category_id"]]
                outline = json.dumps(annotations[ref["ann_id"]]["segmentation"]).encode()
                for it in ref["sentences"]:
                    said = expression(it["sent_id"], it["sent"], object_id, it.get("kind", ""))
                    yield images[ref["image_id"]], object_id, category, outline, said

    both = f"{refs_path} and {instances_path}"
    problem = f"{both} are not in the official form or not of one download"
    with files.blaming(problem, "download both again"):
        return _gather("id", rows())


def _converted(path: Path) -> dict[str, ReferredImage]:
    content = files.read_json(path)

    def rows() -> Iterator[_Row]:
        annotations = {it["image_id"]: it for it in content["annotations"]}
        categories = {it["id"]: it["name"] for it in content.get("categories", ())}
        for image in content["images"]:
            annotation = annotations[image["id"]]
            object_id = str(annotation["original_id"])
            category = categories.get(annotation["category_id"], "")
            outline = json.dumps(annotation["segmentation"]).encode()
            said = expression(image["id"], image["caption"], object_id)
            yield image, object_id, category, outline, said

    advice = "convert again, or give the official files"
    with files.blaming(f"{path} is not in the converted form", advice):
        return _gather("original_id", rows())


def _plain(file_name: str) -> str:
    """Refuse a file name that leads out of the images' folder."""
    if Path(file_name).name != file_name:
        raise ValueError(f"{file_name!r} is no plain file name")
    return file_name


def _mask(name: str, outline: bytes, size: tuple[int, int]) -> Rle:
    """Draw polygons or run lengths in COCO's form as a mask of ``size`` (height, width)."""
    height, width = size
    problem = f"annotation {name}: its segmentation cannot be drawn on {height}x{width} pixels"
    with files.blaming(problem, "download instances.json again"):
        segmentation = json.loads(outline)
        if isinstance(segmentation, list):
            polygons = [_polygon(it, 2 * max(size)) for it in segmentation if len(it) >= 6]
            merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}")
        elif isinstance(segmentation["counts"], str):
            return Rle(height, width, segmentation["counts"].encode("ascii"))
        elif sum(segmentation["counts"]) != height * width or min(segmentation["counts"]) < 0:
            raise ValueError("its run lengths do not fill the image")
        else:
            merged = coco_mask.frPyObjects(segmentation, height, width)
    return Rle(height, width, bytes(merged["counts"]))


def _polygon(corners: list[float], limit: float) -> list[float]:
    if len(corners) % 2 or not all(
        math.isfinite(value) and abs(value) <= limit for value in corners
    ):
        raise ValueError("a polygon's corner is no point near the image")
    return corners


class _PlainUnpickler(pickle.Unpickler):
    """Admits plain containers, numbers and strings: nothing that has to be imported."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data never does")


def read_plain_pickle(path: Path) -> Any:
    """Return what a pickle of plain containers, numbers and strings holds; run nothing of it.

    Raises:
        ShardError: it is missing, broken, or holds anything else.
    """
    content = files.read_bytes(path)
    problem = f"{path} is no pickle of plain data and nothing of it was run"
    with files.blaming(problem, "download it again from the official place"):
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
        except UnicodeDecodeError:  # byte strings of Python 2
            return _PlainUnpickler(io.BytesIO(content), encoding="latin-1").load()
