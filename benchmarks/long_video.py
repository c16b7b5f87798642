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

CHILD = """
import resource, sys
from pathlib import Path
from sgmg import Predictor
from sgmg.inference.command import segment
from sgmg.inference.video_io import open_frames
predictor = Predictor.load(sys.argv[1], window=16, short_side=48, continuity=0.3)
video, out = Path(sys.argv[2]), Path(sys.argv[3])
segment(predictor, open_frames(video), ["a red circle", "a square"], out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def save_network(folder: Path) -> None:
    """A network small enough for ten thousand frames."""
    from sgmg import SgMg, SgMgConfig
    from sgmg.network.text_encoder import tiny_text_config
    from sgmg.network.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a red circle", "a square"])
    sizes = {"hidden": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}
    text = tiny_text_config(len(tokenizer), width=32)
    config = SgMgConfig(backbone="motion_convnet", text_model=None, text_config=text, **sizes)
    SgMg(config, tokenizer=tokenizer).save_pretrained(folder)


def draw(path: Path, frames: int) -> None:
    """A square that walks over noise."""
    from sgmg.inference.video_io import video_writer

    noise = np.random.default_rng(0).integers(0, 90, (48, 64, 3), np.uint8)
    with video_writer(path, Fraction(25)) as add:
        for t in range(frames):
            frame = noise.copy()
            frame[10:25, t % 48 : t % 48 + 15] = (220, 40, 40)
            add(frame)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[500, 10_000])
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_network(folder / "model")
        for frames in parser.parse_args().frames:
            video = folder / f"{frames}.mp4"
            draw(video, frames)
            start = time.perf_counter()
            told = subprocess.run(
                [sys.executable, "-c", CHILD, folder / "model", video, folder / "out.mp4"],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks[frames] = int(told.stdout) / 1024
            print(
                f"{frames:6d} frames  {peaks[frames]:7.1f} MiB  {time.perf_counter() - start:.0f} s"
            )
    ratio = round(max(peaks.values()) / min(peaks.values()), 4)
    print(json.dumps({"peak_mib": {k: round(v, 1) for k, v in peaks.items()}, "ratio": ratio}))


if __name__ == "__main__":
    main()
