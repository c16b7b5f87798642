"""Published weights make the network they belong to, or an error lists what does not fit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sgmg import SgMg
from sgmg.network.backbones.backbone import build_backbone
from sgmg.network.model_folder import CheckpointError
from sgmg.published.load import from_published, load_backbone
from tests.sgmg.published.checkpoints import (
    SMALL_ROBERTA,
    classifier_weights,
    published_weights,
    resnet_model,
    with_clutter,
)

Weights = dict[str, object]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    first_weights = first.state_dict()
    second_weights = second.state_dict()
    return first_weights.keys() == second_weights.keys() and all(
        torch.equal(first_weights[name], second_weights[name]) for name in first_weights
    )


@pytest.fixture(scope="module")
def small() -> SgMg:
    return resnet_model()


@pytest.fixture
def published(small: SgMg) -> dict[str, Tensor]:
    return published_weights(small)


@pytest.mark.parametrize("wrap", [dict, with_clutter])
def test_published_weights_make_the_network_they_belong_to(
    small: SgMg, published: dict[str, Tensor], wrap: Callable[[dict[str, Tensor]], Weights]
) -> None:
    loaded = from_published(wrap(published))
    assert same_weights(small, loaded)
    for name in ("backbone", "hidden", "heads", "encoder_layers", "decoder_layers", "queries"):
        assert getattr(loaded.config, name) == getattr(small.config, name), name
    assert loaded.config.text_config == SMALL_ROBERTA


def drop_last_block(weights: Weights) -> None:
    for name in list(weights):
        if "layer3.5." in name:
            del weights[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("controller.layers.1.bias"), "missing controller.layers.1.bias"),
        (lambda w: w.pop("query_embed.weight"), "it has no tensor query_embed.weight"),
        (lambda w: w.update(stray=torch.zeros(2)), "unexpected stray"),
        (
            lambda w: w.update({"class_embed.1.bias": torch.zeros(2)}),
            r"misshapen class_embed.1.bias \[2\] instead of \[1\]",
        ),
        (lambda w: w.update(optimizer={}), "'optimizer' is a dict, not a tensor"),
        (
            lambda w: w.update({"transformer.decoder.bbox_embed.0.layers.0.bias": torch.ones(32)}),
            "should be one tensor but differ",
        ),
        (
            lambda w: w.pop("backbone.0.body.layer3.5.conv1.weight"),
            "missing backbone.0.body.layer3.5.conv1.weight",
        ),
        (drop_last_block, "the checkpoint's backbone is none we know: layer3 of 5"),
    ],
)
def test_published_weights_must_fit_exactly(
    published: Weights, change: Callable[[Weights], object], message: str
) -> None:
    change(published)
    with pytest.raises(CheckpointError, match=message):
        from_published(published)


def test_backbone_takes_the_file_of_a_video_classifier() -> None:
    source = build_backbone("video_swin_t")
    target = build_backbone("video_swin_t")
    weights = {f"backbone.{name}": value for name, value in classifier_weights(source).items()}
    patch = weights["backbone.patch_embed.proj.weight"]
    weights["backbone.patch_embed.proj.weight"] = torch.cat([patch * 0.25, patch * 0.75], 2)
    weights["backbone.norm.weight"] = torch.ones(768)
    weights["cls_head.fc_cls.bias"] = torch.ones(400)
    weights["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(392, 392)
    load_backbone(target, {"state_dict": weights}, "file")
    for name, value in source.state_dict().items():
        assert torch.allclose(target.state_dict()[name], value, atol=1e-6), name
    del weights["backbone.layers.2.blocks.3.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"file is of another network: missing"):
        load_backbone(target, {"state_dict": weights}, "file")


def test_backbone_takes_the_file_of_an_image_classifier() -> None:
    source = build_backbone("resnet50")
    target = build_backbone("resnet50")
    weights = {name.removeprefix("body."): value for name, value in source.state_dict().items()}
    weights["fc.weight"] = torch.ones(1000, 2048)
    weights["bn1.num_batches_tracked"] = torch.tensor(1)
    load_backbone(target, weights, "file")
    assert same_weights(source, target)


def test_what_is_no_tensor_is_refused() -> None:
    backbone = build_backbone("resnet50")
    entries: Weights = {**backbone.state_dict(), "epoch": 3}
    with pytest.raises(CheckpointError, match="'epoch' is a int, not a tensor"):
        load_backbone(backbone, entries, "file")
