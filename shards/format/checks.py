"""Checks of what a manifest, an index or a sample says, before it becomes a path, size or type.

Whoever reads shards of strangers reads values that a stranger chose. Each check raises a ValueError
of one line, which its caller puts behind the name of the file. `docs/shard_format.md`, Names, says
the same in words.
"""

import json
import re
from collections.abc import Collection

# 80 characters of key and 16 of the longest suffix (".000000.rle.json") fit the 100 bytes that a
# plain USTAR header has for a name. A dot would end the key for webdataset.
KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
# What no name may hold: "/" and "\" lead into other folders, control characters (of ASCII and of
# Latin-1) break lines and terminals. Empty names, "." and ".." are folders. The syntax is common to
# Python and to RE2, with which Arrow searches whole columns.
BAD_NAME = r"[/\\\x00-\x1f\x7f-\x9f]|^\.{0,2}$"
MAX_NAME_BYTES = 200  # file systems allow 255, and a suffix has to fit, too
MAX_SIDE_PX = 65_535  # of a JPEG, by its standard
MAX_PIXELS = 1 << 27  # 134 million: a mask of them takes as many bytes
MAX_FRAMES = 1_000_000  # members are named by six digits
_MAX_BYTES = 1 << 50  # of a shard, and no count is larger
_MAX_DEPTH = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BAD_NAME = re.compile(BAD_NAME)
_MAX_SHOWN_CHARACTERS = 80


def load_json(data: bytes) -> object:
    """Read JSON.

    Raises:
        ValueError: If it is none, or nested so deep that Python cannot read it.
    """
    try:
        content: object = json.loads(data)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    return content


def check_depth(value: object, title: str) -> None:
    """Refuse JSON that is nested deeper than anything a builder writes.

    Raises:
        ValueError: If it is.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        children: list[object] = []
        for element in level:
            if isinstance(element, dict):
                children.extend(element.values())
            elif isinstance(element, list):
                children.extend(element)
        level = children
    if level:
        raise ValueError(f"{title} is nested too deep")


def checked_text(value: object, title: str) -> str:
    """Return a string that can be written as UTF-8.

    Raises:
        ValueError: If it is none; JSON can hold half a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"{title} is {_shown(value)}, must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{title} is {_shown(value)}, which is no Unicode text") from None
    return value


def checked_name(value: object, title: str) -> str:
    """Return a string that is the name of a file when used as a path, and leads nowhere else.

    Raises:
        ValueError: If it is none.
    """
    name = checked_text(value, title)
    if _BAD_NAME.search(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"{title} is {_shown(name)}, must be a name of 1 to {MAX_NAME_BYTES} bytes without /, "
            f"backslash and control characters, not . or .."
        )
    return name


def checked_key(value: object) -> str:
    """Return the key of a sample.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, str) or not KEY_PATTERN.fullmatch(value):
        raise ValueError(
            f"{_shown(value)} is no key: a key is 1 to 80 ASCII letters, digits, _ and -, "
            f"the first a letter or digit"
        )
    return value


def checked_digest(value: object, title: str) -> str:
    """Return a SHA-256 in hexadecimal.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{title} is {_shown(value)}, must be 64 hexadecimal digits")
    return value


def checked_int(value: object, title: str, low: int = 0, high: int = _MAX_BYTES) -> int:
    """Return a whole number from `low` to `high`, both included.

    Raises:
        ValueError: If it is none.
    """
    # bool is an int to Python, not to JSON
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{title} is {_shown(value)}, must be a whole number, {low} to {high}")
    return value


def checked_size(height: object, width: object) -> tuple[int, int]:
    """Return height and width of a video's frames, in pixels.

    Raises:
        ValueError: If there is no image of that size, or it is too large to be decoded.
    """
    checked_height = checked_int(height, "the height", 1, MAX_SIDE_PX)
    checked_width = checked_int(width, "the width", 1, MAX_SIDE_PX)
    if checked_height * checked_width > MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels are more than {MAX_PIXELS}")
    return checked_height, checked_width


def checked_list(value: object, title: str) -> list[object]:
    """Return a list.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"{title} is {_shown(value)}, must be a list")
    return value


def checked_object(
    value: object, title: str, fields: Collection[str] | None = None
) -> dict[str, object]:
    """Return a JSON object.

    Args:
        value: Read from JSON.
        title: For messages.
        fields: It must have these and no other; None: any.

    Raises:
        ValueError: If it is none, or has other fields.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{title} is {_shown(value)}, must be an object")
    if fields is not None and value.keys() != set(fields):
        odd_fields = sorted(value.keys() ^ set(fields))
        raise ValueError(f"{title} lacks a field, or has one too many: {_shown(odd_fields[0])}")
    return value


def _shown(value: object) -> str:
    """A value for a message, in one line and never long."""
    if value is None or isinstance(value, str | int | float):
        return ascii(value)[:_MAX_SHOWN_CHARACTERS]
    return f"a {type(value).__name__}"
