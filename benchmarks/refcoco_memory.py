"""How much memory does listing RefCOCO, RefCOCO+ and RefCOCOg take?

python benchmarks/refcoco_memory.py [--sets refcoco refcoco+ refcocog]

Draws lists of the published size (images, objects, sentences; polygons of 30 corners) over one
blank image, then opens every split as a build does, with the leak filter on. Prints the peak of
each, and one JSON object as the last line.
"""

import argparse
import json
import pickle
import random
import resource
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from preprocess.readers.refcoco import PUBLISHED, REFS, SPLITS, open_refcoco

ANNOTATIONS = {"refcoco": 196_771, "refcoco+": 196_737, "refcocog": 208_960}


def draw_lists(root: Path, name: str) -> None:
    """Write one data set's lists; JSON as text, so that drawing stays small."""
    numbers, image, refs, sentence = random.Random(name), 0, [], 0
    for split in SPLITS[name]:
        images, sentences = PUBLISHED[name][split]
        share = -(-sentences // (2 * images))
        for _ in range(images):
            image += 1
            for half in range(2):
                said = [
                    {
                        "sent": "the man in the red shirt",
                        "raw": "The man",
                        "sent_id": sentence + it,
                        "tokens": ["the", "man", "in", "the", "red", "shirt"],
                    }
                    for it in range(share)
                ]
                sentence += share
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": 2 * image + half,
                        "category_id": 1,
                        "image_id": image,
                        "file_name": f"COCO_train2014_{image:012d}_1.jpg",
                        "split": split,
                        "sent_ids": [it["sent_id"] for it in said],
                        "sentences": said,
                    }
                )
    folder = root / name
    folder.mkdir()
    (folder / REFS[name]).write_bytes(pickle.dumps(refs, protocol=0))
    corners = ", ".join(f"{numbers.uniform(0, 480):.2f}" for _ in range(60))
    with (folder / "instances.json").open("w") as file:
        file.write('{"categories": [{"id": 1, "name": "person"}], "images": [')
        file.write(
            ", ".join(
                f'{{"id": {it}, "file_name": "COCO_train2014_{it:012d}.jpg", "height": 480, '
                f'"width": 640, "coco_url": "", "flickr_url": "", "license": 1}}'
                for it in range(1, image + 1)
            )
        )
        file.write('], "annotations": [')
        for it in range(ANNOTATIONS[name]):
            file.write(", " if it else "")
            file.write(
                f'{{"id": {it}, "image_id": {it // 2}, "category_id": 1, "iscrowd": 0, '
                f'"area": 1.5, "bbox": [1.0, 2.0, 3.0, 4.0], "segmentation": [[{corners}]]}}'
            )
        file.write("]}")
    for it in range(1, image + 1):
        path = root / f"train2014/COCO_train2014_{it:012d}.jpg"
        if not path.exists():
            path.hardlink_to(root / "blank.jpg")


def measure(root: Path, name: str) -> None:
    """Open all splits and keep them, as a build does; print peak of memory and counts."""
    opened = [open_refcoco(root, name, split, filter_leaks=True) for split in SPLITS[name]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([peak, sum(it.num_expressions + it.left_out[1] for it in opened)]))


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
            told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            peaks[name], sentences = json.loads(told)
            size = (root / name / "instances.json").stat().st_size
            print(f"{name}: {size / 1e6:.0f} MB, {sentences:,} sentences, {peaks[name]:.0f} MB")
    print(json.dumps({"peak_mb": round(max(peaks.values()), 1), "bound_mb": 2048}))


if __name__ == "__main__":
    main()
