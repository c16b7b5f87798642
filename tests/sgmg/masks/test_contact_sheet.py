"""Images in labelled rows."""

import itertools

import numpy as np
import pytest

from sgmg.masks.contact_sheet import contact_sheet

GREY = np.full((60, 90, 3), 90, np.uint8)


def test_rows_are_as_high_as_asked_and_as_wide_as_the_widest() -> None:
    wide = np.full((60, 300, 3), 90, np.uint8)
    sheet = contact_sheet([[GREY, GREY], [wide]], ["a", "b"], height=30)
    assert sheet.size == (150 + 2 * 4, 2 * (20 + 30 + 4))
    pixels = np.asarray(sheet)
    assert (pixels[20:50, 4:49] == 90).all()  # 45 x 30: the shape of an image is kept
    assert (pixels[20:50, 49:53] == 255).all()


def test_a_sheet_needs_a_label_a_row() -> None:
    with pytest.raises(ValueError, match="one label a row"):
        contact_sheet([[GREY]], [])
    with pytest.raises(ValueError, match="0 rows"):
        contact_sheet([], [])


@pytest.mark.parametrize("part", ["label", "note"])
def test_letters_of_other_alphabets_are_drawn(part: str) -> None:
    """A font without them draws the same box for each."""

    def draw(letter: str) -> bytes:
        if part == "label":
            return contact_sheet([[GREY]], [letter]).tobytes()
        return contact_sheet([[GREY]], ["a"], notes=[letter]).tobytes()

    pictures = [draw(letter) for letter in "éèßñжд"]
    assert all(a != b for a, b in itertools.combinations(pictures, 2))


def test_the_widest_line_of_the_notes_fits() -> None:
    last = "                                                            |"
    sheet = contact_sheet([[GREY]], ["a"], notes=[last])
    ink = np.asarray(sheet.convert("L"))[-20:] < 128
    assert ink.any()
    assert np.flatnonzero(ink.any(0)).max() < sheet.width - 4
