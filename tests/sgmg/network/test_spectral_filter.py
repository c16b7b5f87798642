import pytest
import torch
import torch.nn.functional as F

from sgmg.network.spectral_filter import SpectralFilter, high_frequency_gaussian


@pytest.fixture
def filters() -> SpectralFilter:
    torch.manual_seed(0)
    return SpectralFilter(8)


@pytest.mark.parametrize("size", [(3, 3), (4, 7), (9, 5)])
def test_damping_is_that_of_the_full_convolution(
    filters: SpectralFilter, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 8, *size)
    edges = filters.laplace(x).mean((2, 3))
    expected = filters.fc(edges).sigmoid()[:, :, None, None]
    torch.testing.assert_close(filters.damping(x), expected)


def test_gaussian_peaks_at_the_highest_frequency() -> None:
    gaussian = high_frequency_gaussian(6, 9)
    assert gaussian.shape == (1, 1, 6, 9)
    assert gaussian[0, 0, 3, 4] == 1
    assert gaussian.max() == 1
    torch.testing.assert_close(gaussian[0, 0, 3, 5], torch.tensor(-1 / 98).exp())


def test_spectrum_is_damped_before_channels_mix(filters: SpectralFilter) -> None:
    """With the identity for channel mixing, the filter adds the damped map where it is positive."""
    for conv in (filters.conv1, filters.conv2):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.get_parameter("bias"))
    x = torch.randn(1, 8, 5, 6)
    y, gaussian = filters(x)
    spectrum = torch.fft.fft2(x) * (1 - filters.damping(x) * gaussian)
    rectified = torch.complex(spectrum.real.relu(), spectrum.imag.relu())
    torch.testing.assert_close(y, x + torch.fft.ifft2(rectified).real)


def test_gaussian_is_resized_from_the_call_before(filters: SpectralFilter) -> None:
    first = high_frequency_gaussian(8, 8)
    _, gaussian = filters(torch.randn(1, 8, 4, 4), first)
    torch.testing.assert_close(gaussian, F.avg_pool2d(first, 2))
    assert not torch.allclose(gaussian, high_frequency_gaussian(4, 4))


def test_float32_under_autocast(filters: SpectralFilter) -> None:
    x = torch.randn(2, 8, 5, 6)
    expected, _ = filters(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = filters(x)
        half, _ = filters(x.bfloat16())
    assert actual.equal(expected)
    assert half.dtype == torch.float32


def test_too_small_a_map_is_named(filters: SpectralFilter) -> None:
    with pytest.raises(ValueError, match="2x5 cells is too small"):
        filters(torch.randn(1, 8, 2, 5))


def test_gradients(filters: SpectralFilter) -> None:
    filters.double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.double, requires_grad=True)
    damping = torch.autograd.gradcheck(filters.damping, x)
    assert damping


@pytest.mark.gpu
def test_gpu_agrees(filters: SpectralFilter) -> None:
    x = torch.randn(2, 8, 9, 10)
    expected, _ = filters(x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        actual, _ = filters.cuda()(x.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-4)
