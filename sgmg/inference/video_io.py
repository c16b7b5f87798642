"""Frames of video files, images and folders of images; and frames written as a video."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

Pixels = NDArray[np.uint8]

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SMALLEST, LARGEST, LONGEST = 16, 8192, 8  # pixels a side, and the long side over the short one
RATE = Fraction(24)  # frames a second where nothing says
# demuxers that open other files or addresses, or draw text: an upload must not name what is read
UNSAFE = {
    *("adf", "avs", "bin", "concat", "dash", "hds", "hls", "idf", "image2", "imf", "lavfi", "rtp"),
    *("rtsp", "sap", "sdp", "smoothstreaming", "tty", "webm_dash_manifest", "xbin"),
}
SAFE = {
    "format_whitelist": ",".join(sorted(av.formats_available - UNSAFE)),
    "protocol_whitelist": "file",
}


@dataclass(frozen=True)
class Frames:
    """Frames of a video, an image or a folder; every iteration reads them anew, one at a time.

    Args:
        path: Where they lie.
        rate: Frames a second.
        count: Number of frames as the file tells it, 0 where it does not.
        images: Files of single frames; empty for a video file.
    """

    path: Path
    rate: Fraction
    count: int
    images: tuple[Path, ...]

    def __iter__(self) -> Iterator[Pixels]:
        """RGB frames [H, W, 3].

        Raises:
            ValueError: One is broken, or of another size than the first.
        """
        size = None
        for n, frame in enumerate(map(_load, self.images) if self.images else _decode(self.path)):
            if frame.shape != (size := size or frame.shape):
                raise ValueError(
                    f"{self.path}: frame {n} is {frame.shape[1]}x{frame.shape[0]} pixels, not "
                    f"{size[1]}x{size[0]} like the first; all must be of one size"
                )
            yield frame

    def tensors(self) -> Iterator[Tensor]:
        """The same as uint8 [3, H, W]."""
        for frame in self:
            yield torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)


def open_frames(path: str | Path) -> Frames:
    """Find out what is there and read the first frame.

    Args:
        path: Any video file PyAV reads by itself, an image, or a folder of images, in the order of
            their names.

    Raises:
        ValueError: There is no such thing, it is broken, holds no picture, or one of a size that
            cannot be segmented.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    images = sorted(path.iterdir()) if path.is_dir() else [path]
    images = [it for it in images if it.suffix.lower() in IMAGES]
    if path.is_dir() and not images:
        raise ValueError(f"{path} holds no images; give a folder of .jpg or .png frames")
    frames = Frames(path, RATE, len(images), tuple(images)) if images else _probe(path)
    first = next(iter(frames), None)
    if first is None:
        raise ValueError(f"{path} has no frames; give another file")
    short, long = sorted(first.shape[:2])
    if short < SMALLEST or long > LARGEST or long > LONGEST * short:
        raise ValueError(
            f"{path} is {first.shape[1]}x{first.shape[0]} pixels; a frame must have {SMALLEST} to "
            f"{LARGEST} a side and be at most {LONGEST} times as long as wide: scale or crop it"
        )
    return frames


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[Pixels], None]]:
    """Write a video that browsers play, or a single frame as a picture.

    Args:
        path: Of the file, .mp4 or .png.
        rate: Frames a second.

    Yields:
        A function that adds a frame [H, W, 3]; in .mp4, odd sides are extended by one pixel.
    """
    still = path.suffix == ".png"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png" if still else "libx264", rate.limit_denominator(1001))
        stream.pix_fmt = "rgb24" if still else "yuv420p"
        stream.options = {} if still else {"preset": "veryfast", "crf": "20", "g": "12"}

        def add(frame: Pixels) -> None:
            if not still:
                more = [(0, side % 2) for side in frame.shape[:2]]
                frame = np.pad(frame, [*more, (0, 0)], "edge")
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))

        yield add
        container.mux(stream.encode())


def frame_at(path: Path, number: int, rate: Fraction) -> Pixels:
    """One frame [H, W, 3] of a file of `video_writer`; the last one if there are fewer."""
    with av.open(str(path)) as container:
        if number:
            container.seek(int(number / rate * av.time_base))
        for frame in container.decode(video=0):
            if frame.time is None or frame.time * float(rate) > number - 0.5:
                break
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path.absolute()), options=SAFE, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video, only sound or text; give a video file")
            yield container
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is no readable video ({reason}); give another file") from None


def _probe(path: Path) -> Frames:
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or RATE
        seconds = (container.duration or 0) / av.time_base
        return Frames(path, rate, stream.frames or round(seconds * rate), ())


def _decode(path: Path) -> Iterator[Pixels]:
    with _open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            yield np.rot90(picture, round(frame.rotation / 90))  # phones store how it is turned


def _load(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable image ({error}); give another file") from None
