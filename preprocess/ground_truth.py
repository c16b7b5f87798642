"""The JSON files that scorers of A2D- and JHMDB-Sentences read, made from the shards just built.

Their published links expire. A sample is an expression in an annotated frame that shows its object.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pycocotools import mask as coco_mask

from shards.format.manifest import Manifest
from shards.format.rle import Rle, mask_area
from shards.format.schema import Json, Video, dump_json
from shards.format.shard_set import ShardSet
from shards.storage.storage import Storage


@dataclass(frozen=True)
class ScorerFiles:
    """Names of the files that the scorer of a split reads; None: it reads none of this kind.

    Attributes:
        samples: list of the samples.
        coco: ground truth in COCO's form.
    """

    samples: str | None = None
    coco: str | None = None


SCORER_FILES = {  # by data set and split
    ("a2d-sentences", "train"): ScorerFiles(
        samples="a2d_sentences_single_frame_train_annotations.json",
    ),
    ("a2d-sentences", "test"): ScorerFiles(
        samples="a2d_sentences_single_frame_test_annotations.json",
        coco="a2d_sentences_test_annotations_in_coco_format.json",
    ),
    ("jhmdb-sentences", "test"): ScorerFiles(
        coco="jhmdb_sentences_gt_annotations_in_coco_format.json",
    ),
}


@dataclass(frozen=True)
class Sample:
    """An expression in a frame that shows its object.

    Attributes:
        video: the data set's own name of the video.
        text: the expression.
        frame: number of the frame, counted as the data set does.
        object_id: of the object that the expression names.
        mask: where it is.
    """

    video: str
    text: str
    frame: int
    object_id: str
    mask: Rle

    @property
    def image_id(self) -> str:
        """Name of the sample in the scorer's files."""
        return f"v_{self.video}_f_{self.frame}_i_{self.object_id}"


def write_ground_truth(manifest: Manifest, url: str, root: Path) -> list[str]:
    """Write what the root does not have beside a set's folder, and return the files' names.

    Args:
        manifest: of the set.
        url: of the set; the files go into the folder above.
        root: folder that holds the official files.

    Raises:
        ShardError: the set cannot be read or the files not be written.
    """
    files = SCORER_FILES.get((manifest.dataset, manifest.split), ScorerFiles())
    absent = [name for name in (files.samples, files.coco) if name and not _is_below(root, name)]
    if not absent:
        return []
    samples = list(_samples(ShardSet.open(url)))
    parent = Storage(url.rpartition("/")[0])
    for name in absent:
        content = _sample_list(samples) if name == files.samples else _coco(samples)
        parent.put(name, dump_json(content))
    return absent


def _is_below(root: Path, name: str) -> bool:
    """Tell whether a file lies in a folder or in one of those in it."""
    return any(root.glob(name)) or any(root.glob(f"*/{name}"))


def _samples(shard_set: ShardSet) -> Iterator[Sample]:
    """Yield the samples in the order of the videos, their frames and their expressions."""
    for video in shard_set.sequential():
        yield from _samples_of(video)


def _samples_of(video: Video) -> Iterator[Sample]:
    for frame in video.frames:
        masks = frame.masks or {}
        for expression in video.expressions:
            for object_id in expression.objects:
                if object_id in masks:
                    yield Sample(
                        video=video.video_id,
                        text=expression.text,
                        frame=int(frame.name),
                        object_id=object_id,
                        mask=masks[object_id],
                    )


def _sample_list(samples: Iterable[Sample]) -> list[Json]:
    return [[sample.text, sample.video, sample.frame, int(sample.object_id)] for sample in samples]


def _coco(samples: Iterable[Sample]) -> dict[str, Json]:
    """Return samples in COCO's form: each is an image of its own, with one annotation."""
    images: list[Json] = []
    annotations: list[Json] = []
    for number, sample in enumerate(samples, start=1):
        rle = sample.mask
        images.append({"id": sample.image_id, "height": rle.height, "width": rle.width})
        segmentation: dict[str, Json] = {
            "size": [rle.height, rle.width],
            "counts": rle.counts.decode(),
        }
        annotations.append(
            {
                "id": number,
                "image_id": sample.image_id,
                "category_id": 1,
                "segmentation": segmentation,
                "area": mask_area(rle),
                "bbox": coco_mask.toBbox(segmentation).tolist(),
                "iscrowd": 0,
            }
        )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
