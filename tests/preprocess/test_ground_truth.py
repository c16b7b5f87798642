"""The scorers' files of A2D- and JHMDB-Sentences, derived from the shards."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from preprocess.build_shards import Build, build
from shards.format.shard_set import ShardSet
from tests.preprocess.conftest import write
from tests.preprocess.trees import draw


@pytest.mark.parametrize("source", ["a2d-sentences", "jhmdb-sentences"])
def test_ground_truth_is_derived_where_it_is_missing(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, truth = draw(source, tmp_path / "root")
    settings = Build(
        source, tmp_path / "root", str(tmp_path / "out"), ("test",), allow_partial=True
    )
    build(settings)
    name = {
        "a2d-sentences": "a2d_sentences_test_annotations_in_coco_format.json",
        "jhmdb-sentences": "jhmdb_sentences_gt_annotations_in_coco_format.json",
    }[source]
    assert f"has no {name}: derived" in capsys.readouterr().out
    coco = COCO(str(tmp_path / "out" / name))
    samples = {}
    for video in ShardSet.open(str(tmp_path / "out/test")).sequential():
        for number, masks in enumerate(truth[video.key].masks, start=1):
            for instance, mask in (masks or {}).items():
                samples[f"v_{video.video_id}_f_{number}_i_{instance}"] = mask
    assert coco.imgs.keys() == samples.keys()
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        np.testing.assert_array_equal(mask, samples[annotation["image_id"]])
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert (annotation["area"], annotation["bbox"]) == (mask.sum(), box)
    if source == "a2d-sentences":
        listed = json.loads(
            (tmp_path / "out/a2d_sentences_single_frame_test_annotations.json").read_text()
        )
        image_ids = {f"v_{video}_f_{frame}_i_{instance}" for _, video, frame, instance in listed}
        assert image_ids == samples.keys()
    write(tmp_path / "root" / name, {})
    build(settings)
    assert name not in capsys.readouterr().out
