"""Backbones: frames in, four maps of features out."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from typing import Any, cast

import torch
import torchvision
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet, swin_transformer
from torchvision.ops import FrozenBatchNorm2d

from sgmg.network.backbones import video_swin
from sgmg.network.backbones.body import BackboneBody
from sgmg.network.backbones.motion_convnet import MotionConvNet
from sgmg.network.backbones.video_swin import SIZES, VideoSwin

Channels = tuple[int, int, int, int]
STRIDES = (4, 8, 16, 32)
SWINS = {  # torchvision's name of their public weights
    "video_swin_t": "Swin3D_T_Weights.KINETICS400_V1",
    "video_swin_s": "Swin3D_S_Weights.KINETICS400_V1",
    "video_swin_b": "Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1",
    "swin_t": "Swin_T_Weights.IMAGENET1K_V1",
    "swin_s": "Swin_S_Weights.IMAGENET1K_V1",
    "swin_b": "Swin_B_Weights.IMAGENET1K_V1",
    "swin_l": "",
}
NAMES = (*SWINS, "resnet50", "resnet101", "motion_convnet", "timm:<name of a timm model>")


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

    def published_name(self, name: str) -> str:
        """Published name (below `backbone.0.`) of our `state_dict` entry `name`."""
        return f"body.{self.body.published_name(name.removeprefix('body.'))}"

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Blocks that training may compute twice to save memory; none if it has no such blocks."""
        return self.body.recompute_blocks


def build_backbone(name: str, *, pretrained: bool = False, drop_path: float = 0.2) -> Backbone:
    """Build a backbone.

    Args:
        name: One of `NAMES`.
        pretrained: Start from public weights (downloaded once): Kinetics for Video Swin, ImageNet
            for the others.
        drop_path: Stochastic depth where the network has it.

    Raises:
        ValueError: Unknown name, no public weights, or a timm network without the four strides.
    """
    if pretrained and name in ("swin_l", "motion_convnet"):
        raise ValueError(f"backbone {name!r} has no public weights here: set pretrained=False")
    if name in SWINS:
        return _swin(name, pretrained, drop_path)
    if name in ("resnet50", "resnet101"):
        return Backbone(ResNet(name, pretrained=pretrained), (256, 512, 1024, 2048))
    if name.startswith("timm:"):
        body = TimmNetwork(name.removeprefix("timm:"), pretrained=pretrained, drop_path=drop_path)
        return Backbone(body, body.channels)
    if name == "motion_convnet":
        motion = MotionConvNet()
        return Backbone(motion, cast("Channels", motion.channels))
    raise ValueError(f"unknown backbone {name!r}; known are {', '.join(NAMES)}")


def _swin(name: str, pretrained: bool, drop_path: float) -> Backbone:
    size = SIZES[name[-1]]
    body = (VideoSwin if name.startswith("video") else Swin)(size, drop_path=drop_path)
    if pretrained:
        weights = torchvision.models.get_weight(SWINS[name])
        body.load_torchvision(weights.get_state_dict(progress=True, check_hash=True))
    return Backbone(body, size.channels)


class KeptShiftAttention(swin_transformer.ShiftedWindowAttention):
    """Window attention that keeps its shift where one window covers the whole map.

    torchvision drops the shift there. Shifting within a single window only forbids attention
    between the pixels before and behind the cut, which a mask says without moving anything.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [N, h, w, C] -> the same."""
        bias = self.get_relative_position_bias()
        for axis, (window, shift) in enumerate(zip(self.window_size, self.shift_size, strict=True)):
            if shift and x.shape[1 + axis] <= window:
                bias = bias + self._cut(axis, window, shift, bias)
        return swin_transformer.shifted_window_attention(
            x,
            self.qkv.weight,
            self.proj.weight,
            bias,
            self.window_size,
            self.num_heads,
            shift_size=self.shift_size,
            qkv_bias=self.qkv.bias,
            proj_bias=self.proj.bias,
            training=self.training,
        )

    def _cut(self, axis: int, window: int, shift: int, like: Tensor) -> Tensor:
        """Mask [window^2, window^2] between pixels on different sides of the cut."""
        behind = torch.arange(window, device=like.device) >= shift
        shape = (window, 1) if axis == 0 else (1, window)
        side = behind.reshape(shape).expand(*self.window_size).flatten()
        return (side[:, None] != side).to(like.dtype) * video_swin.OUT_OF_REACH


