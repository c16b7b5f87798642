"""Moving, occluding coloured shapes, written as files in two official layouts.

Below the root:

- ``refer_youtube_vos/``: train and valid videos in the Ref-YouTube-VOS layout. The valid split
  keeps its ground truth (Annotations, meta.json, ``obj_id``), so it can be scored; its test list is
  empty.
- ``coco/``: still images in the RefCOCO layout, ``train2014/``, ``refcoco/refs(unc).p`` (pickle
  protocol 0) and ``refcoco/instances.json``; splits train and val.

Every expression also carries ``kind``: appearance, side or motion (see ``expressions``). Equal
settings give byte-identical files, whatever the number of workers.
"""

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from preprocess.reencode import encode_jpeg
from preprocess.synthetic.expressions import Referral, draw_referred_scene
from preprocess.synthetic.render import outline, render
from preprocess.synthetic.scenes import COLOURS, SHAPES, Scene
from preprocess.synthetic.settings import SyntheticSettings
from shards.format.schema import Json

MARKER = "synthetic.json"  # the settings of a finished tree
TREES = ("refer_youtube_vos", "coco")
FRAME_STEP = 5  # the official frame names count in fives
JPEG_QUALITY = 90
MIN_VISIBLE_SHARE = 0.9  # of a shape's area, for its outline to be its mask
SCENES_PER_TASK = 32  # that a worker process is sent at once
CATEGORIES = {shape: number for number, shape in enumerate(SHAPES, start=1)}
PALETTE = [0, 0, 0, *(value for colour in COLOURS.values() for value in colour)]

Progress = Callable[[int], None] | None
Row = dict[str, Json]
T = TypeVar("T")


def write_synthetic(
    root: Path,
    settings: SyntheticSettings | None = None,
    *,
    workers: int = 1,
    progress: Progress = None,
) -> None:
    """Write the official files below a root, unless the same ones are there already.

    Args:
        root: folder to write into, made if missing.
        settings: what to draw.
        workers: number of processes.
        progress: called with the number of videos and images finished since the last call.

    Raises:
        ValueError: the root holds files drawn with other settings, or by nobody we know.
    """
    settings = settings or SyntheticSettings()
    if is_written(root, settings):
        return
    # A killed run leaves its files in a folder that the next one sweeps.
    partial_root = root / ".partial"
    shutil.rmtree(partial_root, ignore_errors=True)
    for split in ("train", "valid"):
        _write_videos(partial_root / "refer_youtube_vos", split, settings, workers, progress)
    test_list = "refer_youtube_vos/meta_expressions/test/meta_expressions.json"
    _write_json(partial_root / test_list, {"videos": {}})
    _write_images(partial_root / "coco", settings, workers, progress)
    for tree in TREES:
        (partial_root / tree).rename(root / tree)
    partial_root.rmdir()
    _write_json(root / MARKER, asdict(settings))  # last: it says that all is there


def is_written(root: Path, settings: SyntheticSettings) -> bool:
    """Tell whether a root holds the files of these settings.

    Raises:
        ValueError: it holds something else in their place.
    """
    marker = root / MARKER
    wanted_settings = asdict(settings)
    if marker.exists():
        written_settings = json.loads(marker.read_text())
        if written_settings == wanted_settings:
            return True
        changed = [
            key for key, value in wanted_settings.items() if written_settings.get(key) != value
        ]
        raise ValueError(
            f"{root} holds shapes drawn with another {', '.join(changed)}: "
            f"name another --root, or delete {root} to draw again"
        )
    for tree in TREES:
        if (root / tree).exists():
            raise ValueError(
                f"{root / tree} exists but {marker} does not: name another --root, or delete it"
            )
    return False


def _map_in_order(
    function: Callable[[int], T], count: int, workers: int, progress: Progress
) -> Iterator[T]:
    """Yield the function of 0 .. count - 1 in order, by several processes if asked."""
    if workers == 1:
        yield from _report(map(function, range(count)), progress)
        return
    # forked processes would inherit the threads' locks of libraries that are loaded here
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        results = pool.map(function, range(count), chunksize=SCENES_PER_TASK)
        yield from _report(results, progress)


def _report(results: Iterator[T], progress: Progress) -> Iterator[T]:
    for result in results:
        yield result
        if progress is not None:
            progress(1)


