import math

import pytest
import torch

from sgmg.network.positions import resize_padding, sine_position_1d, sine_position_2d


def test_words_count_only_what_is_not_padding() -> None:
    padding = torch.tensor([[False, False, False], [False, False, True]])
    positions = sine_position_1d(padding, 8)
    assert positions.shape == (2, 3, 8)
    torch.testing.assert_close(positions[1, :2], sine_position_1d(padding[1:, :2], 8)[0])
    # the slowest pair of a third of the way: sin and cos of 2 pi / 3 / 10000^(6/8)
    angle = 2 * math.pi / 3 / 1000
    expected = torch.tensor([math.sin(angle), math.cos(angle)])
    torch.testing.assert_close(positions[0, 0, 6:], expected)


def test_pixels_are_measured_in_the_unpadded_frame() -> None:
    padding = torch.ones(1, 6, 9, dtype=torch.bool)
    padding[:, :4, :6] = False
    inside = sine_position_2d(torch.zeros(1, 4, 6, dtype=torch.bool), 16)
    torch.testing.assert_close(sine_position_2d(padding, 16)[..., :4, :6], inside)
    # centre of the first of 4 rows: an eighth of the way
    assert inside[0, 0, 0, 0].item() == pytest.approx(math.sin(math.pi / 4), abs=1e-5)
    # rows in the first half of the channels, columns in the second
    assert inside[0, :8, 0, 0].equal(inside[0, :8, 0, 5])
    assert inside[0, 8:, 0, 0].equal(inside[0, 8:, 3, 0])


def test_padding_of_a_map_is_the_nearest_pixel() -> None:
    padding = torch.zeros(1, 8, 8, dtype=torch.bool)
    padding[:, 5:] = True
    assert resize_padding(padding, (4, 4))[0, :, 0].tolist() == [False, False, False, True]
