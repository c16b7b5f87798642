"""Spectrum-guided multi-granularity referring video object segmentation (SgMg)."""

from sgmg.inference.predictor import Prediction as Prediction
from sgmg.inference.predictor import Predictor as Predictor
from sgmg.network.config import SgMgConfig as SgMgConfig
from sgmg.network.model import SgMg as SgMg
from sgmg.network.outputs import LayerOutput as LayerOutput
from sgmg.network.outputs import best_query as best_query
from sgmg.network.outputs import every_query as every_query
