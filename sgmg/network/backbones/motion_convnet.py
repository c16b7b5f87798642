"""The demo's backbone: a small convolutional network that sees motion and position.

SgMg mixes frames only in its backbone. Video Swin does so by attention, which takes long schedules
to learn. This network compares each cell with a window around it in the previous and the next
frame (a cost volume, as in optical-flow networks), so that a model of demo size learns on a CPU
which way things move; coordinates beside them say where. Both start about as strong as colour in
the features of an object, because what varies little there is learnt last.

Paper: none. The correlation layer is that of FlowNet (Dosovitskiy et al., 2015), the coordinates
are those of CoordConv (Liu et al., 2018).
"""

import itertools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sgmg.network.backbones.body import BackboneBody, Channels

# Chosen so that motion and coordinates start about as strong as colour in an object's features.
MOTION_GAIN = 4.0  # factor on the usual first weights of the layer that adds motion
COORDINATE_DEVIATION = 0.8  # standard deviation of the first weights that coordinates get
FIRST_TEMPERATURE = 10.0  # factor on cosine similarities before their softmax; it is learnt
MOTION_LEVEL = 1  # index of the map that motion and coordinates are added to, stride 8


class ResidualStage(nn.Module):
    """Halve the resolution, then one residual block of two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the stage.

        Args:
            in_channels: Channels of the incoming map.
            out_channels: Channels of the outgoing map.
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
    """Adds to every cell how it moves: where its neighbour frames show the same thing.

    Attributes:
        lr_group: The optimizer's group of these weights; `sgmg.training.optim` reads it of any
            module that has it. The demo keeps its backbone slow, because its first, random
            features already tell colours apart. Motion must be learnt, so these weights take
            the rate of the transformer.
    """

    lr_group = "base"

    displacement: Tensor  # rows and columns of each cell of the window, from -1 to 1, [2, k]

    def __init__(self, channels: int, *, radius: int) -> None:
        """Build the layer.

        Args:
            channels: Channels of the map that is compared and to which the result is added.
            radius: Largest displacement compared, in cells of that map.
        """
        super().__init__()
        self.radius = radius
        window_cells = (2 * radius + 1) ** 2
        self.features = nn.Conv2d(channels, channels, 1)
        self.temperature = nn.Parameter(torch.tensor(FIRST_TEMPERATURE))
        offsets = torch.arange(-radius, radius + 1) / radius
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"))
        self.register_buffer("displacement", grid.reshape(2, window_cells), persistent=False)
        output = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            output.weight.mul_(MOTION_GAIN)
        self.mix = nn.Sequential(nn.Conv2d(window_cells + 2, channels, 1), nn.ReLU(), output)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Add what moved to the features of each frame.

        The match of a cell with the next frame, less its match with its own frame, is zero where
        nothing moves. The previous frame, with reversed displacements, shows the same velocity:
        the result is the mean of both, and at the ends of the clip the one that exists.

        Args:
            x: Maps of B clips of T frames, [B*T, C, h, w].
            num_frames: T; an image (T = 1) shows no motion.

        Returns:
            [B*T, C, h, w].
        """
        if num_frames == 1:
            cue_channels = self.displacement.shape[1] + 2
            return x + self.mix(x.new_zeros(len(x), cue_channels, *x.shape[2:]))
        features = self.features(x)
        features = F.normalize(features - features.mean((2, 3), keepdim=True), dim=1)
        clips = rearrange(features, "(b t) c h w -> b t c h w", t=num_frames)
        frames = clips[:, :-1].flatten(0, 1)
        next_frames = clips[:, 1:].flatten(0, 1)

        own_cues = self._motion_cues(features, features)
        next_cues = self._motion_cues(frames, next_frames)
        previous_cues = self._reverse(self._motion_cues(next_frames, frames))
        own_cues = own_cues.unflatten(0, (len(clips), num_frames))
        next_cues = next_cues.unflatten(0, (len(clips), num_frames - 1))
        previous_cues = previous_cues.unflatten(0, (len(clips), num_frames - 1))
        next_cues = next_cues - own_cues[:, :-1]
        previous_cues = previous_cues - self._reverse(own_cues[:, 1:], axis=2)

        # Frame t is compared with t + 1 (none for the last) and with t - 1 (none for the first).
        total = F.pad(next_cues, (0, 0, 0, 0, 0, 1)) + F.pad(previous_cues, (0, 0, 0, 0, 1, 0))
        num_neighbours = x.new_full((num_frames, 1, 1), 2.0)
        num_neighbours[0] = 1.0
        num_neighbours[-1] = 1.0
        motion = (total / num_neighbours).flatten(0, 1).unflatten(2, x.shape[2:])
        return x + self.mix(motion)

    def _motion_cues(self, features: Tensor, neighbour: Tensor) -> Tensor:
        """Similarities and the displacement they favour, scaled to unit size.

        Args:
            features: Of N frames, unit length along the channels, [N, C, h, w].
            neighbour: The same of the frame each is compared with.

        Returns:
            [N, k + 2, p] for the k cells of a window and the p = h * w cells of a map.
        """
        similarity = self._correlate(features, neighbour) * self.temperature
        moved = torch.einsum("a k, n k p -> n a p", self.displacement, similarity.softmax(1))
        return torch.cat([similarity, moved * self.temperature], 1)

    def _correlate(self, features: Tensor, neighbour: Tensor) -> Tensor:
        """Cosine similarity of each cell to the window around it in `neighbour`, [N, k, p]."""
        n, _, h, w = features.shape
        radius = self.radius
        padded = F.pad(neighbour, (radius, radius, radius, radius)).flatten(2)
        # All pairs by one matrix product, of which each cell then gathers its window.
        pairs = torch.einsum("n c p, n c q -> n p q", features.flatten(2), padded)
        padded_width = w + 2 * radius
        rows = torch.arange(h, device=features.device)
        columns = torch.arange(w, device=features.device)
        corner = (rows[:, None] * padded_width + columns).flatten()
        steps = torch.arange(2 * radius + 1, device=features.device)
        window = (steps[:, None] * padded_width + steps).flatten()
        index = (corner[:, None] + window).expand(n, -1, -1)
        return pairs.gather(2, index).transpose(1, 2)

    def _reverse(self, cues: Tensor, axis: int = 1) -> Tensor:
        """The same cues with every displacement reversed; `axis` is that of the k + 2 channels."""
        window_cells = self.displacement.shape[1]
        similarity, moved = cues.split([window_cells, 2], axis)
        return torch.cat([similarity.flip(axis), -moved], axis)


