"""What a training run leaves to look at: a CSV of losses, pictures of predictions, a bar."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sgmg.masks.contact_sheet import contact_sheet
from sgmg.masks.overlay import draw_masks


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
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row))
        if not self.path.exists():
            writer.writeheader()
        writer.writerow(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())

    def forget_after(self, step: int) -> None:
        """Drop the rows of updates after `step`: they will be done again."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text(encoding="utf-8").splitlines()
        whole = [row for row in rows if row.count(",") == header.count(",")]
        kept = [row for row in whole if int(row.split(",", 1)[0]) <= step]
        unfinished = self.path.with_suffix(".partial")
        unfinished.write_text("".join(f"{it}\r\n" for it in (header, *kept)), newline="")
        unfinished.replace(self.path)


class ProgressBar:
    """Updates done, and whether they wait for data or for the network."""

    def __init__(self, *, total: int, done: int, clips: int, shown: bool) -> None:
        """Show it.

        Args:
            total: updates of the run.
            done: updates of them that are done.
            clips: of an update.
            shown: not on all processes.
        """
        self.bar = tqdm(total=total, initial=done, unit="update", disable=not shown)
        self.clips, self.mark, self.wait = clips, time.perf_counter(), 0.0

    def got_data(self) -> None:
        """The batch is there; what follows is computing."""
        self.wait = time.perf_counter() - self.mark

    def step(self, terms: Mapping[str, float], stats: Mapping[str, float]) -> None:
        """An update is done.

        Args:
            terms: its loss terms; shown are those of the last layer.
            stats: of the loader; faults are shown if there are any.
        """
        seconds = time.perf_counter() - self.mark
        shown = {n: f"{x:.3g}" for n, x in terms.items() if not n[-1].isdigit() and "_" not in n}
        shown |= {"clips/s": f"{self.clips / seconds:.1f}", "wait": f"{self.wait / seconds:.0%}"}
        faults = ("cache_hits", "retries", "refetched", "quarantined")
        shown |= {name: f"{stats[name]:.3g}" for name in faults if stats.get(name)}
        shown["MB/clip"] = f"{stats.get('bytes_per_clip', 0) / 1e6:.2f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        self.mark = time.perf_counter()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


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
    return contact_sheet(rows, expressions)
