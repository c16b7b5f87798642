"""Videos and networks that the tests of prediction share."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgmg import SgMg
from sgmg.inference.video_io import video_writer

NUM_FRAMES = 12
SIZE = (36, 52)  # height, width in pixels
GREY_STEP = 20  # grey levels from one frame to the next


def random_video(num_frames: int, height: int = 100, width: int = 150, seed: int = 0) -> Tensor:
    """Smooth uint8 frames [T, 3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_frames, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def grey_frame(number: int, height: int = SIZE[0], width: int = SIZE[1]) -> NDArray[np.uint8]:
    """A frame [H, W, 3] whose grey level tells its number."""
    return np.full((height, width, 3), GREY_STEP * number % 256, np.uint8)


def write_video(path: Path, size: tuple[int, int] = SIZE, num_frames: int = NUM_FRAMES) -> Path:
    """Write grey frames as users write videos."""
    with video_writer(path, Fraction(24)) as add_frame:
        for number in range(num_frames):
            add_frame(grey_frame(number, *size))
    return path


def write_lossless_video(path: Path, width: int, height: int, num_frames: int = 3) -> Path:
    """Write a video of exactly this size, odd or tiny, also one of no frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=24)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "rgb24"
        container.start_encoding()
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame(width, height, "rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file of sound without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for packet in range(4):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.rate = 44100
            frame.pts = 1024 * packet
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@torch.no_grad()
def randomise_heads(model: SgMg) -> None:
    """Make queries and expressions differ, which those of fresh heads do not."""
    for head in (*model.class_heads, *model.box_heads):
        for parameter in head.parameters():
            parameter.normal_(0, 0.3)
