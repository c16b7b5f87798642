"""The demo's data set: its files are in two official layouts and read by their readers."""

from pathlib import Path

from preprocess.dataset import DataSet, PublishedCounts, Source, without_options
from preprocess.readers.ref_youtube_vos import open_ref_youtube_vos
from preprocess.readers.refcoco import open_refcoco

VIDEO_SPLITS = ("train", "valid")
IMAGE_SPLITS = {"image-train": "train", "image-val": "val"}  # to those of the RefCOCO layout


def open_synthetic(root: Path, split: str) -> Source:
    """List a split of the drawn videos or of the drawn images.

    Args:
        root: the folder that `write_synthetic` wrote.
        split: one of `VIDEO_SPLITS` or `IMAGE_SPLITS`.

    Raises:
        ShardError: a file is missing or broken.
    """
    if split in IMAGE_SPLITS:
        return open_refcoco(root, "refcoco", IMAGE_SPLITS[split], dataset="synthetic-image")
    return open_ref_youtube_vos(root, split, dataset="synthetic")


DATASET = DataSet(
    name="synthetic",
    splits=dict.fromkeys((*VIDEO_SPLITS, *IMAGE_SPLITS), PublishedCounts()),
    open=without_options(open_synthetic),
)
