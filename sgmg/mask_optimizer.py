"""Multi-granularity segmentation optimizer (MSO)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskOptimizer(nn.Module):
    """Refines a patch mask with the backbone's raw features at strides 8 and 4.

    Paper: "multi-granularity segmentation optimizer".
    """

    def __init__(self, mask_channels: int, *, quarter: int, eighth: int) -> None:
        """Build two residual steps of two 3x3 convolutions each.

        Args:
            mask_channels: channels of a patch mask.
            quarter: channels of the raw map at stride 4.
            eighth: channels of the raw map at stride 8.
        """
        super().__init__()

        def convolution(inputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, mask_channels, 3, padding=1)

        self.conv1_1div8 = convolution(mask_channels + eighth)
        self.conv2_1div8 = convolution(mask_channels)
        self.conv1_1div4 = convolution(mask_channels + quarter)
        self.conv2_1div4 = convolution(mask_channels)

    def forward(self, patches: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        """Refine patch masks of N frames.

        Args:
            patches: [N, 16, h, w] at stride 8; not changed.
            quarter: raw backbone map at stride 4, [N, C, 2h, 2w] up to rounding.
            eighth: raw backbone map at stride 8, [N, C', h, w].

        Returns:
            [N, 16, *quarter's size]; pixel shuffle by 4 makes it a mask at frame resolution.
        """
        x = patches + _residual(patches, eighth, self.conv1_1div8, self.conv2_1div8)
        x = F.interpolate(x, size=quarter.shape[-2:], mode="bilinear", align_corners=False)
        return x + _residual(x, quarter, self.conv1_1div4, self.conv2_1div4)


def _residual(x: Tensor, feature: Tensor, mix: nn.Conv2d, out: nn.Conv2d) -> Tensor:
    return out(F.relu(mix(F.relu(torch.cat([x, feature], 1)))))
