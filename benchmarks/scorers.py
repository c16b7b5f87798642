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

from sgmg.evaluation.metrics import contour_accuracy, region_similarity

HEIGHT, WIDTH, TURN = 480, 854, 100
Mask = NDArray[np.bool_]


def blobs(frames: int, seed: int) -> Mask:
    """Smooth random masks [T, H, W]; every tenth is empty."""
    random = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(random.normal(size=(frames, 30, 54)), (0, 2, 2))
    masks = coarse.repeat(16, 1).repeat(16, 2)[:, :HEIGHT, :WIDTH] > 0.05
    masks[::10] = False
    return masks


def outline(mask: Mask) -> Mask:
    """Pixels that differ from a neighbour to the right, below or both."""
    padded = np.pad(mask, ((0, 1), (0, 1)), "edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def frame_scores(prediction: Mask, truth: Mask) -> tuple[float, float]:
    """J and F of one frame, by definition."""
    union = np.sum(prediction | truth)
    j = np.sum(prediction & truth) / union if union else 1.0
    ours, theirs = outline(prediction), outline(truth)
    radius = math.ceil(0.008 * math.hypot(HEIGHT, WIDTH))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    near = [ndimage.binary_dilation(edge, disk) for edge in (ours, theirs)]
    precision = np.sum(ours & near[1]) / np.sum(ours) if ours.any() else 1.0
    recall = np.sum(theirs & near[0]) / np.sum(theirs) if theirs.any() else 1.0
    total = precision + recall
    return float(j), float(2 * precision * recall / total) if total else 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    frames = parser.parse_args().frames
    seconds = {"loop": 0.0, "sgmg.evaluation.metrics": 0.0}
    difference = 0.0
    for turn in range(0, frames, TURN):
        count = min(TURN, frames - turn)
        truth = blobs(count, turn)
        prediction = np.roll(truth, (3, 5), (1, 2))
        prediction[5::20] = False
        start = time.process_time()
        ours = np.stack([region_similarity(prediction, truth), contour_accuracy(prediction, truth)])
        middle = time.process_time()
        slow = np.array([frame_scores(*pair) for pair in zip(prediction, truth, strict=True)]).T
        seconds["sgmg.evaluation.metrics"] += middle - start
        seconds["loop"] += time.process_time() - middle
        difference = max(difference, float(np.abs(ours - slow).max()))
    for name, spent in seconds.items():
        print(f"{name:<14} {1000 * spent / frames:8.2f} ms of one core a frame")
    speedup = round(seconds["loop"] / seconds["sgmg.evaluation.metrics"], 1)
    print(json.dumps({"frames": frames, "speedup": speedup, "max_abs_difference": difference}))


if __name__ == "__main__":
    main()
