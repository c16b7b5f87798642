"""Multi-granularity segmentation optimizer (MSO)."""

import torch.nn.functional as F
from torch import Tensor, nn


class MaskOptimizer(nn.Module):
    """Refines a patch mask with the backbone's raw features at strides 8 and 4.

    The first convolution of a step sees mask and feature channels side by side. It is linear, so
    the feature half (`prepare`) is computed once a frame, however many masks are refined there.

    Paper: "multi-granularity segmentation optimizer".
    """

    def __init__(self, mask_channels: int, *, quarter: int, eighth: int) -> None:
        """Build two residual steps of two 3x3 convolutions each.

        Args:
            mask_channels: Channels of a patch mask.
            quarter: Channels of the raw map at stride 4.
            eighth: Channels of the raw map at stride 8.
        """
        super().__init__()
        self.mask_channels = mask_channels
        # Named as in the published checkpoints: first and second convolution at strides 8 and 4.
        self.conv1_1div8 = nn.Conv2d(mask_channels + eighth, mask_channels, 3, padding=1)
        self.conv2_1div8 = nn.Conv2d(mask_channels, mask_channels, 3, padding=1)
        self.conv1_1div4 = nn.Conv2d(mask_channels + quarter, mask_channels, 3, padding=1)
        self.conv2_1div4 = nn.Conv2d(mask_channels, mask_channels, 3, padding=1)

    def prepare(self, quarter: Tensor, eighth: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each step's first convolution that depends on the features alone.

        Args:
            quarter: Raw backbone map at stride 4, [N, C, h, w].
            eighth: Raw backbone map at stride 8, [N, C', h', w'].

        Returns:
            [N, 16, h, w] and [N, 16, h', w'].
        """
        quarter_details = self._convolve_features(self.conv1_1div4, quarter)
        eighth_details = self._convolve_features(self.conv1_1div8, eighth)
        return quarter_details, eighth_details

    def forward(self, patches: Tensor, details: tuple[Tensor, Tensor]) -> Tensor:
        """Refine patch masks.

        Args:
            patches: [N, 16, h', w'] at stride 8.
            details: From `prepare`, for the frame of each mask.

        Returns:
            [N, 16, h, w] at stride 4; pixel shuffle by 4 turns it into a mask at frame resolution.

        Paper: "multi-granularity segmentation optimizer".
        """
        quarter, eighth = details
        x = self.refine_eighth(patches, eighth)
        # By size, not by 2: an odd side at stride 4 is not twice the side at stride 8.
        x = F.interpolate(x, size=quarter.shape[-2:], mode="bilinear", align_corners=False)
        return x + self._residual(x, quarter, self.conv1_1div4, self.conv2_1div4)

    def refine_eighth(self, patches: Tensor, eighth: Tensor) -> Tensor:
        """The first step, at stride 8."""
        return patches + self._residual(patches, eighth, self.conv1_1div8, self.conv2_1div8)

    def _convolve_features(self, first: nn.Conv2d, features: Tensor) -> Tensor:
        """The feature half of a first convolution, bias included."""
        feature_weight = first.weight[:, self.mask_channels :]
        return F.conv2d(F.relu(features), feature_weight, first.bias, padding=1)

    def _residual(
        self, patches: Tensor, details: Tensor, first: nn.Conv2d, second: nn.Conv2d
    ) -> Tensor:
        """What a step adds to `patches`; `details` is the feature half of its first convolution."""
        mask_weight = first.weight[:, : self.mask_channels]
        mixed = F.conv2d(F.relu(patches), mask_weight, padding=1) + details
        return second(F.relu(mixed))
