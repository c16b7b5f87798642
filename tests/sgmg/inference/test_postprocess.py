"""From logits and boxes of the network to those of the video."""

import math

import pytest
import torch

from sgmg.inference.postprocess import merge_objects, rank_queries, restore, to_xyxy_px


def test_merged_objects_take_the_likelier_and_need_one_half() -> None:
    probabilities = torch.tensor([[0.4, 0.6, 0.9, 0.0], [0.3, 0.7, 0.8, 0.5]])[:, None, None]
    assert merge_objects(probabilities).tolist() == [[[0, 2, 1, 2]]]


def test_restore_is_identity_at_the_same_size_and_keeps_constants() -> None:
    logits = torch.randn(2, 3, 8, 9)
    assert torch.equal(restore(logits, (8, 9)), logits)
    constant = torch.full((1, 7, 13), 2.5)
    torch.testing.assert_close(restore(torch.full((1, 4, 4), 2.5), (7, 13)), constant)


def test_candidates_are_ranked_together() -> None:
    class_logits = torch.tensor([0.0, 2.0, -1.0])
    mask_logits = torch.arange(-1, 2).float()[:, None, None].expand(3, 4, 4)
    boxes_cxcywh = torch.tensor([[0.5, 0.5, 0.2, 0.4]]) * torch.tensor([[1.0], [0.5], [0.1]])
    candidates = rank_queries(class_logits, mask_logits, boxes_cxcywh, (10, 20))
    expected_scores = [1 / (1 + math.exp(-logit)) for logit in (2, 0, -1)]
    assert candidates.scores.tolist() == pytest.approx(expected_scores)
    assert [mask.all().item() for mask in candidates.masks] == [False, False, True]
    # Centre (10, 5), sides 4 and 4.
    torch.testing.assert_close(candidates.boxes_xyxy_px[1], torch.tensor([8.0, 3.0, 12.0, 7.0]))
    expected_boxes = to_xyxy_px(boxes_cxcywh[[1, 0, 2]], (10, 20))
    torch.testing.assert_close(candidates.boxes_xyxy_px, expected_boxes)


def test_queries_of_equal_scores_keep_their_order() -> None:
    mask_logits = torch.tensor([1.0, -1.0, 1.0])[:, None, None].expand(3, 4, 4)
    candidates = rank_queries(torch.zeros(3), mask_logits, torch.rand(3, 4), (4, 4))
    assert [mask.all().item() for mask in candidates.masks] == [True, False, True]
