"""Frames of video files, images and folders of images; and frames written as a video."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MIN_SIDE_PX = 16
MAX_SIDE_PX = 8192
MAX_ASPECT_RATIO = 8  # long side over short side
DEFAULT_RATE = Fraction(24)  # frames a second where nothing says

# Demuxers (of FFmpeg 8.1) that open other files or addresses, or draw text. An upload must not
# name what is read: a playlist could ask for any file of the server.
UNSAFE_DEMUXERS = {
    "adf", "avs", "bin", "concat", "dash", "hds", "hls", "idf", "image2", "imf", "lavfi", "rtp",
    "rtsp", "sap", "sdp", "smoothstreaming", "tty", "webm_dash_manifest", "xbin",
}  # fmt: skip
SAFE_OPTIONS = {
    "format_whitelist": ",".join(sorted(av.formats_available - UNSAFE_DEMUXERS)),
    "protocol_whitelist": "file",
}

# H.264 of nearly no visible loss, and a frame every half second at which a player can start.
MP4_OPTIONS: dict[str, object] = {"preset": "veryfast", "crf": "20", "g": "12"}
MAX_RATE_DENOMINATOR = 1001  # that of 29.97 frames a second; encoders refuse larger terms


@dataclass(frozen=True)
class Frames:
    """Frames of a video, an image or a folder; every iteration reads them anew, one at a time.

    Attributes:
        path: The file or folder.
        rate: Frames a second.
        num_frames: As the file tells it, which may be wrong; 0 where it does not.
        images: Files of single frames; empty for a video file.
    """

    path: Path
    rate: Fraction
    num_frames: int
    images: tuple[Path, ...]

    @property
    def is_single_image(self) -> bool:
        """Whether this is one image file, not a folder or a video of one frame."""
        return self.images == (self.path,)

    def __iter__(self) -> Iterator[Pixels]:
        """RGB frames [H, W, 3].

        Raises:
            ValueError: A frame is broken, or of another size than the first.
        """
        frames = map(_read_image, self.images) if self.images else _decode_video(self.path)
        first_shape = None
        for index, frame in enumerate(frames):
            if first_shape is None:
                first_shape = frame.shape
            if frame.shape != first_shape:
                raise ValueError(
                    f"{self.path}: frame {index} is {frame.shape[1]}x{frame.shape[0]} pixels, not "
                    f"{first_shape[1]}x{first_shape[0]} like the first; all must be of one size"
                )
            yield frame

    def tensors(self) -> Iterator[Tensor]:
        """The frames as uint8 [3, H, W]."""
        for frame in self:
            # A turned frame is a view with negative strides, which torch does not take.
            contiguous = np.ascontiguousarray(frame)
            yield torch.from_numpy(contiguous).permute(2, 0, 1)


def open_frames(path: str | Path) -> Frames:
    """Find out what a file or folder holds, and try its first frame.

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
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    images = tuple(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
    if path.is_dir() and not images:
        raise ValueError(f"{path} holds no images; give a folder of .jpg or .png frames")
    if images:
        frames = Frames(path, DEFAULT_RATE, num_frames=len(images), images=images)
    else:
        frames = _probe_video(path)
    first = next(iter(frames), None)
    if first is None:
        raise ValueError(f"{path} has no frames; give another file")
    height, width = first.shape[:2]
    short, long = sorted((height, width))
    if short < MIN_SIDE_PX or long > MAX_SIDE_PX or long > MAX_ASPECT_RATIO * short:
        raise ValueError(
            f"{path} is {width}x{height} pixels; a frame must have {MIN_SIDE_PX} to "
            f"{MAX_SIDE_PX} a side and be at most {MAX_ASPECT_RATIO} times as long as wide: scale "
            "or crop it"
        )
    return frames


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[Pixels], None]]:
    """Write a video that browsers play, or a single frame as a picture.

    Args:
        path: File to write, .mp4 or .png.
        rate: Frames a second.

    Yields:
        A function that adds a frame [H, W, 3]; in .mp4, odd sides are extended by one pixel.
    """
    is_still = path.suffix == ".png"
    with av.open(str(path), "w") as container:
        codec: Literal["png", "libx264"] = "png" if is_still else "libx264"
        stream = container.add_stream(codec, rate.limit_denominator(MAX_RATE_DENOMINATOR))
        stream.pix_fmt = "rgb24" if is_still else "yuv420p"
        stream.options = {} if is_still else MP4_OPTIONS

        def add_frame(frame: Pixels) -> None:
            if not is_still:
                # yuv420p keeps one colour for 2x2 pixels, so sides must be even.
                below = frame.shape[0] % 2
                right = frame.shape[1] % 2
                frame = np.pad(frame, [(0, below), (0, right), (0, 0)], "edge")
            if not stream.codec_context.is_open:
                stream.height = frame.shape[0]
                stream.width = frame.shape[1]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))

        yield add_frame
        # The encoder still holds the last frames: encoding nothing flushes it.
        container.mux(stream.encode())


def frame_at(path: Path, index: int, rate: Fraction) -> Pixels:
    """One frame [H, W, 3] of a file of `video_writer`; the last one if there are fewer."""
    with av.open(str(path)) as container:
        if index > 0:
            # This lands on the frame before at which decoding can start.
            container.seek(int(index / rate * av.time_base))
        for frame in container.decode(video=0):
            # A picture has no time. Times are rounded, hence half a frame of tolerance.
            if frame.time is None or frame.time * float(rate) > index - 0.5:
                break
        return _to_pixels(frame)


@contextmanager
def _open_video(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a video file; errors, also those of decoding inside, become one clear line."""
    try:
        # Absolute, so that a name such as "-i" or "concat:x" is not taken for something else. Tags
        # in broken UTF-8 are no reason to refuse a video.
        container = av.open(str(path.absolute()), options=SAFE_OPTIONS, metadata_errors="ignore")
        with container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video, only sound or text; give a video file")
            yield container
    except av.FFmpegError as error:
        raise _unreadable_video(path, error.strerror or str(error)) from None
    except UnicodeError as error:
        raise _unreadable_video(path, str(error)) from None


def _unreadable_video(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is no readable video ({reason}); give another file")


def _probe_video(path: Path) -> Frames:
    """Read rate and number of frames from the head of a video file."""
    with _open_video(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or DEFAULT_RATE
        duration_s = (container.duration or 0) / av.time_base
        num_frames = stream.frames or round(duration_s * rate)
        return Frames(path, rate, num_frames, images=())


def _decode_video(path: Path) -> Iterator[Pixels]:
    """Frames of a video file, turned as phones say they were held."""
    with _open_video(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            num_quarter_turns = round(frame.rotation / 90)
            yield np.rot90(_to_pixels(frame), num_quarter_turns)


def _to_pixels(frame: av.VideoFrame) -> Pixels:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _read_image(path: Path) -> Pixels:
    """Pixels of an image file, turned as its Exif tags say.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    # Pillow 12.3 answers broken PNG files with SyntaxError, some broken TIFF files with ValueError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable image ({error}); give another file") from None
