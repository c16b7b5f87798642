"""Networks of the library timm on single frames, under the name `timm:<name>`."""

from math import ceil
from typing import Any, cast

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sgmg.network.backbones.body import STRIDES, BackboneBody, Channels


class TimmNetwork(BackboneBody):
    """Any timm network that gives maps of strides 4, 8, 16 and 32."""

    def __init__(self, name: str, *, pretrained: bool = False, drop_path: float = 0.0) -> None:
        """Build the network.

        Args:
            name: A timm model name.
            pretrained: Start from timm's weights, with frozen batch norms.
            drop_path: Stochastic depth where the network has it.

        Raises:
            ValueError: Timm has no such network, or not with these four strides.
        """
        super().__init__()
        network = create_network(name, pretrained=pretrained, drop_path=drop_path)
        info = network.feature_info
        strides: list[int] = info.reduction()
        channels: list[int] = info.channels()
        missing = sorted(set(STRIDES) - set(strides))
        if missing:
            raise ValueError(
                f"timm model {name!r} has maps of strides {strides}, none of {missing}: choose a "
                f"network with strides {list(STRIDES)}"
            )
        if pretrained:
            # Imported here: timm takes seconds to import, and most networks do without it.
            from timm.layers.norm_act import freeze_batch_norm_2d

            # Statistics of a few frames would spoil those of ImageNet.
            network = freeze_batch_norm_2d(network)
        self.network = network
        self.map_indices = [last_index(strides, stride) for stride in STRIDES]
        self.channels = cast("Channels", tuple(channels[index] for index in self.map_indices))
        # timm's Swin and its kin give maps [N, h, w, C] and say so in `output_fmt` (timm 1.0.31);
        # most other networks have no such attribute.
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Maps of strides 4, 8, 16, 32: [B, T, 3, H, W] -> four [B*T, C, h, w]."""
        height, width = frames.shape[-2:]
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        x = F.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        all_maps = self.network(x)
        order = "n h w c -> n c h w" if self.channels_last else "n c h w -> n c h w"
        maps = []
        for index, stride in zip(self.map_indices, STRIDES, strict=True):
            rows = ceil(height / stride)
            columns = ceil(width / stride)
            maps.append(rearrange(all_maps[index], order)[..., :rows, :columns])
        return maps


def last_index(strides: list[int], stride: int) -> int:
    """Index of the deepest map of a stride, which knows most."""
    return max(index for index, map_stride in enumerate(strides) if map_stride == stride)


def create_network(name: str, *, pretrained: bool, drop_path: float) -> Any:
    """Create timm's network `name`, which returns a list of maps.

    Args:
        name: A timm model name.
        pretrained: Start from timm's weights.
        drop_path: Stochastic depth where the network has it.

    Returns:
        A `FeatureListNet` or a kin of it; timm is untyped, and they share no class.

    Raises:
        ValueError: Timm has no such network, or it gives no maps.
    """
    import timm  # takes seconds to import

    try:
        try:
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, drop_path_rate=drop_path
            )
        except TypeError:  # a network without stochastic depth
            return timm.create_model(name, pretrained=pretrained, features_only=True)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"timm cannot give the feature maps of {name!r}: {error}") from error
