"""A small convolutional video backbone that sees motion and place.

SgMg mixes frames only in its backbone. Video Swin does so by attention, which takes long schedules
to learn; this network compares each location with a window around it in the previous and the next
frame (a cost volume, as in optical-flow networks), so a model of demo size learns on a CPU which
way things move; coordinates beside them tell it where. Both start about as strong as colour in the
features of an object: what varies little there is learnt only when all the rest is. Paper: none;
the correlation layer is that of FlowNet (Dosovitskiy et al., 2015), the coordinates are those of
CoordConv (Liu et al., 2018).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sgmg.network.backbones.body import BackboneBody

MOTION_GAIN = 4.0  # on the usual first weights
PLACE_DEVIATION = 0.8  # of the first weights


class ResidualStage(nn.Module):
    """Halve the resolution, then one residual block of two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the stage.

        Args:
            in_channels: channels of the incoming map.
            out_channels: channels of the outgoing map.
        """
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )
        self.block = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to [N, C', ceil(h/2), ceil(w/2)]."""
        x = self.down(x)
        return F.relu(x + self.block(x))


class NeighbourCorrelation(nn.Module):
    """Adds to every location how it moves: where the frames beside it show the same thing.

    Attributes:
        lr_group: the optimizer's group of these weights. They add to what the backbone sees and
            start from nothing, so they learn at the rate of the transformer, not at the
            backbone's. `sgmg.training.optim` reads this attribute of any module.
    """

    lr_group = "base"

    def __init__(self, channels: int, *, radius: int) -> None:
        """Build the layer.

        Args:
            channels: channels of the map that is compared and to which the result is added.
            radius: largest displacement looked at, in cells of that map.
        """
        super().__init__()
        self.radius = radius
        self.displacement: Tensor
        window = (2 * radius + 1) ** 2
        self.features = nn.Conv2d(channels, channels, 1)
        self.temperature = nn.Parameter(torch.tensor(10.0))
        offsets = torch.arange(-radius, radius + 1) / radius
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij")).reshape(2, window)
        self.register_buffer("displacement", grid, persistent=False)
        add = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            add.weight.mul_(MOTION_GAIN)
        self.mix = nn.Sequential(nn.Conv2d(window + 2, channels, 1), nn.ReLU(), add)

    def _compare(self, x: Tensor, other: Tensor) -> Tensor:
        """Cosine similarity of [N, C, h, w] to the window around each cell of `other`, [N,k,p]."""
        n, _, h, w = x.shape
        r, side = self.radius, 2 * self.radius + 1
        padded = F.pad(other, (r, r, r, r)).flatten(2)
        pairs = torch.einsum("n c p, n c q -> n p q", x.flatten(2), padded)
        rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        corner = (rows[:, None] * (w + 2 * r) + columns).flatten()
        steps = torch.arange(side, device=x.device)
        window = (steps[:, None] * (w + 2 * r) + steps).flatten()
        index = (corner[:, None] + window).expand(n, -1, -1)
        return pairs.gather(2, index).transpose(1, 2)

    def _place(self, x: Tensor, other: Tensor) -> Tensor:
        """Similarities and the displacement they favour, scaled to unit size: [N, k + 2, p]."""
        similarity = self._compare(x, other) * self.temperature
        moved = torch.einsum("a k, n k p -> n a p", self.displacement, similarity.softmax(1))
        return torch.cat([similarity, moved * self.temperature], 1)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Add what moved to the features of each frame.

        How a location matches the frame behind, less how it matches its own frame, is zero where
        nothing moves. The frame before, with displacements turned round, tells the same velocity;
        it is the mean of both, at the ends of the clip the one there is.

        Args:
            x: maps of B clips of T frames, [B*T, C, h, w].
            num_frames: T; an image (T = 1) shows no motion.

        Returns:
            [B*T, C, h, w].
        """
        if num_frames == 1:
            channels = self.displacement.shape[1] + 2
            return x + self.mix(x.new_zeros(len(x), channels, *x.shape[2:]))
        features = self.features(x)
        features = F.normalize(features - features.mean((2, 3), keepdim=True), dim=1)
        clips = rearrange(features, "(b t) c h w -> b t c h w", t=num_frames)
        earlier, later = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        still = self._place(features, features).unflatten(0, (len(clips), num_frames))
        forth = self._place(earlier, later).unflatten(0, (len(clips), num_frames - 1))
        back = self._turned(self._place(later, earlier)).unflatten(0, (len(clips), num_frames - 1))
        forth, back = forth - still[:, :-1], back - self._turned(still[:, 1:], axis=2)
        total = F.pad(forth, (0, 0, 0, 0, 0, 1)) + F.pad(back, (0, 0, 0, 0, 1, 0))
        beside = x.new_full((num_frames, 1, 1), 2.0)
        beside[0], beside[-1] = 1.0, 1.0
        motion = (total / beside).flatten(0, 1).unflatten(2, x.shape[2:])
        return x + self.mix(motion)

    def _turned(self, place: Tensor, axis: int = 1) -> Tensor:
        """The same with every displacement turned round."""
        window = self.displacement.shape[1]
        similarity, moved = place.split([window, 2], axis)
        return torch.cat([similarity.flip(axis), -moved], axis)


class MotionConvNet(BackboneBody):
    """Four stages at strides 4, 8, 16, 32 with motion and place added at stride 8."""

    def __init__(self, *, channels: Sequence[int] = (24, 48, 64, 96), radius: int = 4) -> None:
        """Build the network.

        Args:
            channels: channels of the four stages.
            radius: largest motion between neighbouring frames, in cells of 8 pixels.
        """
        super().__init__()
        first = channels[0]
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        widths = (first, *channels)
        self.stages = nn.ModuleList(ResidualStage(a, b) for a, b in itertools.pairwise(widths))
        self.motion = NeighbourCorrelation(channels[1], radius=radius)
        self.place = nn.Conv2d(2, channels[1], 1)
        nn.init.normal_(self.place.weight, std=PLACE_DEVIATION)

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
                x = self.motion(x, num_frames) + self.place(coordinates(x))
            maps.append(x)
        return maps


def coordinates(x: Tensor) -> Tensor:
    """Rows and columns of the cells of a map [N, C, h, w], from -1 to 1: [1, 2, h, w]."""
    rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
