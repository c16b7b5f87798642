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
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pycocotools import mask as coco_mask

from preprocess import official_files as files
from preprocess.dataset import DataSet, LeftOut, PublishedCounts, ReadOptions, Source
from preprocess.reader import Reader, VideoListing, make_expression
from shards.format.rle import Rle
from shards.format.schema import Expression, Frame, Video

REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
PUBLISHED = {
    "refcoco": {
        "train": PublishedCounts(videos=16994, expressions=120624),
        "val": PublishedCounts(videos=1500, expressions=10834),
        "testA": PublishedCounts(videos=750, expressions=5657),
        "testB": PublishedCounts(videos=750, expressions=5095),
    },
    "refcoco+": {
        "train": PublishedCounts(videos=16992, expressions=120191),
        "val": PublishedCounts(videos=1500, expressions=10758),
        "testA": PublishedCounts(videos=750, expressions=5726),
        "testB": PublishedCounts(videos=750, expressions=4889),
    },
    "refcocog": {
        "train": PublishedCounts(videos=21899, expressions=80512),
        "val": PublishedCounts(videos=1300, expressions=4896),
        "test": PublishedCounts(videos=2600, expressions=9602),
    },
}
SPLITS = {name: tuple(splits) for name, splits in PUBLISHED.items()}
MIN_POLYGON_NUMBERS = 6  # three corners: fewer enclose nothing


@dataclass(frozen=True)
class ReferredImage(VideoListing):
    """An image and its expressions; its one frame is the name in the images' folder.

    Attributes:
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
        listing = self.videos[key]
        (path,) = self.files(key)
        image, _ = files.read_jpeg(path)
        masks = {
            name: _draw_mask(name, outline, listing.size)
            for name, outline in listing.outlines.items()
        }
        frame = Frame(path.stem, image, "jpg", masks)
        return self.make_video(key, listing.size, [frame], listing.objects)


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
    converted = _converted_file(base, name, split)
    if converted is None:
        images = _read_official(base / name / REFS[name], base / name / "instances.json", split)
    else:
        images = _read_converted(converted)
    leaks: dict[str, ReferredImage] = {}
    notes = []
    if filter_leaks and split == "train":
        for related in REFS:
            keys = images.keys() & held_out_images(base, related)
            leaks |= {key: images[key] for key in keys}
            notes.append(f"{len(keys)} images are in val or test of {related}: left out")
        images = {key: image for key, image in images.items() if key not in leaks}
    left_out = LeftOut(
        videos=len(leaks),
        expressions=sum(len(image.expressions) for image in leaks.values()),
    )
    published = PublishedCounts() if dataset else PUBLISHED[name][split]
    # file names of shards have no plus
    reader = ReferredImages(dataset or name.replace("+", "-plus"), split, images, folder)
    return reader.make_source(published, notes=notes, left_out=left_out)


def _converted_file(base: Path, name: str, split: str) -> Path | None:
    """Return the converted form's file, unless there are the official ones or neither."""
    if (base / name / REFS[name]).exists():
        return None
    file_name = f"instances_{name}_{split}.json"
    for path in (base / name / file_name, base / file_name):
        if path.exists():
            return path
    return None


def held_out_images(base: Path, name: str) -> set[str]:
    """Return the keys of all images in a data set's splits other than train.

    Raises:
        ShardError: a file is missing or broken.
    """
    image_ids: set[int] = set()
    for split in SPLITS[name][1:]:
        converted = _converted_file(base, name, split)
        path = converted or base / name / REFS[name]
        with files.as_shard_error(f"{path} lists no images"):
            if converted:
                image_ids |= {image["original_id"] for image in files.read_json(path)["images"]}
            else:
                refs = read_plain_pickle(path)
                image_ids |= {ref["image_id"] for ref in refs if ref["split"] == split}
    return {_key_of(image_id) for image_id in image_ids}


def _key_of(image_id: int) -> str:
    """Return the key of an image: its number as in COCO's file names."""
    return f"{image_id:012d}"


@dataclass(frozen=True)
class _Row:
    """An expression and what it is about.

    Attributes:
        image: row of the image in the official or converted list.
        object_id: number of the annotation.
        category: name of the object's category.
        outline: COCO's segmentation, as JSON.
        expression: the expression.
    """

    image: Mapping[str, Any]  # as parsed from JSON
    object_id: str
    category: str
    outline: bytes
    expression: Expression


def _group_by_image(id_field: str, rows: Iterable[_Row]) -> dict[str, ReferredImage]:
    """Group expressions by image, in the order of first sight.

    Args:
        id_field: of an image's row, the one that has COCO's number.
        rows: in the order of the lists.
    """
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(_key_of(row.image[id_field]), []).append(row)
    images = {}
    for key, group in groups.items():
        image = group[0].image
        images[key] = ReferredImage(
            name=str(int(key)),
            # not that in refs, which carries an annotation's id
            frames=(_check_file_name(image["file_name"]),),
            objects={row.object_id: row.category for row in group},
            expressions=tuple(row.expression for row in group),
            size=(int(image["height"]), int(image["width"])),
            outlines={row.object_id: row.outline for row in group},
        )
    return images