class MotionConvNet(BackboneBody):
    """Four stages at strides 4, 8, 16, 32 with motion and coordinates added at stride 8."""

    def __init__(self, *, channels: Channels = (24, 48, 64, 96), radius: int = 4) -> None:
        """Build the network.

        Args:
            channels: Channels of the four stages.
            radius: Largest motion between neighbouring frames, in cells of 8 pixels.
        """
        super().__init__()
        self.channels = channels
        first = channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        widths = itertools.pairwise((first, *channels))
        self.stages = nn.ModuleList(
            ResidualStage(in_width, out_width) for in_width, out_width in widths
        )
        self.motion = NeighbourCorrelation(channels[MOTION_LEVEL], radius=radius)
        self.place = nn.Conv2d(2, channels[MOTION_LEVEL], 1)  # the name is in saved checkpoints
        nn.init.normal_(self.place.weight, std=COORDINATE_DEVIATION)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Compute the features of every frame.

        Args:
            frames: Normalised, [B, T, 3, H, W].

        Returns:
            Four maps [B*T, C, h, w] at strides 4, 8, 16, 32.
        """
        num_frames = frames.shape[1]
        x = self.stem(frames.flatten(0, 1))
        maps = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if level == MOTION_LEVEL:
                x = self.motion(x, num_frames) + self.place(coordinates(x))
            maps.append(x)
        return maps


def coordinates(x: Tensor) -> Tensor:
    """Rows and columns of the cells of a map [N, C, h, w], from -1 to 1: [1, 2, h, w]."""
    height, width = x.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=x.device)
    columns = torch.linspace(-1, 1, width, device=x.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
