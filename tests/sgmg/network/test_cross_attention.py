from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sgmg.network.cross_attention import CrossAttention
from sgmg.network.positions import sine_position_1d

Inputs = tuple[Tensor, Tensor, Tensor]  # maps, words and padding of the words
Fuse = Callable[..., Tensor]


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(0)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    return torch.randn(2, 3, 64, 4, 6), torch.randn(2, 5, 64), padding


@pytest.fixture
def fusion() -> Fuse:
    torch.manual_seed(1)
    layer = CrossAttention(64, heads=4).eval()

    def fuse(
        visual: Tensor, words: Tensor, padding: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        word_positions = sine_position_1d(padding, 64) if positions is None else positions
        return layer(visual, words, padding, word_positions)

    return fuse


def test_padding_changes_nothing(fusion: Fuse, inputs: Inputs) -> None:
    visual, words, padding = inputs
    fused = fusion(visual, words, padding)
    assert fused.shape == visual.shape
    noisy = words.masked_fill(padding[..., None], 100.0)
    torch.testing.assert_close(fusion(visual, noisy, padding), fused)
    second_clip = fusion(visual[1:], words[1:, :3], padding[1:, :3])
    torch.testing.assert_close(second_clip, fused[1:])


def test_a_single_word_multiplies_every_pixel_alike(fusion: Fuse, inputs: Inputs) -> None:
    visual, words, padding = inputs
    factor = fusion(visual, words[:, :1], padding[:, :1]) / visual
    torch.testing.assert_close(factor, factor[:, :1, :, :1, :1].expand_as(factor))


def test_positions_reach_the_keys_only(fusion: Fuse, inputs: Inputs) -> None:
    visual, words, padding = inputs
    other_positions = torch.randn_like(words)
    assert not torch.allclose(
        fusion(visual, words, padding), fusion(visual, words, padding, other_positions)
    )
    first_word = words[:, :1], padding[:, :1]
    torch.testing.assert_close(
        fusion(visual, *first_word), fusion(visual, *first_word, other_positions[:, :1])
    )


def test_order_of_words_matters(fusion: Fuse, inputs: Inputs) -> None:
    visual, words, padding = inputs
    swapped = words[:1].flip(1)
    assert not torch.allclose(
        fusion(visual[:1], words[:1], padding[:1]), fusion(visual[:1], swapped, padding[:1])
    )
