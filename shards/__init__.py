"""Referring video object segmentation data as tar shards: write, read, check.

`import shards` is light: `ClipLoader` and `Batch`, which need torch and DALI, come when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shards.cache import ShardCache as ShardCache
from shards.index import ShardSet as ShardSet
from shards.schema import Expression as Expression
from shards.schema import Frame as Frame
from shards.schema import Rle as Rle
from shards.schema import ShardError as ShardError
from shards.schema import Video as Video
from shards.schema import decode_mask as decode_mask
from shards.schema import decode_sample as decode_sample
from shards.schema import encode_mask as encode_mask
from shards.writer import Plan as Plan
from shards.writer import build_set as build_set

if TYPE_CHECKING:
    from shards.batch import Batch as Batch
    from shards.loader import ClipLoader as ClipLoader

_LATER = {"Batch": "shards.batch", "ClipLoader": "shards.loader"}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
