"""What a training run leaves to look at: a CSV of losses, pictures of predictions, a bar."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgmg.masks.contact_sheet import contact_sheet
from sgmg.masks.overlay import draw_masks

# What the progress bar has room for: terms of the last decoder layer at full resolution, the rate.
BAR_TERMS = ("total", "class", "box", "giou", "mask", "dice", "lr")
# What the loader met; the bar shows those that are not 0.
BAR_FAULTS = ("cache_hits", "retries", "refetched", "quarantined")


class LossTable:
    """A CSV with one row an update; survives a resume without a gap or a repeat."""

    def __init__(self, path: Path) -> None:
        """Remember the path; the file is made with the first row."""
        self.path = path

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of an update; the columns are those of the first row."""
        row = {"step": step, **values}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row))
        if not self.path.exists():
            writer.writeheader()
        writer.writerow(row)
        # One write for the whole row, so that a killed process leaves at most one half row behind.
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())

    def forget_after(self, step: int) -> None:
        """Drop the rows of updates after `step`, which will be done again, and broken rows.

        A process that was killed leaves half a row, a full disk an empty file, and a machine that
        lost power may leave zeros in place of the last bytes.

        Raises:
            ValueError: The file has rows, but is no table of losses.
        """
        # A process that was killed in here left it.
        unfinished = self.path.with_suffix(".partial")
        unfinished.unlink(missing_ok=True)
        if not self.path.exists():
            return
        # Whole rows end with CRLF, as the csv module writes them; Latin-1 decodes any byte.
        text = self.path.read_bytes().decode("latin-1")
        header, *rows = text.split("\r\n")[:-1] or [""]
        if not header.startswith("step,"):
            if header.strip("\0\r\n"):
                raise ValueError(f"{self.path} is no table of losses: move it away")
            self.path.unlink()
            return
        lines = [header]
        for row in rows:
            if _is_whole(row, header) and int(row.split(",", 1)[0]) <= step:
                lines.append(row)
        unfinished.write_text("".join(f"{line}\r\n" for line in lines), newline="")
        unfinished.replace(self.path)


def _is_whole(row: str, header: str) -> bool:
    """Whether a row has a number in each column."""
    cells = row.split(",")
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    return len(numbers) == header.count(",") + 1 and cells[0].isdecimal()


def progress_columns(
    values: Mapping[str, float],
    loader_stats: Mapping[str, float],
    *,
    clips: int,
    seconds: float,
    wait_seconds: float,
) -> dict[str, str]:
    """Describe an update beside the progress bar: losses, speed, and faults if there are any.

    Args:
        values: Loss terms, norms and `lr` of the update, by their names in `losses.csv`.
        loader_stats: What the loader has met so far.
        clips: Clips of the update.
        seconds: What the update took, the wait for its clips included.
        wait_seconds: What it waited for its clips.

    Returns:
        Text by its label.
    """
    columns = {name: f"{values[name]:.3g}" for name in BAR_TERMS if name in values}
    columns["clips/s"] = f"{clips / seconds:.1f}"
    columns["wait"] = f"{wait_seconds / seconds:.0%}"
    for name in BAR_FAULTS:
        if loader_stats.get(name):
            columns[name] = f"{loader_stats[name]:.3g}"
    columns["MB/clip"] = f"{loader_stats.get('bytes_per_clip', 0) / 1e6:.2f}"
    return columns


def prediction_sheet(
    frames: Sequence[NDArray[np.uint8]],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    expressions: Sequence[str],
) -> Image.Image:
    """Draw predictions (second colour) over the ground truth (first colour), an expression a row.

    Args:
        frames: RGB frames of the clip of each of E expressions, [T, H, W, 3].
        truth: Masks [E, T, H', W'], padded to one size.
        predicted: Masks of the same shape.
        expressions: E expressions.

    Returns:
        The sheet as an RGB image.
    """
    rows = []
    for clip, truth_of_clip, predicted_of_clip in zip(frames, truth, predicted, strict=True):
        _, height, width, _ = clip.shape
        masks = np.stack([truth_of_clip, predicted_of_clip], axis=1)[..., :height, :width]
        row = [
            draw_masks(frame, frame_masks, opacity=0.3)
            for frame, frame_masks in zip(clip, masks, strict=True)
        ]
        rows.append(row)
    return contact_sheet(rows, expressions)
