"""Group of every parameter and its rate, against the published optimizer."""

import pytest
import torch

from sgmg import SgMg
from sgmg.checkpoint import to_published_name
from sgmg.optim import parameter_groups
from tests.golden.models import published_config

TEXT_LAYERS = 12


@pytest.fixture(scope="module")
def want(table):
    recipes = table("optimizer_groups")
    return {name: value for name, value in recipes.items() if "/" in name}


def test_groups(want):
    assert want
    for recipe, expected in want.items():
        backbone, _, stage = recipe.partition("/")
        frozen = stage == "finetune_frozen_text"
        with torch.device("meta"):  # names and shapes only
            model = SgMg(published_config(backbone, TEXT_LAYERS, freeze_text=frozen))
        names = {p: to_published_name(model, name) for name, p in model.named_parameters()}
        groups = parameter_groups(model, lr=1e-4, backbone_lr=5e-5, text_lr=1e-5, weight_decay=5e-4)
        assert [g["name"] for g in groups] == [g["group"] for g in expected["groups"]]
        for got, group in zip(groups, expected["groups"], strict=True):
            assert got["lr"] == group["lr"]
            assert got["weight_decay"] == expected.get("weight_decay", 5e-4)
            assert len(got["params"]) == group.get("count", len(group.get("names", ()))), recipe
            if "names" in group:
                published = {n.replace("transformer.decoder.bbox", "bbox") for n in group["names"]}
                assert {names[p] for p in got["params"]} == published, recipe
