"""Every tensor of a network has a published name of its own."""

import re

import pytest
from torch import nn

from sgmg import SgMg
from sgmg.network.model_folder import CheckpointError
from sgmg.published.names import to_published_name
from tests.sgmg.published.checkpoints import resnet_model


@pytest.fixture(scope="module")
def model() -> SgMg:
    return resnet_model()


def test_every_tensor_has_a_name_of_its_own(model: SgMg) -> None:
    own_names = list(model.state_dict())
    published_names = {to_published_name(model, name) for name in own_names}
    assert len(published_names) == len(own_names)


@pytest.mark.parametrize(
    ("name", "published_name"),
    [
        ("backbone.body.layer1.0.conv1.weight", "backbone.0.body.layer1.0.conv1.weight"),
        ("text_encoder.words.fc.bias", "text_proj.fc.bias"),
        ("kernels.controller.layers.1.bias", "controller.layers.1.bias"),
        ("transformer.level_embed", "transformer.level_embed"),
    ],
)
def test_published_names_are_those_of_the_files(
    model: SgMg, name: str, published_name: str
) -> None:
    assert to_published_name(model, name) == published_name


def test_a_part_without_published_name_is_named() -> None:
    model = resnet_model()
    model.temporal = nn.Linear(2, 2)
    name = "temporal.weight"
    assert name in model.state_dict()
    with pytest.raises(CheckpointError, match=re.escape(f"{name} has no published name")):
        to_published_name(model, name)
