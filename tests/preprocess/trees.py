"""Small trees in exactly the official forms, drawn from a seed, with what a reader must give."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from preprocess.readers.jhmdb_sentences import key_of
from tests.preprocess.conftest import jpeg, write

Masks = dict[str, np.ndarray]


@dataclass
class Expected:
    """A video: its frames' bytes (None: decoded from a video file) and masks, its expressions."""

    images: list[bytes | None] = field(default_factory=list)
    masks: list[Masks | None] = field(default_factory=list)
    expressions: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


Truth = dict[str, Expected]
HEIGHT, WIDTH = 36, 52


def blobs(rng: np.random.Generator, size: tuple[int, int], numbers: list[int]) -> np.ndarray:
    """A label map `[H, W]`: boxes and specks of some objects, now and then none of one."""
    labels = np.zeros(size, np.uint8)
    for number in numbers:
        if rng.random() < 0.8:
            top, left = (int(rng.integers(0, side - 4)) for side in size)
            labels[top : top + int(rng.integers(3, 20)), left : left + 17] = number
            labels[rng.random(size) < 0.02] = number
    return labels


def masks_of_labels(labels: np.ndarray) -> Masks:
    return {str(value): labels == value for value in np.unique(labels).tolist() if value}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def png(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    file = BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def ref_youtube_vos(root: Path, rng: np.random.Generator) -> Truth:
    """Split train."""
    truth: Truth = {}
    listed = {}
    meta = {}
    for video in ("3a-b_c", "00917dcfc4"):
        expected = truth[video] = Expected()
        names = [f"{5 * number:05d}" for number in range(int(rng.integers(1, 5)))]
        for number, name in enumerate(names):
            labels = blobs(rng, (HEIGHT, WIDTH), [1, 2, 3])
            image = jpeg(HEIGHT, WIDTH, int(rng.integers(1 << 30)))
            write(root / f"train/JPEGImages/{video}/{name}.jpg", image)
            annotated = number == 0 or rng.random() < 0.7
            if annotated:
                write(root / f"train/Annotations/{video}/{name}.png", labels)
            expected.images.append(image)
            expected.masks.append(masks_of_labels(labels) if annotated else None)
        expected.expressions = [("the dog, running", ("1",)), ("caf\u00e9 left", ("2",))]
        rows = {str(n): {"exp": t, "obj_id": o[0]} for n, (t, o) in enumerate(expected.expressions)}
        listed[video] = {"expressions": rows, "frames": names}
        meta[video] = {"objects": {name: {"category": "dog", "frames": names} for name in "123"}}
    write(root / "meta_expressions/train/meta_expressions.json", {"videos": listed})
    write(root / "train/meta.json", {"videos": meta})
    return truth


def ref_davis17(root: Path, rng: np.random.Generator) -> Truth:
    """Split val."""
    expected = Expected()
    for number in range(int(rng.integers(1, 5))):
        labels = blobs(rng, (HEIGHT, WIDTH), [1, 2, 255])
        image = jpeg(HEIGHT, WIDTH, int(rng.integers(1 << 30)))
        write(root / f"DAVIS/JPEGImages/480p/dogs-scale/{number:05d}.jpg", image)
        write(root / f"DAVIS/Annotations_unsupervised/480p/dogs-scale/{number:05d}.png", labels)
        expected.images.append(image)
        expected.masks.append(masks_of_labels(labels))
    write(root / "DAVIS/ImageSets/2017/val.txt", "dogs-scale\n")
    for name in ("annot1", "annot1_full_video", "annot2", "annot2_full_video"):
        text = f'dogs-scale 1 "a dog by {name}"\ndog-scale 2 "another "\n'
        write(root / f"davis_text_annotations/Davis17_{name}.txt", text)
        expected.expressions.insert(len(expected.expressions) // 2, (f"a dog by {name}", ("1",)))
        expected.expressions.append(("another ", ("2",)))
    return {"dogs-scale": expected}


def refcoco(root: Path, rng: np.random.Generator) -> Truth:
    """Split train of RefCOCO; image 3 is held out by RefCOCO+, and image 2 by RefCOCOg."""
    truth: Truth = {}
    rows: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "dog"}],
    }
    refs = []
    for number in range(1, 5):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        name = f"COCO_train2014_{number:012d}.jpg"
        image = write(root / "train2014" / name, jpeg(*size, number)).read_bytes()
        rows["images"].append(
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        )
        expected = Expected([image], [{}])
        for position in range(int(rng.integers(1, 3))):
            annotation = 10 * number + position
            mask = rng.random(size) < 0.3
            if position:
                corners = [3, 2, 3, 9, 12, 9, 12, 2]
                segmentation: Any = [corners]
                (code,) = coco_mask.frPyObjects(segmentation, *size)
                mask = coco_mask.decode(code).astype(bool)
            else:
                segmentation = compressed(mask)
            expected.masks[0][str(annotation)] = mask  # type: ignore[index]
            row = {
                "id": annotation,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            rows["annotations"].append(row)
            sentence = {
                "sent": f"dog {position}",
                "raw": "dog",
                "sent_id": annotation,
                "tokens": [],
            }
            ref = {
                "ref_id": annotation,
                "ann_id": annotation,
                "category_id": 1,
                "image_id": number,
                "split": "train",
                "sentences": [sentence],
                "file_name": f"{name[:-4]}_{annotation}.jpg",
                "sent_ids": [],
            }
            refs.append(ref)
            expected.expressions.append((f"dog {position}", (str(annotation),)))
        truth[f"{number:012d}"] = expected
    write(root / "refcoco/instances.json", rows)
    write(root / "refcoco/refs(unc).p", pickle.dumps(refs, protocol=0))
    for name, by, held_out_image in (("refcoco+", "unc", 3), ("refcocog", "umd", 2)):
        held_out: list[dict[str, Any]] = [
            {"image_id": held_out_image, "split": "val"},
            {"image_id": 1, "split": "train"},
        ]
        write(root / f"{name}/refs({by}).p", pickle.dumps(held_out, protocol=0))
    return truth


def mevis(root: Path, rng: np.random.Generator) -> Truth:
    """Split valid_u."""
    truth: Truth = {}
    listed = {}
    masks: dict[str, list[Any]] = {}
    for video, numbers in (("ab12", [0, 7]), ("cd34", [12, 3, 5])):
        expected = truth[video] = Expected()
        names = [f"{number:05d}" for number in range(int(rng.integers(1, 5)))]
        codes: dict[str, list[Any]] = {str(number): [] for number in numbers}
        for name in names:
            image = jpeg(HEIGHT, WIDTH, int(rng.integers(1 << 30)))
            write(root / f"valid_u/JPEGImages/{video}/{name}.jpg", image)
            visible = {}
            for annotation in codes:
                if rng.random() < 0.7:
                    visible[annotation] = rng.random((HEIGHT, WIDTH)) < 0.3
            for annotation, row in codes.items():
                row.append(compressed(visible[annotation]) if annotation in visible else None)
            expected.images.append(image)
            expected.masks.append(visible)
        masks |= codes
        rows = {}
        for position, group in enumerate([numbers, numbers[:1]]):
            text = f"those of {group}"
            expected.expressions.append((text, tuple(map(str, group))))
            objects = list(range(len(group)))
            rows[str(position)] = {"exp": text, "obj_id": objects, "anno_id": group}
        listed[video] = {"expressions": rows, "frames": names}
    write(root / "valid_u/meta_expressions.json", {"videos": listed})
    write(root / "valid_u/mask_dict.json", masks)
    return truth


def mp4(path: Path, rng: np.random.Generator, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(frames):
            pixels = np.repeat(np.repeat(rng.integers(0, 256, (6, 13, 3), np.uint8), 6, 0), 4, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def a2d_sentences(root: Path, rng: np.random.Generator) -> Truth:
    """Split test; the first video has one instance, whose masks have no axis of their own."""
    truth: Truth = {}
    table = []
    rows = ["video_id,instance_id,query"]
    for video, numbers in (("--h5fAKYurM", [0]), ("_O6VsB_6RII", [3, 0, 1])):
        frames = int(rng.integers(12, 20))
        expected = truth[f"v_{video}"] = Expected([None] * frames, [None] * frames)
        mp4(root / f"Release/CLIPS320/{video}.mp4", rng, frames)
        for number in sorted(rng.choice(frames, 3, replace=False).tolist()):
            masks = rng.random((len(numbers), HEIGHT, WIDTH)) < 0.3
            path = f"a2d_annotation_with_instances/{video}/{number + 1:05d}.h5"
            (root / "text_annotations" / path).parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(root / "text_annotations" / path, "w") as file:
                turned = masks.transpose(0, 2, 1).astype(np.uint8)
                file["instance"] = np.array([numbers], np.float64)
                file["reMask"] = turned if len(numbers) > 1 else turned[0]
                file["reBBox"] = np.zeros((4, len(numbers)))
            expected.masks[number] = dict(zip(map(str, numbers), masks, strict=True))
        table.append(f"{video},11,0,0:00,0:04,{HEIGHT},{WIDTH},{frames},1")
        for instance in numbers:
            text = f"bird {instance}, left of it "
            rows.append(f"{video},{instance},{text}")
            expected.expressions.append((text, (str(instance),)))
    rows.append("--h5fAKYurM,1 (copy),bird standing")
    table += ["trained,1,0,0:00,0:04,36,52,20,0", "missed,1,0,0:00,0:04,36,52,20,1"]
    write(root / "Release/videoset.csv", "\n".join(table) + "\n")
    write(root / "text_annotations/a2d_annotation.txt", "\n".join(rows) + "\n")
    write(root / "text_annotations/a2d_missed_videos.txt", "missed")
    return truth


def jhmdb_sentences(root: Path, rng: np.random.Generator) -> Truth:
    """Split test; the second video has fewer masks than frames."""
    truth: Truth = {}
    queries = ["video_id,query"]
    rows = []
    for position, video in enumerate(("Wave!_@18_wave_0", "clap_1")):
        text = f"a man, {position}"
        frames = int(rng.integers(15, 20))
        expected = truth[key_of(video)] = Expected([], [None] * frames, [(text, ("1",))])
        folder = f"wave/{video}"
        masks = rng.random((HEIGHT, WIDTH, frames - 2 * position)) < 0.3
        for number in range(frames):
            expected.images.append(png(rng, (HEIGHT, WIDTH)))
            write(root / f"Rename_Images/{folder}/{number + 1:05d}.png", expected.images[-1])
        (root / "puppet_mask" / folder).mkdir(parents=True)
        path = root / "puppet_mask" / folder / "puppet_mask.mat"
        savemat(path, {"part_mask": masks.astype(np.uint8)}, do_compression=True)
        for number in sorted(rng.choice(frames - 2, 3, replace=False).tolist()):
            expected.masks[number] = {"1": masks[:, :, number]}
            below = "./jhmdb_sentences"
            frame = f"{below}/Rename_Images/{folder}/{number + 1:05d}.png"
            mat = f"{below}/puppet_mask/{folder}/puppet_mask.mat"
            rows.append([video, frame, mat, frames, text])
        queries.append(f"{video},{text}")
    write(root / "jhmdb_annotation.txt", "\n".join(queries) + "\n")
    write(root / "jhmdb_sentences_samples_metadata.json", rows)
    return truth


TREES: dict[str, tuple[str, Callable[[Path, np.random.Generator], Truth]]] = {
    "ref-youtube-vos": ("train", ref_youtube_vos),
    "ref-davis17": ("val", ref_davis17),
    "refcoco": ("train", refcoco),
    "mevis": ("valid_u", mevis),
    "a2d-sentences": ("test", a2d_sentences),
    "jhmdb-sentences": ("test", jhmdb_sentences),
}


def draw(source: str, root: Path, seed: int = 0) -> tuple[str, Truth]:
    """Write a source's tree below a root; return the split and what it holds."""
    split, make = TREES[source]
    return split, make(root, np.random.default_rng(seed))


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    changed = change(content)
    write(path, content if changed is None else changed)
