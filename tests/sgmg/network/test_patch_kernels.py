import pytest
import torch
import torch.nn.functional as F

from sgmg.network.patch_kernels import PatchKernels, cell_centres_px


def test_cells_are_eight_pixels_apart_x_first() -> None:
    centres = cell_centres_px(2, 3, torch.device("cpu"))
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_each_query_convolves_its_frame_with_its_own_kernel() -> None:
    torch.manual_seed(0)
    module = PatchKernels(32, 16)
    kernels = module(torch.randn(2, 3, 32))
    features = torch.randn(2, 32, 4, 5)
    centres = torch.rand(2, 3, 2) * 40
    patches = module.convolve(kernels, features, centres)
    assert patches.shape == (2, 3, 16, 4, 5)
    for n in range(2):
        for q in range(3):
            w1, w2, b1, b2 = kernels[n, q].split([16 * 34, 256, 16, 16])
            away = (centres[n, q] - cell_centres_px(4, 5, torch.device("cpu"))).T.view(1, 2, 4, 5)
            x = torch.cat([features[[n]], away], 1)
            x = F.conv2d(x, w1.view(16, 34, 1, 1), b1).relu()
            x = F.conv2d(x, w2.view(16, 16, 1, 1), b2)
            assert torch.allclose(patches[n, q], x[0], atol=1e-4)


def test_masks_are_drawn_in_float32_under_autocast() -> None:
    """Coordinates are in pixels: bfloat16 would round 600 to the next multiple of 4."""
    torch.manual_seed(0)
    module = PatchKernels(32, 16)
    kernels = module(torch.randn(1, 1, 32))
    arguments = (torch.randn(1, 32, 4, 5), torch.tensor([[[601.0, 333.0]]]))
    with torch.autocast("cpu", torch.bfloat16):
        patches = module.convolve(kernels, *arguments)
    assert patches.dtype == torch.float32
    assert torch.equal(patches, module.convolve(kernels, *arguments))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_kernel_predictor_starts_with_zero_biases(layer: int) -> None:
    linear = PatchKernels(32, 16).controller.matrices()[layer]
    bound = (6 / sum(linear.weight.shape)) ** 0.5
    assert linear.bias.abs().max() == 0
    assert 0.9 * bound < linear.weight.abs().max() <= bound
