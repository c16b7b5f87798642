import torch

from sgmg.network.heads import Perceptron, inverse_sigmoid


def test_inverse_sigmoid_undoes_sigmoid_and_stays_finite() -> None:
    x = torch.tensor([-4.0, 0.0, 3.0])
    assert torch.allclose(inverse_sigmoid(x.sigmoid()), x, atol=1e-4)
    ends = inverse_sigmoid(torch.tensor([-0.1, 0.0, 1.0, 1.2]))
    assert torch.allclose(ends, torch.tensor([-11.5129, -11.5129, 11.5129, 11.5129]), atol=1e-3)


def test_perceptron_has_no_activation_at_the_end() -> None:
    module = Perceptron(3, 4, 2)
    x = torch.randn(5, 3)
    expected = module.layers[1](module.layers[0](x).clamp(min=0))
    assert torch.allclose(module(x), expected)
    assert (expected < 0).any()
