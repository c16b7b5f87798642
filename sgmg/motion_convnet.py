"""A small convolutional video backbone that sees motion: local correlation of neighbouring frames.

SgMg mixes frames only in its backbone. Video Swin does so by attention, which takes long schedules
to learn; this network compares each location with a window around it in the previous and the next
frame (a cost volume, as in optical-flow networks), so a model of demo size learns on a CPU which
way things move. Paper: none; the correlation layer is that of FlowNet (Dosovitskiy et al., 2015).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class ResidualStage(nn.Module):
    """Halve the resolution, then one residual block of two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the stage.

        Args:
            in_channels: channels of the incoming map.
            out_channels: channels of the outgoing map; a multiple of 8 (group normalisation).
        """
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, out_channels),
            nn.ReLU(),
        )
        self.block = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(8, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(8, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to [N, C', ceil(h/2), ceil(w/2)]."""
        x = self.down(x)
        return F.relu(x + self.block(x))


class NeighbourCorrelation(nn.Module):
    """Similarity of every location to a window around it in the previous and the next frame."""

    def __init__(self, channels: int, *, radius: int) -> None:
        """Build the layer.

        Args:
            channels: channels of the map that is compared and to which the result is added.
            radius: largest displacement looked at, in cells of that map.
        """
        super().__init__()
        self.radius = radius
        window = (2 * radius + 1) ** 2
        self.features = nn.Conv2d(channels, channels, 1)
        self.temperature = nn.Parameter(torch.tensor(10.0))
        offsets = torch.arange(-radius, radius + 1) / radius
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij")).reshape(2, window)
        self.register_buffer("displacement", grid, persistent=False)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * (window + 2), channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def _compare(self, x: Tensor, other: Tensor) -> Tensor:
        """Cosine similarities [N, window, h, w] and their soft displacement [N, 2, h, w]."""
        n, _, h, w = x.shape
        r, side = self.radius, 2 * self.radius + 1
        padded = F.pad(other, (r, r, r, r)).flatten(2)
        pairs = torch.einsum("n c p, n c q -> n p q", x.flatten(2), padded)
        rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        corner = (rows[:, None] * (w + 2 * r) + columns).flatten()
        steps = torch.arange(side, device=x.device)
        window = (steps[:, None] * (w + 2 * r) + steps).flatten()
        index = (corner[:, None] + window).expand(n, -1, -1)
        similarity = pairs.gather(2, index).transpose(1, 2)
        weights = (similarity * self.temperature).softmax(1)
        moved = torch.einsum("a k, n k p -> n a p", self.displacement, weights)
        return rearrange(torch.cat([similarity, moved], 1), "n k (h w) -> n k h w", h=h)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Add what moved to the features of each frame.

        Args:
            x: maps of B clips of T frames, [B*T, C, h, w].
            num_frames: T. The first frame has no previous and the last no next one: zeros there,
                so an image (T = 1) carries no motion.

        Returns:
            [B*T, C, h, w].
        """
        if num_frames == 1:
            empty = x.new_zeros(x.shape[0], self.mix[0].in_channels, *x.shape[2:])
            return x + self.mix(empty)
        features = F.normalize(self.features(x), dim=1)
        clips = rearrange(features, "(b t) c h w -> b t c h w", t=num_frames)
        earlier, later = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        pad = (0, 0, 0, 0, 0, 0)
        forth = rearrange(self._compare(earlier, later), "(b t) k h w -> b t k h w", b=len(clips))
        back = rearrange(self._compare(later, earlier), "(b t) k h w -> b t k h w", b=len(clips))
        both = torch.cat([F.pad(back, (*pad, 1, 0)), F.pad(forth, (*pad, 0, 1))], dim=2)
        return x + self.mix(both.flatten(0, 1))


class MotionConvNet(nn.Module):
    """Four stages at strides 4, 8, 16, 32 with neighbour correlation at stride 8."""

    def __init__(self, *, channels: Sequence[int] = (24, 48, 64, 96), radius: int = 4) -> None:
        """Build the network.

        Args:
            channels: channels of the four stages, multiples of 8.
            radius: largest motion between neighbouring frames, in cells of 8 pixels.
        """
        super().__init__()
        first, *rest = channels
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, first),
            nn.ReLU(),
        )
        widths = (first, first, *rest)
        pairs = itertools.pairwise(widths)
        self.stages = nn.ModuleList(ResidualStage(a, b) for a, b in pairs)
        self.motion = NeighbourCorrelation(channels[1], radius=radius)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Compute the features of every frame.

        Args:
            frames: normalised, [B, T, 3, H, W].

        Returns:
            Four maps [B*T, C, h, w] at strides 4, 8, 16, 32.
        """
        num_frames = frames.shape[1]
        x = self.stem(frames.flatten(0, 1))
        maps = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if level == 1:
                x = self.motion(x, num_frames)
            maps.append(x)
        return maps
