"""J and F of 1,000 frames of 480p, against the straightforward loop over frames.

    python benchmarks/scorers.py [--frames 1000]

The loop does to each frame what the definition says: outlines from shifted copies, a disk, a
dilation by it. Both see the same masks, in turns of 100 frames.
"""

import argparse
import json
import math
import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgmg.evaluation.clip_metrics import OUTLINE_BOUND, contour_accuracy, region_similarity

HEIGHT_PX = 480
WIDTH_PX = 854
CELL_PX = 16  # masks are drawn on a coarse grid of such cells
FRAMES_A_TURN = 100  # masks of so many frames lie in memory
OURS = "sgmg.evaluation"

Masks = NDArray[np.bool_]


def random_masks(num_frames: int, seed: int) -> Masks:
    """Smooth random masks [T, H, W]; every tenth is empty."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(num_frames, 30, 54))
    coarse = ndimage.gaussian_filter(noise, (0, 2, 2))
    fine = coarse.repeat(CELL_PX, 1).repeat(CELL_PX, 2)
    masks = fine[:, :HEIGHT_PX, :WIDTH_PX] > 0.05
    masks[::10] = False
    return masks


def outline(mask: Masks) -> Masks:
    """Pixels that differ from a neighbour to the right, below or both."""
    padded = np.pad(mask, ((0, 1), (0, 1)), "edge")
    right = padded[:-1, 1:]
    below = padded[1:, :-1]
    diagonal = padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


def frame_scores(prediction: Masks, truth: Masks) -> tuple[float, float]:
    """J and F of one frame [H, W], by definition."""
    intersection = np.sum(prediction & truth)
    union = np.sum(prediction | truth)
    j = intersection / union if union else 1.0

    radius = math.ceil(OUTLINE_BOUND * math.hypot(HEIGHT_PX, WIDTH_PX))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    predicted_outline = outline(prediction)
    true_outline = outline(truth)
    near_predicted = ndimage.binary_dilation(predicted_outline, disk)
    near_true = ndimage.binary_dilation(true_outline, disk)
    precision = 1.0
    if predicted_outline.any():
        precision = np.sum(predicted_outline & near_true) / np.sum(predicted_outline)
    recall = 1.0
    if true_outline.any():
        recall = np.sum(true_outline & near_predicted) / np.sum(true_outline)
    total = precision + recall
    f = 2 * precision * recall / total if total else 0.0
    return float(j), float(f)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    num_frames = parser.parse_args().frames
    seconds = {"loop": 0.0, OURS: 0.0}
    difference = 0.0
    for start in range(0, num_frames, FRAMES_A_TURN):
        count = min(FRAMES_A_TURN, num_frames - start)
        truth = random_masks(count, seed=start)
        prediction = np.roll(truth, (3, 5), (1, 2))
        prediction[5::20] = False

        # time of this process's processor: other programs do not count
        before = time.process_time()
        j = region_similarity(prediction, truth)
        f = contour_accuracy(prediction, truth)
        between = time.process_time()
        slow = [frame_scores(*pair) for pair in zip(prediction, truth, strict=True)]
        after = time.process_time()

        seconds[OURS] += between - before
        seconds["loop"] += after - between
        scores = np.stack([j, f], 1)
        difference = max(difference, float(np.abs(scores - np.array(slow)).max()))
    for name, spent in seconds.items():
        print(f"{name:<15} {1000 * spent / num_frames:8.2f} ms of one core a frame")
    speedup = round(seconds["loop"] / seconds[OURS], 1)
    result = {
        "frames": num_frames,
        "speedup": speedup,
        "max_abs_difference": difference,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
