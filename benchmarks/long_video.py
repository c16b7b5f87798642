"""Peak memory of `python -m sgmg predict` on a short and on a long video.

    python benchmarks/long_video.py [--frames 500 10000]

Draws videos of 64x48 pixels and segments each with a tiny network of random weights, in a process
of its own: decoding, masks, codes and overlay included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from sgmg import SgMg, SgMgConfig
from sgmg.inference.video_io import video_writer
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer

EXPRESSIONS = ("a red circle", "a square")
HEIGHT_PX = 48
WIDTH_PX = 64
SQUARE_PX = 15
RED = (220, 40, 40)

# Linux tells the peak of a process in KiB.
CHILD = f"""
import resource, sys
from pathlib import Path
from sgmg import Predictor
from sgmg.inference.segment_video import segment_video
from sgmg.inference.video_io import open_frames
predictor = Predictor.load(sys.argv[1], window=16, short_side=48, continuity=0.3)
segment_video(predictor, open_frames(sys.argv[2]), {EXPRESSIONS!r}, Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def save_network(folder: Path) -> None:
    """Save a network small enough for ten thousand frames."""
    tokenizer = train_tokenizer(EXPRESSIONS)
    config = SgMgConfig(
        backbone="motion_convnet",
        text_model=None,
        text_config=tiny_text_config(len(tokenizer), width=32),
        hidden=32,
        heads=4,
        encoder_layers=1,
        decoder_layers=1,
        feedforward=32,
    )
    SgMg(config, tokenizer=tokenizer).save_pretrained(folder)


def draw_video(path: Path, num_frames: int) -> None:
    """Draw a square that walks over noise."""
    noise = np.random.default_rng(0).integers(0, 90, (HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    with video_writer(path, Fraction(25)) as add_frame:
        for t in range(num_frames):
            left = t % (WIDTH_PX - SQUARE_PX - 1)
            frame = noise.copy()
            frame[10 : 10 + SQUARE_PX, left : left + SQUARE_PX] = RED
            add_frame(frame)


def peak_memory_mib(model: Path, video: Path, out: Path) -> float:
    """Peak memory of a process that segments a video."""
    process = subprocess.run(
        [sys.executable, "-c", CHILD, model, video, out],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(process.stdout) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[500, 10_000])
    settings = parser.parse_args()
    peaks_mib = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_network(folder / "model")
        for num_frames in settings.frames:
            video = folder / f"{num_frames}.mp4"
            draw_video(video, num_frames)
            start = time.perf_counter()
            peak_mib = peak_memory_mib(folder / "model", video, folder / "out.mp4")
            seconds = time.perf_counter() - start
            print(f"{num_frames:6d} frames  {peak_mib:7.1f} MiB  {seconds:.0f} s")
            peaks_mib[num_frames] = peak_mib
    figures = {
        "peak_mib": {num_frames: round(peak, 1) for num_frames, peak in peaks_mib.items()},
        "ratio": round(max(peaks_mib.values()) / min(peaks_mib.values()), 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
