"""The spectral filter of spectrum-guided cross-modal fusion (SCF)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SIGMA_CELLS = 7.0  # of the Gaussian over the spectrum, at every size of map, as published
MIN_SIDE_CELLS = 3  # cells a side that the unpadded 3x3 kernel needs


def high_frequency_gaussian(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Gaussian around the highest frequency of an unshifted spectrum (its middle).

    Args:
        height: Cells of the map.
        width: Cells of the map.
        device: Where to make it.

    Returns:
        [1, 1, height, width] float32, 1 at (height // 2, width // 2).
    """
    bells = []
    for side in (height, width):
        distance = torch.arange(side, device=device) - side // 2
        bells.append(torch.exp(-(distance**2) / (2 * SIGMA_CELLS**2)))
    return rearrange(torch.outer(bells[0], bells[1]), "h w -> 1 1 h w")


def window_sums(size: int, like: Tensor) -> Tensor:
    """[size, 3] of zeros and ones: column k sums what tap k of an unpadded 3-tap filter sees."""
    cell = torch.arange(size, device=like.device)[:, None]
    tap = torch.arange(3, device=like.device)
    return ((cell >= tap) & (cell < size - 2 + tap)).to(like.dtype)


class SpectralFilter(nn.Module):
    """Damp high frequencies by a learnt amount, mix channels in the spectrum, add to the input."""

    def __init__(self, hidden: int) -> None:
        """Build the filter.

        Args:
            hidden: Channels of the map, any number.
        """
        super().__init__()
        self.laplace = nn.Conv2d(hidden, hidden, 3)
        self.fc = nn.Sequential(
            nn.Linear(hidden, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 1, bias=False)
        )
        self.conv1 = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.conv2 = nn.Conv2d(2 * hidden, 2 * hidden, 1)

    def start_as_identity(self) -> None:
        """Add nothing to the map until training says otherwise."""
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def damping(self, x: Tensor) -> Tensor:
        """How much of the high frequencies to take away: [N, C, h, w] -> [N, 1, 1, 1] in (0, 1).

        The spatial mean of an unpadded 3x3 convolution is its weights applied to nine means.
        """
        h, w = x.shape[-2:]
        sums = rearrange(x @ window_sums(w, x), "n c h j -> n c j h") @ window_sums(h, x)
        means = sums / ((h - 2) * (w - 2))
        kernel = rearrange(self.laplace.weight, "o c i j -> o (c j i)")
        edges = F.linear(rearrange(means, "n c j i -> n (c j i)"), kernel, self.laplace.bias)
        return rearrange(self.fc(edges).sigmoid(), "n 1 -> n 1 1 1")

    def forward(self, x: Tensor, gaussian: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Filter a map, in float32 whatever autocast says.

        Args:
            x: [N, C, h, w], h and w at least 3.
            gaussian: The Gaussian that the previous call returned, [1, 1, h', w'], to be resized;
                None makes one for this size.

        Returns:
            The filtered map [N, C, h, w] float32 and the Gaussian of this size [1, 1, h, w], for
            the next call.

        Raises:
            ValueError: The map is too small.

        Paper: spectrum-guided cross-modal fusion, spectral part.
        """
        h, w = x.shape[-2:]
        if min(h, w) < MIN_SIDE_CELLS:
            raise ValueError(
                f"a feature map of {h}x{w} cells is too small for the spectral filter (at least "
                "3x3): feed larger frames, at 4 levels more than 128 pixels a side"
            )
        if gaussian is None:
            gaussian = high_frequency_gaussian(h, w, x.device)
        elif gaussian.shape[-2:] != (h, w):
            gaussian = F.interpolate(gaussian, (h, w), mode="bilinear", align_corners=False)
        # On a GPU, the FFT in half precision takes only sides that are powers of two.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            spectrum = torch.fft.fft2(x) * (1 - self.damping(x) * gaussian)
            # Side by side as channels, real and imaginary parts can be mixed by 1x1 convolutions.
            channels = torch.cat([spectrum.real, spectrum.imag], dim=1)
            channels = self.conv2(F.relu(self.conv1(channels)))
            real, imaginary = channels.chunk(2, dim=1)
            # Mixed channels are no longer the spectrum of a real map; as published, the imaginary
            # part of the result is dropped.
            residual = torch.fft.ifft2(torch.complex(real, imaginary)).real
            return x + residual, gaussian