class Swin(BackboneBody):
    """torchvision's Swin on single frames, with a norm on each of the four maps."""

    def __init__(self, size: video_swin.SwinSize, *, drop_path: float = 0.2) -> None:
        """Build the network with random weights.

        Args:
            size: Width, depths, heads.
            drop_path: Probability of skipping the last block in training; earlier ones less.
        """
        super().__init__()
        network = swin_transformer.SwinTransformer
        self.features = size.build(network, [4, 4], [7, 7], KeptShiftAttention, drop_path).features
        for stage, width in enumerate(size.channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(width))
        video_swin.share_position_index(self)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Normalised stages of strides 4 to 32: [B, T, 3, H, W] -> four [B*T, C, h, w]."""
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        x = F.pad(x, (0, -x.shape[-1] % STRIDES[0], 0, -x.shape[-2] % STRIDES[0]))
        stages = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2 == 1:
                normalised = self.get_submodule(f"norm{i // 2}")(x)
                stages.append(rearrange(normalised, "n h w c -> n c h w"))
        return stages

    def published_name(self, name: str) -> str:
        """The published checkpoints' name of the `state_dict` entry `name`."""
        if embedding := re.fullmatch(r"features\.0\.([02])\.(.+)", name):
            return f"patch_embed.{'proj' if embedding[1] == '0' else 'norm'}.{embedding[2]}"
        if merging := re.fullmatch(r"features\.([246])\.([a-z].*)", name):
            return f"layers.{int(merging[1]) // 2 - 1}.downsample.{merging[2]}"
        return video_swin.published_block(name, first=1)

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Every block of attention and perceptron."""
        return [m for m in self.modules() if isinstance(m, swin_transformer.SwinTransformerBlock)]

    def load_torchvision(self, weights: Mapping[str, Tensor]) -> None:
        """Take torchvision's ImageNet weights; the four norms keep theirs."""
        norms = {k: v for k, v in self.state_dict().items() if k.startswith("norm")}
        self.load_state_dict(norms | video_swin.without_classifier(weights))


class ResNet(BackboneBody):
    """torchvision's ResNet with frozen batch norms, stem and first stage."""

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        """Build the network.

        Args:
            name: `resnet50` or `resnet101`.
            pretrained: Start from ImageNet weights.
        """
        super().__init__()
        builder: Callable[..., resnet.ResNet] = getattr(resnet, name)
        weights = "IMAGENET1K_V1" if pretrained else None
        network = builder(weights=weights, norm_layer=FrozenBatchNorm2d)
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(part, network.get_submodule(part))
        for part in ("conv1", "layer1"):
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


class TimmNetwork(BackboneBody):
    """Any timm network that gives maps of strides 4, 8, 16 and 32."""

    def __init__(self, name: str, *, pretrained: bool = False, drop_path: float = 0.0) -> None:
        """Build the network.

        Args:
            name: A timm model name.
            pretrained: Start from timm's weights.
            drop_path: Stochastic depth where the network has it.

        Raises:
            ValueError: timm has no such network, or not with these four strides.
        """
        from timm.layers.norm_act import freeze_batch_norm_2d  # here: timm takes seconds to import

        super().__init__()
        network = _create_timm(name, pretrained=pretrained, drop_path=drop_path)
        info = network.feature_info
        strides, channels = info.reduction(), info.channels()
        if missing := sorted(set(STRIDES) - set(strides)):
            raise ValueError(
                f"timm model {name!r} has maps of strides {strides}, none of {missing}: choose a "
                f"network with strides {list(STRIDES)}"
            )
        if pretrained:  # statistics of a few frames would spoil those of ImageNet
            network = freeze_batch_norm_2d(network)
        self.network = network
        self.chosen = [max(i for i, s in enumerate(strides) if s == stride) for stride in STRIDES]
        self.channels = cast("Channels", tuple(channels[i] for i in self.chosen))
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Maps of strides 4, 8, 16, 32: [B, T, 3, H, W] -> four [B*T, C, h, w]."""
        height, width = frames.shape[-2:]
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        x = F.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        maps = self.network(x)
        order = "n h w c -> n c h w" if self.channels_last else "n c h w -> n c h w"
        return [
            rearrange(maps[i], order)[..., : ceil(height / stride), : ceil(width / stride)]
            for i, stride in zip(self.chosen, STRIDES, strict=True)
        ]


def _create_timm(name: str, *, pretrained: bool, drop_path: float) -> Any:
    import timm

    create = partial(timm.create_model, name, pretrained=pretrained, features_only=True)
    try:
        try:
            return create(drop_path_rate=drop_path)
        except TypeError:  # a network without stochastic depth
            return create()
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"timm cannot give the feature maps of {name!r}: {error}") from error
