"""ResNet on single frames: no frame knows of another."""

from einops import rearrange
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from sgmg.network.backbones.body import BackboneBody, Channels

BUILDERS = {"resnet50": resnet.resnet50, "resnet101": resnet.resnet101}
PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
FROZEN_PARTS = ("conv1", "layer1")


class ResNet(BackboneBody):
    """torchvision's ResNet with frozen batch norms, stem and first stage."""

    channels: Channels = (256, 512, 1024, 2048)

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        """Build the network.

        Args:
            name: `resnet50` or `resnet101`.
            pretrained: Start from ImageNet weights.
        """
        super().__init__()
        network = BUILDERS[name](
            # Named by version: torchvision's `DEFAULT` has moved on to V2.
            weights="IMAGENET1K_V1" if pretrained else None,
            norm_layer=FrozenBatchNorm2d,
        )
        for part in PARTS:
            self.add_module(part, network.get_submodule(part))
        for part in FROZEN_PARTS:
            self.get_submodule(part).requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Stages of strides 4, 8, 16, 32: [B, T, 3, H, W] -> four [B*T, C, h, w]."""
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        stages = []
        for name, part in self.named_children():
            x = part(x)
            if name.startswith("layer"):
                stages.append(x)
        return stages

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Every bottleneck; its batch norms are frozen, so it may run twice."""
        return [module for module in self.modules() if isinstance(module, resnet.Bottleneck)]
