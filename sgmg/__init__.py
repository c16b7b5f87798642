"""Spectrum-guided multi-granularity referring video object segmentation (SgMg)."""

from sgmg.config import SgMgConfig
from sgmg.model import SgMg
from sgmg.outputs import LayerOutput, QueryOutput, SgMgOutput, best_query, every_query
from sgmg.predictor import Prediction, Predictor

__all__ = [
    "LayerOutput",
    "Prediction",
    "Predictor",
    "QueryOutput",
    "SgMg",
    "SgMgConfig",
    "SgMgOutput",
    "best_query",
    "every_query",
]
