import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou

from sgmg.network.boxes import overlaps, to_xyxy


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_overlaps_agree_with_torchvision_on_every_pair(seed: int) -> None:
    boxes = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1
    a, b = to_xyxy(boxes)
    iou, giou = overlaps(a[:, None], b[None])
    torch.testing.assert_close(iou, box_iou(a, b), atol=2e-4, rtol=0)
    torch.testing.assert_close(giou, generalized_box_iou(a, b), atol=4e-4, rtol=0)


def test_an_absent_object_gives_finite_gradients() -> None:
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]], requires_grad=True)
    giou = overlaps(to_xyxy(box), to_xyxy(torch.zeros(1, 4)))[1]
    giou.sum().backward()
    assert giou.item() < 0
    assert box.grad is not None
    assert torch.isfinite(box.grad).all()


def test_same_box_overlaps_fully_and_a_far_one_not_at_all() -> None:
    box = torch.tensor([0.1, 0.1, 0.3, 0.3])
    iou, giou = overlaps(box, torch.stack([box, box + 0.6]))
    torch.testing.assert_close(iou, torch.tensor([1.0, 0.0]), atol=2e-5, rtol=0)
    torch.testing.assert_close(giou, torch.tensor([1.0, -0.875]), atol=5e-5, rtol=0)
