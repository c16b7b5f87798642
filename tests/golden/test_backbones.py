"""Backbones, padding masks and pixel positions against the published implementation."""

import functools

import numpy as np
import pytest
import torch

from sgmg.network.backbones.backbone import Backbone, build_backbone
from sgmg.network.positions import resize_padding, sine_position_2d
from tests.golden.fixtures import compare, hold, randn, seed_module


@functools.cache
def seeded(published: str) -> Backbone:
    backbone = build_backbone(published.removesuffix("_p4w7"), drop_path=0.0)
    return seed_module(backbone, lambda name: "backbone.0." + backbone.published_name(name))


@pytest.fixture(scope="module", autouse=True)
def _forget_weights():
    yield
    seeded.cache_clear()


@torch.inference_mode()
def test_features(backbone_case, cases, golden):
    name, tag = backbone_case
    case = cases["backbones"][name][tag]
    b, t, h, w = (case[side] for side in "bthw")
    padding = torch.zeros(b, h, w, dtype=torch.bool)
    for i, (height, width) in enumerate(case["valid"] or []):
        padding[i, height:] = True
        padding[i, :, width:] = True
    frames = randn(case["seed"], b, t, 3, h, w).masked_fill(padding[:, None, None], 0.0)
    reference = golden(f"backbone_{name}")
    stages = seeded(name)(frames)
    for i, stage in enumerate(stages):
        assert stage.shape[1] == seeded(name).channels[i]
        hold(f"backbone {name}", 2e-5, compare(reference[f"{tag}/stage{i}"], stage))
        if case["valid"]:
            mask = resize_padding(padding, stage.shape[-2:])
            per_frame = mask.repeat_interleave(t, 0)
            np.testing.assert_array_equal(per_frame, reference[f"{tag}/mask{i}"].array)
            if f"{tag}/pos{i}" in reference:  # stored for Video Swin only
                hold(
                    f"backbone {name}",
                    2e-5,
                    compare(reference[f"{tag}/pos{i}"], sine_position_2d(per_frame, 256)),
                )


def test_names_are_the_published_ones(table, backbone_case):
    name, _ = backbone_case
    entries = table(f"state_dict_{name}")["entries"]
    published = {
        entry.removeprefix("backbone.0."): tuple(shape)
        for entry, (shape, kind, _) in entries.items()
        if entry.startswith("backbone.0.") and kind == "float32"
    }
    backbone = seeded(name)
    ours = {
        backbone.published_name(entry): tuple(value.shape)
        for entry, value in backbone.state_dict().items()
    }
    assert ours == published
