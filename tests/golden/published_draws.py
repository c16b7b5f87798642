"""The random generators of the published implementation, behind the names that our drawing uses.

Which generator makes which draw was inferred from the reference numbers: they fit no other way.
"""

import random
from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch

from shards.stream.order import Draws

T = TypeVar("T")


def seed_published(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class FrameDraws:
    """For `sampling.clip_frames`: Python, but the reversal is NumPy's."""

    def integer(self, low: int, high: int) -> int:
        return random.randint(low, high)

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        return random.sample(list(options), count)

    def chance(self, probability: float) -> bool:
        return bool(np.random.rand() < probability)


class StepDraws:
    """For `augment.draw_steps`: Python, but a crop's corner is torch's."""

    def uniform(self, low: float, high: float) -> float:
        raise AssertionError("no real number is drawn for the published geometry")

    def chance(self, probability: float) -> bool:
        return random.random() < probability

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(0, high + 1, (1,))) if low == 0 else random.randint(low, high)

    def choice(self, options: Sequence[T]) -> T:
        return random.choice(options)


class ColourDraws:
    """For `augment.draw_colours`: NumPy, but whether channels are permuted is Python's."""

    def uniform(self, low: float, high: float) -> float:
        return float(np.random.uniform(low, high))

    def chance(self, probability: float) -> bool:
        if probability == 0.5:
            return bool(np.random.randint(2))
        return random.random() < probability

    def integer(self, low: int, high: int) -> int:
        raise AssertionError("no whole number is drawn for the published colours")

    def choice(self, options: Sequence[T]) -> T:
        return options[np.random.randint(len(options))]


# Each has only the methods that one caller may use, so that any other draw fails: no `Draws`.
FRAME_DRAWS = cast(Draws, FrameDraws())
STEP_DRAWS = cast(Draws, StepDraws())
COLOUR_DRAWS = cast(Draws, ColourDraws())
