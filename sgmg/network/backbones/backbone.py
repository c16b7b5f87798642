"""Backbones by name: frames in, four maps of features out."""

import torchvision
from torch import Tensor, nn

from sgmg.network.backbones.body import BackboneBody, Channels
from sgmg.network.backbones.motion_convnet import MotionConvNet
from sgmg.network.backbones.resnet import BUILDERS, ResNet
from sgmg.network.backbones.swin import Swin
from sgmg.network.backbones.swin_parts import SIZES
from sgmg.network.backbones.timm_network import TimmNetwork
from sgmg.network.backbones.video_swin import VideoSwin

# torchvision's names of the public weights, Kinetics for Video Swin, ImageNet for Swin
SWIN_WEIGHTS = {
    "video_swin_t": "Swin3D_T_Weights.KINETICS400_V1",
    "video_swin_s": "Swin3D_S_Weights.KINETICS400_V1",
    "video_swin_b": "Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1",
    "swin_t": "Swin_T_Weights.IMAGENET1K_V1",
    "swin_s": "Swin_S_Weights.IMAGENET1K_V1",
    "swin_b": "Swin_B_Weights.IMAGENET1K_V1",
    "swin_l": None,
}
TIMM_PREFIX = "timm:"
NAMES = (*SWIN_WEIGHTS, *BUILDERS, "motion_convnet", f"{TIMM_PREFIX}<name of a timm model>")
NAMES_WITHOUT_WEIGHTS = ("swin_l", "motion_convnet")


class Backbone(nn.Module):
    """Any backbone: four maps of every frame, strides 4, 8, 16, 32."""

    def __init__(self, body: BackboneBody, channels: Channels) -> None:
        """Wrap a network.

        Args:
            body: Maps [B, T, 3, H, W] to four [B*T, C, h, w].
            channels: C of the four maps.
        """
        super().__init__()
        self.body = body
        self.channels = channels

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Features of every frame.

        Args:
            frames: [B, T, 3, H, W], normalised as the network was trained (ImageNet).

        Returns:
            Four maps [B*T, C, h, w], h = ceil(H / stride), clip by clip.
        """
        return list(self.body(frames))

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Blocks that training may compute twice to save memory; empty if there are none."""
        return self.body.recompute_blocks

    def published_name(self, name: str) -> str:
        """Published name (below `backbone.0.`) of our `state_dict` entry `name`."""
        return f"body.{self.body.published_name(name.removeprefix('body.'))}"


def build_backbone(name: str, *, pretrained: bool = False, drop_path: float = 0.2) -> Backbone:
    """Build a backbone.

    Args:
        name: One of `NAMES`.
        pretrained: Start from public weights (downloaded once): Kinetics for Video Swin, ImageNet
            for all else.
        drop_path: Stochastic depth where the network has it.

    Raises:
        ValueError: Unknown name, no public weights, or a timm network without the four strides.
    """
    if pretrained and name in NAMES_WITHOUT_WEIGHTS:
        raise ValueError(f"backbone {name!r} has no public weights here: set pretrained=False")
    if name in SWIN_WEIGHTS:
        return _build_swin(name, pretrained=pretrained, drop_path=drop_path)
    if name in BUILDERS:
        resnet = ResNet(name, pretrained=pretrained)
        return Backbone(resnet, resnet.channels)
    if name.startswith(TIMM_PREFIX):
        timm_name = name.removeprefix(TIMM_PREFIX)
        timm_network = TimmNetwork(timm_name, pretrained=pretrained, drop_path=drop_path)
        return Backbone(timm_network, timm_network.channels)
    if name == "motion_convnet":
        motion_convnet = MotionConvNet()
        return Backbone(motion_convnet, motion_convnet.channels)
    raise ValueError(f"unknown backbone {name!r}; known are {', '.join(NAMES)}")


def _build_swin(name: str, *, pretrained: bool, drop_path: float) -> Backbone:
    size = SIZES[name[-1]]  # the last letter of the name: t, s, b or l
    body: VideoSwin | Swin
    if name.startswith("video"):
        body = VideoSwin(size, drop_path=drop_path)
    else:
        body = Swin(size, drop_path=drop_path)
    if pretrained:
        weights = torchvision.models.get_weight(SWIN_WEIGHTS[name])
        body.load_torchvision(weights.get_state_dict(progress=True, check_hash=True))
    return Backbone(body, size.channels)
