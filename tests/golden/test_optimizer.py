"""Group of every parameter and its rate, against the published optimizer."""

import pytest
import torch

import train
from sgmg import SgMg
from sgmg.published.names import to_published_name
from sgmg.training.optim import parameter_groups
from sgmg.training.recipes import RECIPES
from tests.golden.models import published_config

TEXT_LAYERS = 12


@pytest.fixture(scope="module")
def reference(table):
    recipes = table("optimizer_groups")
    return {name: value for name, value in recipes.items() if "/" in name}


def test_groups(reference):
    assert reference
    for recipe, expected in reference.items():
        backbone, _, stage = recipe.partition("/")
        frozen = stage == "finetune_frozen_text"
        with torch.device("meta"):  # names and shapes only
            model = SgMg(published_config(backbone, TEXT_LAYERS, freeze_text=frozen))
        names = {p: to_published_name(model, name) for name, p in model.named_parameters()}
        groups = parameter_groups(model, lr=1e-4, backbone_lr=5e-5, text_lr=1e-5, weight_decay=5e-4)
        assert [g["name"] for g in groups] == [g["group"] for g in expected["groups"]]
        for group, published_group in zip(groups, expected["groups"], strict=True):
            assert group["lr"] == published_group["lr"]
            assert group["weight_decay"] == expected.get("weight_decay", 5e-4)
            assert len(group["params"]) == published_group.get(
                "count", len(published_group.get("names", ()))
            ), recipe
            if "names" in published_group:
                published_names = {
                    n.replace("transformer.decoder.bbox", "bbox") for n in published_group["names"]
                }
                assert {names[p] for p in group["params"]} == published_names, recipe


@pytest.mark.parametrize(
    ("recipe", "clips_a_gpu"), [("pretrain-refcoco", 2), ("ref-youtube-vos", 1), ("ref-davis17", 1)]
)
def test_rates_are_scaled_by_an_eighth_of_the_published_gpus(recipe, clips_a_gpu):
    settings = RECIPES[recipe][1]
    gpus = settings.data.batch_size / clips_a_gpu
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2)
    model.head = torch.nn.Linear(2, 2)
    optimizer, _ = train.build_optimizer(settings, model, total_updates=10, updates_per_epoch=5)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    published = {"base": 1e-4, "backbone": 5e-5}
    assert {name: rates[name] for name in published} == pytest.approx(
        {name: rate * gpus / 8 for name, rate in published.items()}
    )