@dataclass(frozen=True)
class _WrittenVideo:
    """What the lists tell about a video: its name, its objects and its expressions."""

    name: str
    objects: Row
    listing: Row


def _write_videos(
    root: Path, split: str, settings: SyntheticSettings, workers: int, progress: Progress
) -> None:
    """Write a split in the Ref-YouTube-VOS layout."""
    count = settings.train_videos if split == "train" else settings.valid_videos
    for tree in ("JPEGImages", "Annotations"):
        (root / split / tree).mkdir(parents=True, exist_ok=True)
    write = partial(_write_video, root=root / split, split=split, settings=settings)
    meta: Row = {}
    listings: Row = {}
    for video in _map_in_order(write, count, workers, progress):
        meta[video.name] = {"objects": video.objects}
        listings[video.name] = video.listing
    _write_json(root / split / "meta.json", {"videos": meta})
    _write_json(root / f"meta_expressions/{split}/meta_expressions.json", {"videos": listings})


def _write_video(
    index: int, *, root: Path, split: str, settings: SyntheticSettings
) -> _WrittenVideo:
    """Write one video's frames and masks."""
    drawn = draw_referred_scene(split, index, settings)
    video = f"shapes{split[0]}{index:05d}"
    names = [f"{FRAME_STEP * frame:05d}" for frame in range(drawn.scene.num_frames)]
    frames, labels = render(drawn.scene)
    image_folder = root / "JPEGImages" / video
    label_folder = root / "Annotations" / video
    image_folder.mkdir()
    label_folder.mkdir()
    for name, frame, frame_labels in zip(names, frames, labels, strict=True):
        jpeg = encode_jpeg(Image.fromarray(frame), JPEG_QUALITY)
        (image_folder / f"{name}.jpg").write_bytes(jpeg)
        (label_folder / f"{name}.png").write_bytes(_palette_png(frame_labels))
    listing: Row = {"expressions": _expression_rows(drawn.referrals), "frames": [*names]}
    return _WrittenVideo(video, _object_rows(drawn.scene, labels, names), listing)


def _object_rows(scene: Scene, labels: NDArray[np.uint8], names: Sequence[str]) -> Row:
    """Return category and frames of each object that is in one, as meta.json has them."""
    rows: Row = {}
    for label, shape in enumerate(scene.shapes, start=1):
        visible = (labels == label).any((1, 2))
        frames: list[Json] = [
            name for name, is_visible in zip(names, visible, strict=True) if is_visible
        ]
        rows[str(label)] = {"category": shape.shape, "frames": frames}
    return rows


def _expression_rows(referrals: Sequence[Referral]) -> Row:
    rows: Row = {}
    for number, referral in enumerate(referrals):
        rows[str(number)] = {
            "exp": referral.text,
            "obj_id": str(referral.target + 1),
            "kind": referral.kind,
        }
    return rows


@dataclass(frozen=True)
class _WrittenShape:
    """One shape of an image, not yet numbered among all annotations.

    Attributes:
        shape: name of its kind.
        segmentation: a polygon or run lengths in COCO's form.
        area: of what is visible, in pixels.
        bbox: x, y, width and height of what is visible, in pixels.
    """

    shape: str
    segmentation: Json
    area: float
    bbox: Json


@dataclass(frozen=True)
class _WrittenImage:
    """What the lists tell about an image.

    Attributes:
        number: counted from 1.
        file_name: in the folder of images.
        side: height and width in pixels.
        shapes: in the order of the scene.
        referrals: the expressions.
    """

    number: int
    file_name: str
    side: int
    shapes: list[_WrittenShape]
    referrals: list[Referral]


