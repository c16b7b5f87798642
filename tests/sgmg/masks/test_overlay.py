"""Masks drawn over frames, legends, sheets."""

import itertools

import numpy as np
import pytest

from sgmg.masks.overlay import PALETTE, draw_legend, draw_masks, sheet

GREY = np.full((60, 90, 3), 90, np.uint8)


def test_masks_are_tinted_and_outlined() -> None:
    mask = np.zeros((1, 60, 90), bool)
    mask[0, 10:30, 20:50] = True
    drawn = draw_masks(GREY, mask)
    assert (drawn[~mask[0]] == 90).all()
    assert tuple(drawn[10, 20]) == PALETTE[0]
    assert (drawn[20, 30] == np.round(0.55 * 90 + 0.45 * np.array(PALETTE[0]))).all()


@pytest.mark.parametrize("where", ["legend", "sheet", "notes"])
def test_letters_of_other_alphabets_are_drawn(where: str) -> None:
    """A font without them draws the same box for each."""

    def draw(text: str) -> bytes:
        if where == "legend":
            return draw_legend(GREY, [text], PALETTE).tobytes()
        labels, notes = (["a"], [text]) if where == "notes" else ([text], [])
        return sheet([[GREY]], labels, notes=notes).tobytes()

    pictures = [draw(letter) for letter in "éèßñжд"]
    assert all(a != b for a, b in itertools.combinations(pictures, 2))


def test_a_sheet_needs_a_label_a_row() -> None:
    with pytest.raises(ValueError, match="one label a row"):
        sheet([[GREY]], [])


def test_the_widest_line_of_the_notes_fits() -> None:
    last = "                                                            |"
    picture = sheet([[GREY]], ["a"], notes=[last])
    ink = np.asarray(picture.convert("L"))[-20:] < 128
    assert ink.any()
    assert np.flatnonzero(ink.any(0)).max() < picture.width - 4
