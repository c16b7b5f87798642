"""Moving, occluding coloured shapes, written as files in two official layouts.

Below the root:

- ``refer_youtube_vos/``: train and valid videos in the Ref-YouTube-VOS layout. The valid split
  keeps its ground truth (Annotations, meta.json, ``obj_id``), so it can be scored; its test list is
  empty.
- ``coco/``: still images in the RefCOCO layout, ``train2014/``, ``refcoco/refs(unc).p`` (pickle
  protocol 0) and ``refcoco/instances.json``; splits train and val.

Every expression also carries ``kind``: appearance, side or motion (see ``shapes``). Equal settings
give byte-identical files, whatever the number of workers.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from itertools import compress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from preprocess.dataset import encode_jpeg
from preprocess.synthetic import shapes

SETTINGS = "synthetic.json"
FRAME_STEP = 5  # the official frame names count in fives
Drawn = tuple[shapes.Scene, list[shapes.Referral]]
Progress = Callable[[int], None] | None
Row = dict[str, Any]
PALETTE = [0, 0, 0, *(value for colour in shapes.COLOURS.values() for value in colour)]


@dataclass(frozen=True)
class SyntheticSettings:
    """What to draw; held-out videos and images come from random streams of their own.

    Args:
        train_videos: number of videos in the train split.
        valid_videos: number of videos in the valid split.
        images: number of still images in the train split.
        valid_images: number of still images in the val split.
        num_frames: frames of a train video.
        valid_frames: frames of a valid video.
        side: height and width in pixels.
        shapes: most shapes in a video or image, at least 2.
        seed: seed of everything.
        motion: share of the video expressions that need motion, about.
        twins: probability that a further shape looks like an earlier one.
        image_side: share of the still train images that may be referred to by side; the others
            teach looks.
    """

    train_videos: int = 1200
    valid_videos: int = 160
    images: int = 3000
    valid_images: int = 100
    num_frames: int = 8
    valid_frames: int = 8
    side: int = 144
    shapes: int = 3
    seed: int = 0
    motion: float = 0.4
    twins: float = 0.3
    image_side: float = 0.75

    def __post_init__(self) -> None:
        """Refuse sizes that leave no room to draw."""
        if self.side < 64:
            raise ValueError(f"side is {self.side} pixels; shapes need at least 64: raise it")
        if self.shapes < 2:
            raise ValueError(f"shapes is {self.shapes}; one alone needs no words: raise it")
        if min(self.num_frames, self.valid_frames) < 1:
            raise ValueError("a video needs at least one frame: raise num_frames, valid_frames")

    @property
    def total(self) -> int:
        """Number of videos and images."""
        return self.train_videos + self.valid_videos + self.images + self.valid_images


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
    partial_root = root / ".partial"
    shutil.rmtree(partial_root, ignore_errors=True)
    for split in ("train", "valid"):
        _write_videos(partial_root / "refer_youtube_vos", split, settings, workers, progress)
    test_list = "refer_youtube_vos/meta_expressions/test/meta_expressions.json"
    _write_json(partial_root / test_list, {"videos": {}})
    _write_images(partial_root / "coco", settings, workers, progress)
    for tree in ("refer_youtube_vos", "coco"):
        (partial_root / tree).rename(root / tree)
    partial_root.rmdir()
    _write_json(root / SETTINGS, asdict(settings))  # last: it says that all is there


def is_written(root: Path, settings: SyntheticSettings) -> bool:
    """Tell whether a root holds the files of these settings.

    Raises:
        ValueError: it holds something else in their place.
    """
    marker = root / SETTINGS
    if marker.exists():
        found = json.loads(marker.read_text())
        if found == asdict(settings):
            return True
        changed = [key for key, value in asdict(settings).items() if found.get(key) != value]
        raise ValueError(
            f"{root} holds shapes drawn with another {', '.join(changed)}: "
            f"name another --root, or delete {root} to draw again"
        )
    for tree in ("refer_youtube_vos", "coco"):
        if (root / tree).exists():
            raise ValueError(
                f"{root / tree} exists but {marker} does not: name another --root, or delete it"
            )
    return False


def draw(split: str, index: int, settings: SyntheticSettings) -> Drawn:
    """Draw one scene and its expressions (at least one).

    Args:
        split: ``train``, ``valid`` (videos), ``image`` (one frame) or ``valid_image``.
        index: number of the scene in its split.
        settings: what to draw.
    """
    rng = shapes.scene_generator(settings.seed, split, index)
    frames = {"train": settings.num_frames, "valid": settings.valid_frames}.get(split, 1)
    looks_only = split == "image" and rng.random() >= settings.image_side
    while True:
        scene = shapes.draw_scene(
            rng, most=settings.shapes, num_frames=frames, side=settings.side, twins=settings.twins
        )
        referrals = shapes.draw_referrals(rng, scene, motion_share=settings.motion)
        if looks_only:
            referrals = [it for it in referrals if it.kind == "appearance"]
        if referrals:
            return scene, referrals


def _each(
    function: Callable[[int], Any], count: int, workers: int, progress: Progress
) -> Iterator[Any]:
    """Yield the function of 0 .. count - 1 in order, by several processes if asked."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context) if workers > 1 else nullcontext() as pool:
        each: Callable[..., Iterator[Any]] = partial(pool.map, chunksize=32) if pool else map
        for result in each(function, range(count)):
            yield result
            if progress is not None:
                progress(1)


