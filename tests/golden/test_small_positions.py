"""Sine positions against the published implementation."""

import numpy as np
import torch
from einops import rearrange

from sgmg.network.positions import sine_position_1d, sine_position_2d
from tests.golden.fixtures import compare, hold


def test_pixel_positions(cases, golden):
    case = cases["modules"]["mod_small"]["pos2d"]
    padding = torch.ones(len(case["valid"]), case["h"], case["w"], dtype=torch.bool)
    for i, (height, width) in enumerate(case["valid"]):
        padding[i, :height, :width] = False
    reference = golden("mod_small")
    np.testing.assert_array_equal(padding, reference["pos2d_mask"].array)
    hold("sine positions", 2e-5, compare(reference["pos2d"], sine_position_2d(padding, 256)))


def test_word_positions(cases, golden):
    reference = golden("mod_small")
    padding = torch.from_numpy(reference["pos1d_mask"].array)
    assert padding.shape[1] == cases["modules"]["mod_small"]["pos1d"]["L"]
    positions = sine_position_1d(padding, 256)
    hold(
        "sine positions", 2e-5, compare(reference["pos1d"], rearrange(positions, "e l c -> e c l"))
    )