def _write_images(
    root: Path, settings: SyntheticSettings, workers: int, progress: Progress
) -> None:
    """Write both splits in the RefCOCO layout."""
    (root / "train2014").mkdir(parents=True)
    images: list[Json] = []
    annotations: list[Json] = []
    refs: list[Json] = []
    num_sentences = 0
    total = settings.images + settings.valid_images
    write = partial(_write_image, folder=root / "train2014", settings=settings)
    for image in _map_in_order(write, total, workers, progress):
        images.append(
            {
                "id": image.number,
                "file_name": image.file_name,
                "height": image.side,
                "width": image.side,
            }
        )
        split = "train" if image.number <= settings.images else "val"
        for target, shape in enumerate(image.shapes):
            annotation_id = len(annotations) + 1
            annotations.append(_annotation_row(image, shape, annotation_id))
            referrals = [referral for referral in image.referrals if referral.target == target]
            if referrals:
                sentences = _sentence_rows(referrals, first_id=num_sentences)
                num_sentences += len(sentences)
                refs.append(_ref_row(image, shape, annotation_id, len(refs), split, sentences))
    categories: list[Json] = [
        {"id": number, "name": name, "supercategory": "shape"}
        for name, number in CATEGORIES.items()
    ]
    instances: Row = {"images": images, "annotations": annotations, "categories": categories}
    _write_json(root / "refcoco/instances.json", instances)
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))


def _write_image(index: int, *, folder: Path, settings: SyntheticSettings) -> _WrittenImage:
    """Write one image; those behind the train split's are held out."""
    if index < settings.images:
        drawn = draw_referred_scene("image", index, settings)
    else:
        drawn = draw_referred_scene("valid_image", index - settings.images, settings)
    frames, labels = render(drawn.scene)
    file_name = f"COCO_train2014_{index + 1:012d}.jpg"
    jpeg = encode_jpeg(Image.fromarray(frames[0]), JPEG_QUALITY)
    (folder / file_name).write_bytes(jpeg)
    return _WrittenImage(
        number=index + 1,
        file_name=file_name,
        side=drawn.scene.side,
        shapes=[
            _measure_shape(drawn.scene, target, labels[0])
            for target in range(len(drawn.scene.shapes))
        ],
        referrals=drawn.referrals,
    )


def _measure_shape(scene: Scene, target: int, labels: NDArray[np.uint8]) -> _WrittenShape:
    """Return a shape's outline, or what is visible of it as run lengths if others hide part."""
    shape = scene.shapes[target]
    mask = labels == target + 1
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    corners = outline(shape, scene.centres()[target, 0])
    (whole,) = coco_mask.frPyObjects([corners.ravel().tolist()], scene.side, scene.side)
    is_covered = mask.sum() < MIN_VISIBLE_SHARE * coco_mask.area(whole)
    segmentation: Json
    if is_covered:
        segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    else:
        segmentation = [[*corners.round(2).ravel().tolist()]]
    return _WrittenShape(
        shape=shape.shape,
        segmentation=segmentation,
        area=float(mask.sum()),
        bbox=coco_mask.toBbox(encoded).tolist(),
    )


def _annotation_row(image: _WrittenImage, shape: _WrittenShape, annotation_id: int) -> Row:
    """Return a row of instances.json."""
    return {
        "image_id": image.number,
        "segmentation": shape.segmentation,
        "area": shape.area,
        "bbox": shape.bbox,
        "iscrowd": 0,
        "id": annotation_id,
        "category_id": CATEGORIES[shape.shape],
    }


def _sentence_rows(referrals: Sequence[Referral], first_id: int) -> list[Row]:
    """Return the sentences of a row of refs(unc).p."""
    rows: list[Row] = []
    for number, referral in enumerate(referrals, start=first_id):
        # pickle writes an equal string again unless it is the same object, which those that come
        # from another process are not
        kind = sys.intern(referral.kind)
        rows.append(
            {
                "raw": referral.text,
                "sent": referral.text,
                "sent_id": number,
                "tokens": [*referral.text.split()],
                "kind": kind,
            }
        )
    return rows


def _ref_row(
    image: _WrittenImage,
    shape: _WrittenShape,
    annotation_id: int,
    ref_id: int,
    split: str,
    sentences: list[Row],
) -> Row:
    """Return a row of refs(unc).p; the file name carries the annotation id, as officially."""
    return {
        "ref_id": ref_id,
        "ann_id": annotation_id,
        "category_id": CATEGORIES[shape.shape],
        "image_id": image.number,
        "file_name": f"{image.file_name.removesuffix('.jpg')}_{annotation_id}.jpg",
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": [*sentences],
    }


def _palette_png(labels: NDArray[np.uint8]) -> bytes:
    """Return a label map [H, W] as PNG with the colours of the shapes."""
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(PALETTE)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write_json(path: Path, content: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
