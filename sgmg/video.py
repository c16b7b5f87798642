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
    *("adf", "avs", "bin", "concat", "dash", "hds", "hls", "idf", "image2", "imf", "lavfi"),
    *("rtp", "rtsp", "sap", "sdp", "smoothstreaming", "tty", "webm_dash_manifest", "xbin"),
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
        size: Height and width in pixels.
        rate: Frames a second.
        count: Number of frames as the file tells it, 0 where it does not.
        still: A single image.
        read: Starts the reading.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    count: int
    still: bool
    read: Callable[[], Iterator[Pixels]]

    def __iter__(self) -> Iterator[Pixels]:
        """RGB frames [H, W, 3].

        Raises:
            ValueError: One is broken or of another size.
        """
        for number, frame in enumerate(self.read()):
            if frame.shape[:2] != self.size:
                was, now = (f"{width}x{height}" for height, width in (self.size, frame.shape[:2]))
                raise ValueError(
                    f"{self.path}: frame {number} is {now} pixels, those before {was}; all must be "
                    "of one size"
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
    if path.is_dir():
        files = sorted(it for it in path.iterdir() if it.suffix.lower() in IMAGES)
        if not files:
            raise ValueError(f"{path} holds no images; give a folder of .jpg or .png frames")
    elif not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    else:
        files = [path] if path.suffix.lower() in IMAGES else []
    rate, count = (RATE, len(files)) if files else _probe(path)

    def read() -> Iterator[Pixels]:
        return map(_load, files) if files else _decode(path)

    first = next(read(), None)
    if first is None:
        raise ValueError(f"{path} has no frames; give another file")
    height, width = first.shape[:2]
    short, long = sorted((height, width))
    if short < SMALLEST or long > LARGEST or long > LONGEST * short:
        raise ValueError(
            f"{path} is {width}x{height} pixels; a frame must have {SMALLEST} to {LARGEST} pixels "
            f"a side and be at most {LONGEST} times as long as wide: scale or crop it"
        )
    return Frames(path, (height, width), rate, count, files == [path], read)


@contextmanager
def video_writer(
    path: Path, size: tuple[int, int], rate: Fraction
) -> Iterator[Callable[[Pixels], None]]:
    """Write an MP4 file that browsers play.

    Args:
        path: Of the file.
        size: Height and width of the frames in pixels.
        rate: Frames a second.

    Yields:
        A function that adds a frame [H, W, 3]; an odd side is extended by one pixel.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate.limit_denominator(1001))
        stream.pix_fmt, stream.gop_size = "yuv420p", 12  # seeks fast
        stream.options = {"preset": "veryfast", "crf": "20"}
        below, right = size[0] % 2, size[1] % 2
        stream.height, stream.width = size[0] + below, size[1] + right

        def add(frame: Pixels) -> None:
            frame = np.pad(frame, ((0, below), (0, right), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))

        yield add
        container.mux(stream.encode())


def frame_at(path: Path, number: int, rate: Fraction) -> Pixels:
    """One frame [H, W, 3] of a file of `video_writer`; the last one if there are fewer."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(number / rate * av.time_base))
        for frame in container.decode(stream):
            if frame.time is None or frame.time * float(rate) > number - 0.5:
                break
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _probe(path: Path) -> tuple[Fraction, int]:
    """Frames a second, and their number or 0."""
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or RATE
        seconds = (container.duration or 0) / av.time_base
        return rate, stream.frames or round(seconds * rate)


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


def _decode(path: Path) -> Iterator[Pixels]:
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            # phones store how the frame is turned
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _load(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable image ({error}); give another file") from None
