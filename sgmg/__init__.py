"""Spectrum-guided multi-granularity referring video object segmentation (SgMg)."""

from sgmg.config import SgMgConfig
from sgmg.model import SgMg
from sgmg.outputs import LayerOutput, QueryOutput, SgMgOutput, best_query, every_query

__all__ = [
    "LayerOutput",
    "QueryOutput",
    "SgMg",
    "SgMgConfig",
    "SgMgOutput",
    "best_query",
    "every_query",
]
