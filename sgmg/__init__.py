"""Spectrum-guided multi-granularity referring video object segmentation (SgMg)."""

from sgmg.config import SgMgConfig as SgMgConfig
from sgmg.model import SgMg as SgMg
from sgmg.outputs import LayerOutput as LayerOutput
from sgmg.outputs import best_query as best_query
from sgmg.outputs import every_query as every_query
from sgmg.predictor import Prediction as Prediction
from sgmg.predictor import Predictor as Predictor