def _write_videos(
    root: Path, split: str, settings: SyntheticSettings, workers: int, progress: Progress
) -> None:
    count = settings.train_videos if split == "train" else settings.valid_videos
    for tree in ("JPEGImages", "Annotations"):
        (root / split / tree).mkdir(parents=True, exist_ok=True)
    write = partial(_write_video, root=root / split, split=split, settings=settings)
    meta, expressions = {}, {}
    for video, its_objects, its_expressions in _each(write, count, workers, progress):
        meta[video] = {"objects": its_objects}
        expressions[video] = its_expressions
    _write_json(root / split / "meta.json", {"videos": meta})
    _write_json(root / f"meta_expressions/{split}/meta_expressions.json", {"videos": expressions})


def _write_video(
    index: int, *, root: Path, split: str, settings: SyntheticSettings
) -> tuple[str, Row, Row]:
    """Write one video's frames and masks; return its name, objects and expressions."""
    scene, referrals = draw(split, index, settings)
    video = f"shapes{split[0]}{index:05d}"
    names = [f"{FRAME_STEP * frame:05d}" for frame in range(scene.num_frames)]
    frames, labels = shapes.render(scene)
    for tree in ("JPEGImages", "Annotations"):
        (root / tree / video).mkdir()
    for name, frame, label in zip(names, frames, labels, strict=True):
        encoded = encode_jpeg(Image.fromarray(frame), 90)
        (root / "JPEGImages" / video / f"{name}.jpg").write_bytes(encoded)
        (root / "Annotations" / video / f"{name}.png").write_bytes(_palette_png(label))
    objects = {
        str(n): {"category": it.shape, "frames": [*compress(names, (labels == n).any((1, 2)))]}
        for n, it in enumerate(scene.shapes, start=1)
    }
    expressions = {
        str(number): {"exp": it.text, "obj_id": str(it.target + 1), "kind": it.kind}
        for number, it in enumerate(referrals)
    }
    return video, objects, {"expressions": expressions, "frames": names}


def _write_images(
    root: Path, settings: SyntheticSettings, workers: int, progress: Progress
) -> None:
    (root / "train2014").mkdir(parents=True)
    images: list[Row] = []
    annotations: list[Row] = []
    refs: list[Row] = []
    sentences = 0
    categories = {shape: number for number, shape in enumerate(shapes.SHAPES, start=1)}
    total = settings.images + settings.valid_images
    write = partial(_write_image, folder=root / "train2014", settings=settings)
    for image, its_annotations, referrals in _each(write, total, workers, progress):
        images.append(image)
        for target, annotation in enumerate(its_annotations):
            category = categories[annotation.pop("shape")]
            annotation |= {"id": len(annotations) + 1, "category_id": category}
            annotations.append(annotation)
            its_sentences = [it for it in referrals if it.target == target]
            if its_sentences:
                split = "train" if image["id"] <= settings.images else "val"
                refs.append(_ref(len(refs), sentences, split, image, annotation, its_sentences))
                sentences += len(its_sentences)
    names = [{"id": n, "name": it, "supercategory": "shape"} for it, n in categories.items()]
    instances = {"images": images, "annotations": annotations, "categories": names}
    _write_json(root / "refcoco/instances.json", instances)
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))


def _write_image(
    index: int, *, folder: Path, settings: SyntheticSettings
) -> tuple[Row, list[Row], list[shapes.Referral]]:
    """Write one image; return its row, the rows of its shapes and its expressions."""
    held_out = index - settings.images
    split, number = ("image", index) if held_out < 0 else ("valid_image", held_out)
    scene, referrals = draw(split, number, settings)
    frames, labels = shapes.render(scene)
    name = f"COCO_train2014_{index + 1:012d}.jpg"
    (folder / name).write_bytes(encode_jpeg(Image.fromarray(frames[0]), 90))
    row = {"id": index + 1, "file_name": name, "height": scene.side, "width": scene.side}
    annotations = []
    for target, shape in enumerate(scene.shapes):
        mask = labels[0] == target + 1
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        corners = shapes.outline(shape, scene.centres()[target, 0])
        covered = mask.sum() < 0.9 * coco_mask.area(
            coco_mask.frPyObjects([corners.ravel().tolist()], scene.side, scene.side)[0]
        )
        polygons = [corners.round(2).ravel().tolist()]
        drawn = encoded | {"counts": encoded["counts"].decode()} if covered else polygons
        told: Row = {"shape": shape.shape, "image_id": index + 1, "segmentation": drawn}
        told |= {"area": float(mask.sum()), "bbox": coco_mask.toBbox(encoded).tolist()}
        annotations.append(told | {"iscrowd": 0})
    return row, annotations, referrals


def _ref(
    ref_id: int, first: int, split: str, image: Row, annotation: Row, said: list[shapes.Referral]
) -> Row:
    """Return a row of refs(unc).p; the file name carries the annotation id, as officially."""
    sentences: list[Row] = [
        {"raw": it.text, "sent": it.text, "sent_id": number, "tokens": it.text.split()}
        | {"kind": it.kind}
        for number, it in enumerate(said, start=first)
    ]
    file_name = f"{image['file_name'].removesuffix('.jpg')}_{annotation['id']}.jpg"
    row = {"ref_id": ref_id, "ann_id": annotation["id"], "category_id": annotation["category_id"]}
    row |= {"image_id": image["id"], "file_name": file_name, "split": split}
    return row | {"sent_ids": [it["sent_id"] for it in sentences], "sentences": sentences}


def _palette_png(labels: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(PALETTE)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
