"""masks.json is written a frame at a time and is JSON in the end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sgmg.inference.mask_folder import FrameAnswer, FrameEntry, MaskFolderWriter, MasksJsonWriter

EXPRESSIONS = ['the "red" circle', "ein Fräulein"]
ENTRY = FrameEntry(
    frame=0,
    scores=[0.5],
    boxes_xyxy=[[0.0, 1.0, 2.0, 3.0]],
    segmentations=[{"size": [4, 4], "counts": "\\`03"}],
)


@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_the_document_is_what_json_would_write(num_frames: int, tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    writer = MasksJsonWriter(path, EXPRESSIONS)
    for _ in range(num_frames):
        writer.add(ENTRY)
    writer.close()
    document = {"expressions": EXPRESSIONS, "frames": [ENTRY] * num_frames}
    assert json.loads(path.read_text()) == document


def test_a_frame_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    writer = MasksJsonWriter(path, EXPRESSIONS)
    writer.add(ENTRY)
    writer.add(ENTRY)
    writer.close()
    first, *lines, last = path.read_text().splitlines()
    assert first == json.dumps({"expressions": EXPRESSIONS, "frames": []}).removesuffix("]}")
    assert [json.loads(line.removesuffix(",")) for line in lines] == [ENTRY, ENTRY]
    assert last == "]}"


def test_frames_are_on_disk_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    writer = MasksJsonWriter(path, EXPRESSIONS)
    for _ in range(1000):
        writer.add(ENTRY)
    assert path.stat().st_size > 900 * len(json.dumps(ENTRY)), "they are kept in memory"
    writer.close()


def test_masks_are_written_as_run_lengths_and_as_png(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((2, 3, 5, 7)) > 0.5
    with MaskFolderWriter(tmp_path / "masks", EXPRESSIONS) as writer:
        for index in range(3):
            answer = FrameAnswer(
                index=index,
                pixels=np.zeros((5, 7, 3), np.uint8),
                masks=masks[:, index],
                scores=[0.25, 0.75],
                boxes_xyxy_px=[[0.0, 0.0, 7.0, 5.0]] * 2,
            )
            writer.add(answer)
    document = json.loads((tmp_path / "masks/masks.json").read_text())
    assert [entry["frame"] for entry in document["frames"]] == [0, 1, 2]
    for index, entry in enumerate(document["frames"]):
        assert entry["scores"] == [0.25, 0.75]
        assert entry["boxes_xyxy"] == [[0.0, 0.0, 7.0, 5.0]] * 2
        for e, rle in enumerate(entry["segmentations"]):
            png = Image.open(tmp_path / f"masks/{e:02d}/{index:05d}.png")
            assert np.array_equal(np.asarray(png), masks[e, index])
            assert np.array_equal(coco_mask.decode(rle), masks[e, index])
