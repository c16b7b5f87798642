"""Expressions as training wants them: their sides follow a mirrored clip."""

import re

# "left" and "right" as whole words, or in leftmost, leftside, leftward(s), left-hand, left-handed
_SIDE = re.compile(
    r"(?<![a-z])(left|right)(?=(?:most|side|wards?|-?hand(?:ed)?)?(?![a-z]))", re.IGNORECASE
)


def prepare_expression(expression: str, *, lower: bool, mirrored: bool, published: bool) -> str:
    """Write an expression as its clip is learnt.

    Args:
        expression: The expression as in the data set.
        lower: Lower-case it and squeeze its blanks.
        mirrored: The clip is mirrored.
        published: Mirror as the published code does, see `mirror_expression`.
    """
    if lower:
        expression = " ".join(expression.lower().split())
    if mirrored:
        expression = mirror_expression(expression, published=published)
    return expression


def mirror_expression(expression: str, *, published: bool = False) -> str:
    """Let left and right change places in an expression whose clip is mirrored.

    Only whole words change, with the forms leftmost, leftside, leftward(s), left-hand, left-handed
    (also without hyphen) and the same of right; capitals stay. Other senses of the words ("the
    right one") are not told apart.

    Args:
        expression: The expression of the clip before.
        published: Swap inside of any word, as the published code does.
    """
    if published:
        # a character that no expression has stands for the side that waits
        return expression.replace("left", "\0").replace("right", "left").replace("\0", "right")
    return _SIDE.sub(_other_side, expression)


def _other_side(match: re.Match[str]) -> str:
    """Name the other side, in the same capitals."""
    side = match.group()
    other_side = "right" if side.lower() == "left" else "left"
    if side.isupper():
        return other_side.upper()
    if side[0].isupper():
        return other_side.capitalize()
    return other_side
