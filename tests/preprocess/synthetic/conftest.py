"""Scenes to look at."""

from preprocess.synthetic.expressions import ReferredScene, draw_referred_scene
from preprocess.synthetic.settings import SyntheticSettings

SETTINGS = SyntheticSettings()


def draw_scenes(split: str, count: int = 150) -> list[ReferredScene]:
    return [draw_referred_scene(split, index, SETTINGS) for index in range(count)]
