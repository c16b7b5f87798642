from typing import Any

import pytest
import timm
from torch import nn

from sgmg.network.backbones.timm_network import TimmNetwork
from tests.sgmg.network.backbones.small import random_input


def test_timm_channels_last_becomes_channels_first() -> None:
    network = TimmNetwork("swin_tiny_patch4_window7_224")
    maps = network(random_input(1, 1, 3, 224, 224))
    assert network.channels_last
    assert [stage.shape[1] for stage in maps] == list(network.channels)


def count_learning_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_timm_with_public_weights_freezes_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model

    def create_without_download(name: str, *, pretrained: bool, **settings: Any) -> nn.Module:
        return create_model(name, pretrained=False, **settings)

    assert count_learning_norms(TimmNetwork("resnet18", pretrained=False)) > 0
    monkeypatch.setattr(timm, "create_model", create_without_download)
    assert count_learning_norms(TimmNetwork("resnet18", pretrained=True)) == 0
