"""Referring video object segmentation data as tar shards: write, read, check, stream.

`import shards` is light: `ClipLoader` and `Batch`, which need torch and DALI, are imported when
they are first asked for. This package imports neither `preprocess` nor `sgmg`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from shards.build.plan import Plan as Plan
from shards.build.writer import build_set as build_set
from shards.errors import ShardError as ShardError
from shards.format.rle import Rle as Rle
from shards.format.rle import decode_mask as decode_mask
from shards.format.rle import encode_mask as encode_mask
from shards.format.schema import Expression as Expression
from shards.format.schema import Frame as Frame
from shards.format.schema import Video as Video
from shards.format.schema import decode_sample as decode_sample
from shards.format.shard_set import ShardSet as ShardSet
from shards.format.shard_set import register_scheme as register_scheme
from shards.storage.cache import ShardCache as ShardCache
from shards.stream.styles import ClipStyle as ClipStyle

if TYPE_CHECKING:
    from shards.stream.batch import Batch as Batch
    from shards.stream.loader import ClipLoader as ClipLoader
else:
    # hidden from the type checker, which would take every unknown name for one of these
    _HEAVY_MODULES = {"Batch": "shards.stream.batch", "ClipLoader": "shards.stream.loader"}

    def __getattr__(name: str) -> object:
        """Import a heavy class when it is first asked for."""
        if name not in _HEAVY_MODULES:
            raise AttributeError(f"module 'shards' has no attribute {name!r}")
        return getattr(import_module(_HEAVY_MODULES[name]), name)
