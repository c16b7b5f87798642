"""Box overlaps, focal and dice terms against the published numbers."""

import pytest
from torchvision.ops import sigmoid_focal_loss

from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.training.losses import mask_terms
from sgmg.training.matcher import dice_similarity
from tests.golden.fixtures import blob, compare, hold, rand, randn

TOLERANCE = 1e-6


@pytest.fixture
def seeds(cases):
    return cases["modules"]["mod_small"]["seeds"]


def test_overlaps(golden, seeds):
    reference = golden("mod_small")
    rows, columns = reference["iou"].shape
    boxes = to_xyxy(rand(seeds["boxes"], 2, rows, 4) * 0.5 + 0.1)
    iou, giou = overlaps(boxes[0, :, None], boxes[1, :columns])
    hold("box overlaps, focal and dice terms", TOLERANCE, compare(reference["iou"], iou))
    hold("box overlaps, focal and dice terms", TOLERANCE, compare(reference["giou"], giou))


def test_mask_costs_of_queries(golden, seeds):
    reference = golden("mod_small")
    logits = 3 * randn(seeds["src"], 3, 5, 8, 9)[0].flatten(1)
    target = blob(seeds["blob"], 8, 9).float().flatten()
    dice = dice_similarity(logits.sigmoid(), target)
    focal = sigmoid_focal_loss(logits, target.expand_as(logits)).mean(-1)
    hold(
        "box overlaps, focal and dice terms",
        TOLERANCE,
        compare(reference["dice_coef"], dice[:, None]),
    )
    hold(
        "box overlaps, focal and dice terms",
        TOLERANCE,
        compare(reference["focal_coef"], focal[:, None]),
    )


def test_mask_losses(golden, seeds):
    reference = golden("mod_small")
    logits = 3 * randn(seeds["src"], 3, 5, 8, 9)
    targets = (rand(seeds["targets"], 3, 360) > 0.7).float().view_as(logits)
    focal, dice = mask_terms(logits, targets)
    hold(
        "box overlaps, focal and dice terms", TOLERANCE, compare(reference["focal_loss"], focal / 4)
    )
    hold("box overlaps, focal and dice terms", TOLERANCE, compare(reference["dice_loss"], dice / 4))
