"""The JSON files that scorers of A2D- and JHMDB-Sentences read, made from the shards just built.

Their published links expire. A sample is an expression in an annotated frame that shows its object.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from shards.format.manifest import Manifest
from shards.format.rle import Rle, mask_area
from shards.format.schema import Json, Video, dump_json
from shards.format.shard_set import ShardSet
from shards.storage.storage import Storage

FILES = {  # list of samples, ground truth in COCO's form
    ("a2d-sentences", "train"): ("a2d_sentences_single_frame_train_annotations.json", None),
    ("a2d-sentences", "test"): (
        "a2d_sentences_single_frame_test_annotations.json",
        "a2d_sentences_test_annotations_in_coco_format.json",
    ),
    ("jhmdb-sentences", "test"): (None, "jhmdb_sentences_gt_annotations_in_coco_format.json"),
}


def samples(shard_set: ShardSet) -> Iterator[tuple[Video, str, int, str, Rle]]:
    """Yield video, text, frame number, object id and mask of every sample."""
    for video in shard_set.sequential():
        for frame in video.frames:
            for it in video.expressions:
                for name in it.objects:
                    if name in (frame.masks or {}):
                        yield video, it.text, int(frame.name), name, (frame.masks or {})[name]


def write_ground_truth(manifest: Manifest, url: str, root: Path) -> list[str]:
    """Write what the root does not have beside a set's folder, and return the files' names.

    Args:
        manifest: of the set.
        url: of the set; the files go into the folder above.
        root: folder that holds the official files.

    Raises:
        ShardError: the set cannot be read or the files not be written.
    """
    listed, truth = (
        None if name and (any(root.glob(name)) or any(root.glob(f"*/{name}"))) else name
        for name in FILES.get((manifest.dataset, manifest.split), (None, None))
    )
    if listed is None and truth is None:
        return []
    rows: list[Json] = []
    coco: dict[str, list[Json]] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": 1, "name": "object"}]
    for video, text, number, name, rle in samples(ShardSet.open(url)):
        image = f"v_{video.video_id}_f_{number}_i_{name}"
        code: dict[str, Any] = {"size": [rle.height, rle.width], "counts": rle.counts.decode()}
        rows.append([text, video.video_id, number, int(name)])
        coco["images"].append({"id": image, "height": rle.height, "width": rle.width})
        row: dict[str, Any] = {"id": len(coco["images"]), "image_id": image, "category_id": 1}
        row |= {"segmentation": code, "area": mask_area(rle)}
        row |= {"bbox": coco_mask.toBbox(code).tolist(), "iscrowd": 0}
        coco["annotations"].append(row)
    files = {name: content for name, content in ((listed, rows), (truth, coco)) if name}
    for name, content in files.items():
        Storage(url.rpartition("/")[0]).put(name, dump_json(content))
    return [*files]
