"""What a training run leaves to look at: a CSV of losses, pictures of predictions."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgmg.overlay import draw_masks, sheet


class LossTable:
    """A CSV with one row an update; survives a resume without a gap or a repeat."""

    def __init__(self, path: Path) -> None:
        """Open lazily.

        Args:
            path: of the CSV; made at the first row.
        """
        self.path = path

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of an update; the columns are those of the first row."""
        row = {"step": step, **values}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def forget_after(self, step: int) -> None:
        """Drop the rows of updates after `step`: they will be done again."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= step]
        self.path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def prediction_sheet(
    frames: Sequence[NDArray[np.uint8]],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    expressions: Sequence[str],
) -> Image.Image:
    """Predictions (second colour) over the ground truth (first colour), an expression a row.

    Args:
        frames: RGB frames of the clip of each of E expressions, [T, H, W, 3].
        truth: masks [E, T, H', W'], padded to one size.
        predicted: masks, likewise.
        expressions: E sentences.

    Returns:
        The sheet as an RGB image.
    """
    rows = []
    for clip, target, mask in zip(frames, truth, predicted, strict=True):
        both = np.stack([target, mask], 1)[..., : clip.shape[1], : clip.shape[2]]
        rows.append([draw_masks(f, m, opacity=0.3) for f, m in zip(clip, both, strict=True)])
    return sheet(rows, expressions)
