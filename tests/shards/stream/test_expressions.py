"""Expressions of mirrored clips."""

import pytest

from shards.stream.expressions import mirror_expression, prepare_expression


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("the left dog, right of a bright light", "the right dog, left of a bright light"),
        ("leftmost Left LEFT-hand rightward", "rightmost Right RIGHT-hand leftward"),
        ("a left-handed man moving leftwards", "a right-handed man moving rightwards"),
        ("cleft copyright lefty righteous", "cleft copyright lefty righteous"),
        ("the bottom-left one (on the right)", "the bottom-right one (on the left)"),
    ],
)
def test_sides_follow_the_mirror(before: str, after: str) -> None:
    assert mirror_expression(before) == after
    assert mirror_expression(after) == before


def test_published_words_swap_anywhere() -> None:
    assert mirror_expression("bright left cleft", published=True) == "bleft right cright"


def test_an_expression_is_lowered_before_it_is_mirrored() -> None:
    blanks = prepare_expression("  The  LEFT\tdog ", lower=True, mirrored=False, published=False)
    assert blanks == "the left dog"
    mirrored = prepare_expression("The Left Dog", lower=True, mirrored=True, published=False)
    assert mirrored == "the right dog"
    case_sensitive = prepare_expression("The Left Dog", lower=False, mirrored=True, published=False)
    assert case_sensitive == "The Right Dog"
