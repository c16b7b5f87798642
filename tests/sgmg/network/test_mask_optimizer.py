import torch
import torch.nn.functional as F
from torch import Tensor

from sgmg.network.mask_optimizer import MaskOptimizer


def published_form(module: MaskOptimizer, x: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
    """Each first convolution over mask and feature channels side by side."""
    for feature, first, second in (
        (eighth, module.conv1_1div8, module.conv2_1div8),
        (quarter, module.conv1_1div4, module.conv2_1div4),
    ):
        x = F.interpolate(x, size=feature.shape[-2:], mode="bilinear", align_corners=False)
        x = x + second(first(torch.cat([x, feature], 1).relu()).relu())
    return x


def test_splitting_the_convolution_changes_nothing() -> None:
    torch.manual_seed(0)
    module = MaskOptimizer(16, quarter=6, eighth=10)
    x = torch.randn(2, 16, 9, 13)
    quarter = torch.randn(2, 6, 18, 25)
    eighth = torch.randn(2, 10, 9, 13)
    before = x.clone()
    refined = module(x, module.prepare(quarter, eighth))
    assert torch.allclose(refined, published_form(module, x, quarter, eighth), atol=1e-5)
    assert torch.equal(x, before)


def test_features_reach_the_mask_and_get_gradients() -> None:
    torch.manual_seed(0)
    module = MaskOptimizer(16, quarter=6, eighth=10)
    quarter = torch.randn(1, 6, 8, 8, requires_grad=True)
    eighth = torch.randn(1, 10, 4, 4, requires_grad=True)
    refined = module(torch.randn(1, 16, 4, 4), module.prepare(quarter, eighth))
    refined.square().sum().backward()
    for tensor in (quarter, eighth, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
