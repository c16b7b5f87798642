"""Masks drawn over frames, and legends."""

import itertools

import numpy as np

from sgmg.masks.overlay import PALETTE, draw_legend, draw_masks

GREY = np.full((60, 90, 3), 90, np.uint8)


def test_masks_are_tinted_and_outlined() -> None:
    mask = np.zeros((1, 60, 90), bool)
    mask[0, 10:30, 20:50] = True
    drawn = draw_masks(GREY, mask)
    assert (drawn[~mask[0]] == 90).all()
    assert tuple(drawn[10, 20]) == PALETTE[0]
    assert (drawn[20, 30] == np.round(0.55 * 90 + 0.45 * np.array(PALETTE[0]))).all()


def test_colours_are_used_in_turn() -> None:
    masks = np.zeros((3, 60, 90), bool)
    for index in range(3):
        masks[index, 10:30, 30 * index : 30 * index + 20] = True
    drawn = draw_masks(GREY, masks, PALETTE[:2])
    assert [tuple(drawn[10, 30 * index]) for index in range(3)] == [*PALETTE[:2], PALETTE[0]]


def test_a_legend_draws_letters_of_other_alphabets() -> None:
    """A font without them draws the same box for each."""
    pictures = [draw_legend(GREY, [letter], PALETTE).tobytes() for letter in "éèßñжд"]
    assert all(a != b for a, b in itertools.combinations(pictures, 2))
