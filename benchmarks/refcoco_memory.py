"""How much memory does listing RefCOCO, RefCOCO+ and RefCOCOg take?

python benchmarks/refcoco_memory.py [--sets refcoco refcoco+ refcocog]

Draws lists of the published size (images, objects, sentences; polygons of 30 corners) over one
blank image, then opens every split as a build does, with the leak filter on. Prints the peak of
each, and one JSON object as the last line.
"""

import argparse
import json
import math
import pickle
import random
import resource
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from preprocess.readers.refcoco import PUBLISHED, REFS, SPLITS, open_refcoco

NUM_ANNOTATIONS = {"refcoco": 196_771, "refcoco+": 196_737, "refcocog": 208_960}
NUM_CORNERS = 30  # of a polygon, as in COCO


def draw_lists(root: Path, name: str) -> None:
    """Write one data set's lists; JSON as text, so that drawing stays small."""
    refs = draw_refs(name)
    num_images = max(ref["image_id"] for ref in refs)
    folder = root / name
    folder.mkdir()
    (folder / REFS[name]).write_bytes(pickle.dumps(refs, protocol=0))
    with (folder / "instances.json").open("w") as file:
        write_instances(file, num_images, NUM_ANNOTATIONS[name], random.Random(name))
    for image in range(1, num_images + 1):
        path = root / f"train2014/COCO_train2014_{image:012d}.jpg"
        if not path.exists():
            path.hardlink_to(root / "blank.jpg")


def draw_refs(name: str) -> list[dict[str, Any]]:  # Any: rows of several types, to be pickled
    """Return rows of two objects an image, and sentences spread evenly over them."""
    refs: list[dict[str, Any]] = []
    image = 0
    num_sentences = 0
    for split, published in PUBLISHED[name].items():
        assert isinstance(published.videos, int)
        assert isinstance(published.expressions, int)
        sentences_per_object = math.ceil(published.expressions / (2 * published.videos))
        for _ in range(published.videos):
            image += 1
            for half in range(2):
                sentences = []
                for _ in range(sentences_per_object):
                    sentences.append(
                        {
                            "sent": "the man in the red shirt",
                            "raw": "The man",
                            "sent_id": num_sentences,
                            "tokens": ["the", "man", "in", "the", "red", "shirt"],
                        }
                    )
                    num_sentences += 1
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": 2 * image + half,
                        "category_id": 1,
                        "image_id": image,
                        "file_name": f"COCO_train2014_{image:012d}_1.jpg",
                        "split": split,
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "sentences": sentences,
                    }
                )
    return refs


def write_instances(
    file: TextIO, num_images: int, num_annotations: int, numbers: random.Random
) -> None:
    """Write instances.json piece by piece: as Python objects it would take gigabytes."""
    corners = ", ".join(f"{numbers.uniform(0, 480):.2f}" for _ in range(2 * NUM_CORNERS))
    images = [
        f'{{"id": {image}, "file_name": "COCO_train2014_{image:012d}.jpg", "height": 480, '
        f'"width": 640, "coco_url": "", "flickr_url": "", "license": 1}}'
        for image in range(1, num_images + 1)
    ]
    file.write('{"categories": [{"id": 1, "name": "person"}], "images": [')
    file.write(", ".join(images))
    file.write('], "annotations": [')
    for annotation in range(num_annotations):
        if annotation:
            file.write(", ")
        file.write(
            f'{{"id": {annotation}, "image_id": {annotation // 2}, "category_id": 1, '
            f'"iscrowd": 0, "area": 1.5, "bbox": [1.0, 2.0, 3.0, 4.0], '
            f'"segmentation": [[{corners}]]}}'
        )
    file.write("]}")


def measure(root: Path, name: str) -> None:
    """Open all splits and keep them, as a build does; print peak of memory and counts."""
    sources = [open_refcoco(root, name, split, filter_leaks=True) for split in SPLITS[name]]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sentences = sum(source.num_expressions + source.left_out.expressions for source in sources)
    print(json.dumps([peak_mb, sentences]))


def main() -> None:
    """Measure each data set in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(REFS), default=list(REFS))
    parser.add_argument("--measure", type=Path, help="folder already drawn")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.sets[0])
        return
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "train2014").mkdir()
        file = BytesIO()
        Image.new("RGB", (640, 480)).save(file, "JPEG")
        (root / "blank.jpg").write_bytes(file.getvalue())
        for name in REFS:
            draw_lists(root, name)
        for name in arguments.sets:
            line = [sys.executable, __file__, "--sets", name, "--measure", folder]
            output = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            peaks[name], sentences = json.loads(output)
            size = (root / name / "instances.json").stat().st_size
            print(f"{name}: {size / 1e6:.0f} MB, {sentences:,} sentences, {peaks[name]:.0f} MB")
    print(json.dumps({"peak_mb": round(max(peaks.values()), 1), "bound_mb": 2048}))


if __name__ == "__main__":
    main()