def _read_official(refs_path: Path, instances_path: Path, split: str) -> dict[str, ReferredImage]:
    refs = read_plain_pickle(refs_path)
    instances = files.read_json(instances_path)

    def rows() -> Iterator[_Row]:
        images = {image["id"]: image for image in instances["images"]}
        annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
        categories = {category["id"]: category["name"] for category in instances["categories"]}
        for ref in refs:
            if ref["split"] != split:
                continue
            object_id = str(ref["ann_id"])
            category = categories[ref["category_id"]]
            outline = json.dumps(annotations[ref["ann_id"]]["segmentation"]).encode()
            for sentence in ref["sentences"]:
                expression = make_expression(
                    sentence["sent_id"], sentence["sent"], object_id, sentence.get("kind", "")
                )
                yield _Row(images[ref["image_id"]], object_id, category, outline, expression)

    problem = (
        f"{refs_path} and {instances_path} are not in the official form or not of one download"
    )
    with files.as_shard_error(problem, "download both again"):
        return _group_by_image("id", rows())


def _read_converted(path: Path) -> dict[str, ReferredImage]:
    content = files.read_json(path)

    def rows() -> Iterator[_Row]:
        annotations = {row["image_id"]: row for row in content["annotations"]}
        categories = {row["id"]: row["name"] for row in content.get("categories", ())}
        # the converted form has an image's row for each expression
        for image in content["images"]:
            annotation = annotations[image["id"]]
            object_id = str(annotation["original_id"])
            category = categories.get(annotation["category_id"], "")
            outline = json.dumps(annotation["segmentation"]).encode()
            expression = make_expression(image["id"], image["caption"], object_id)
            yield _Row(image, object_id, category, outline, expression)

    problem = f"{path} is not in the converted form"
    with files.as_shard_error(problem, "convert again, or give the official files"):
        return _group_by_image("original_id", rows())


def _check_file_name(file_name: str) -> str:
    """Return a file name; refuse one that leads out of the images' folder."""
    if Path(file_name).name != file_name:
        raise ValueError(f"{file_name!r} is no plain file name")
    return file_name


def _draw_mask(name: str, outline: bytes, size: tuple[int, int]) -> Rle:
    """Draw polygons or run lengths in COCO's form as a mask of ``size`` (height, width)."""
    height, width = size
    problem = f"annotation {name}: its segmentation cannot be drawn on {height}x{width} pixels"
    with files.as_shard_error(problem, "download instances.json again"):
        segmentation = json.loads(outline)
        if isinstance(segmentation, list):
            # pycocotools 2.0 steps along every edge, so a corner far away takes memory without end
            limit = 2 * max(size)
            polygons = [
                _check_polygon(polygon, limit)
                for polygon in segmentation
                if len(polygon) >= MIN_POLYGON_NUMBERS
            ]
            drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}")
        elif isinstance(segmentation["counts"], str):
            return Rle(height, width, segmentation["counts"].encode("ascii"))
        elif sum(segmentation["counts"]) != height * width or min(segmentation["counts"]) < 0:
            raise ValueError("its run lengths do not fill the image")
        else:
            drawn = coco_mask.frPyObjects(segmentation, height, width)
    return Rle(height, width, bytes(drawn["counts"]))


def _check_polygon(corners: list[float], limit: float) -> list[float]:
    """Return a polygon; refuse one with a corner that is no point near the image."""
    near = [math.isfinite(value) and abs(value) <= limit for value in corners]
    if len(corners) % 2 or not all(near):
        raise ValueError("a polygon's corner is no point near the image")
    return corners


class _PlainUnpickler(pickle.Unpickler):
    """Admits plain containers, numbers and strings: nothing that has to be imported."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data never does")


def read_plain_pickle(path: Path) -> Any:  # as `pickle.load` does
    """Return what a pickle of plain containers, numbers and strings holds; run nothing of it.

    Raises:
        ShardError: it is missing, broken, or holds anything else.
    """
    content = files.read_bytes(path)
    problem = f"{path} is no pickle of plain data and nothing of it was run"
    with files.as_shard_error(problem, "download it again from the official place"):
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
        except UnicodeDecodeError:  # byte strings of Python 2
            return _PlainUnpickler(io.BytesIO(content), encoding="latin-1").load()


def _open_split(name: str, root: Path, split: str, options: ReadOptions) -> Source:
    return open_refcoco(root, name, split, filter_leaks=options.filter_leaks)


DATASETS = tuple(
    DataSet(name, splits, partial(_open_split, name), filters_leaks=True)
    for name, splits in PUBLISHED.items()
)
