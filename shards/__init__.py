"""Referring video object segmentation data as tar shards: write, read, check.

`import shards` is light: `ClipLoader` and `Batch`, which need torch and DALI, come when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shards.cache import ShardCache
from shards.index import ShardSet, VideoRow
from shards.manifest import Manifest
from shards.schema import (
    FORMAT_VERSION,
    Expression,
    Frame,
    Rle,
    ShardError,
    Video,
    decode_mask,
    decode_sample,
    encode_mask,
)
from shards.writer import Plan, build_set

if TYPE_CHECKING:
    from shards.batch import Batch
    from shards.loader import ClipLoader

__all__ = [
    "FORMAT_VERSION",
    "Batch",
    "ClipLoader",
    "Expression",
    "Frame",
    "Manifest",
    "Plan",
    "Rle",
    "ShardCache",
    "ShardError",
    "ShardSet",
    "Video",
    "VideoRow",
    "build_set",
    "decode_mask",
    "decode_sample",
    "encode_mask",
]

_LATER = {"Batch": "shards.batch", "ClipLoader": "shards.loader"}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
