"""From network masks to answers, against the published numbers."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sgmg.evaluation.benchmarks import BENCHMARKS
from sgmg.inference.network_input import scaled_size
from sgmg.inference.postprocess import merge_objects, rank_queries, restore
from tests.golden.fixtures import hold, rand, randn


@pytest.fixture
def reference(table):
    return table("post")


def blocks(seed: int, *shape: int) -> torch.Tensor:
    """Logits of 8x8 pixels a cell."""
    cells = 2 * randn(seed, *shape)
    return cells.repeat_interleave(8, -2).repeat_interleave(8, -1)


def test_video_masks(reference, golden):
    case = reference["params"]["ytvos"]
    stored = golden("post")
    logits = blocks(case["seed"], case["t"], *case["grid"])
    height, width = case["unpadded"]
    masks = restore(logits[:, :height, :width], tuple(case["original"])) > 0
    assert list(masks.shape) == stored["ytvos/shape"].array.tolist()
    assert masks.flatten(1).sum(1).tolist() == stored["ytvos/area"].array.tolist()
    differing = np.packbits(masks.numpy()) != stored["ytvos/bits"].array
    hold("post-processing, bytes of masks that differ", 0, differing.sum())


def test_merged_objects(reference, golden):
    case = reference["params"]["ytvos"]
    stored = golden("post")
    height, width = case["unpadded"]
    seeds = reference["params"]["davis_seeds"]
    logits = torch.stack([blocks(seed, case["t"], *case["grid"]) for seed in seeds])
    logits = restore(logits[..., :height, :width], tuple(case["original"]))
    labels = merge_objects(logits.sigmoid())
    differing = labels.numpy() != stored["davis/labels"].array
    hold("post-processing, labels that differ", 0, differing.sum())
    counts = torch.bincount(labels.flatten().long(), minlength=len(seeds) + 1)
    assert counts.tolist() == stored["davis/counts"].array.tolist()


@pytest.mark.parametrize("benchmark", ["a2d", "refcoco"])
def test_candidates(reference, benchmark):
    case = reference["params"]["a2d"]
    clips = case["b"]
    queries = case["q"]
    (seed_logits, seed_masks, seed_boxes) = case["seeds"]
    logits = randn(seed_logits, clips, 1, queries, 1)
    masks = blocks(seed_masks, clips, 1, queries, *case["grid"])
    boxes = rand(seed_boxes, clips, 1, queries, 4) * 0.4 + 0.2
    for i, expected in enumerate(reference[benchmark]):
        (height, width) = case["size"][i]
        original = tuple(case["orig"][i])
        candidates = rank_queries(
            logits[i, 0, :, 0], masks[i, 0, :, :height, :width], boxes[i, 0], original
        )
        # a2d lists queries as they come, refcoco best first; masks are stored of the first few
        for rank, query in enumerate(np.argsort(expected["scores"])[::-1]):
            assert candidates.scores[rank].item() == pytest.approx(
                expected["scores"][query], rel=1e-6
            )
            assert candidates.masks[rank].sum() == expected["area"][query]
            if query < len(expected["rle"]):
                mask = coco_mask.decode(expected["rle"][query]).astype(bool)
                assert np.array_equal(candidates.masks[rank].numpy(), mask)
            if "boxes" in expected:
                box = torch.tensor(expected["boxes"][query])
                torch.testing.assert_close(
                    candidates.boxes_xyxy_px[rank], box, rtol=1e-5, atol=1e-4
                )


def test_size_rules(table):
    tables = table("data")
    for width, height, got_width, got_height in tables["inference_resize"]["rows"]:
        assert scaled_size(height, width, 360) == (got_height, got_width)
    for width, height, short, long, got_width, got_height in tables["resize_table"]["rows"]:
        assert scaled_size(height, width, short, long) == (got_height, got_width)


def test_benchmarks_pad_frames_as_in_the_reference(cases):
    benchmarks_of_path = {
        "video": ["ref-youtube-vos", "mevis", "ref-davis17"],
        "annotated_frame": ["a2d-sentences", "jhmdb-sentences"],
        "image": ["refcoco", "refcoco-plus", "refcocog"],
    }
    for case in cases["models"].values():
        for name in benchmarks_of_path[case["path"]]:
            assert BENCHMARKS[name].sizes.pad_to == case["pad_to"]
