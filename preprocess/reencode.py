"""Smaller frames, if somebody asks for them: shrunk to a longest side, or encoded anew as JPEG."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from preprocess.dataset import encode_jpeg
from preprocess.official_files import blaming
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import Frame, Video, prepare_video


@dataclass(frozen=True)
class Reencoded:
    """A reader whose frames are JPEG of a quality, no side longer than ``max_side``; picklable.

    Args:
        read: gives a video by its key.
        max_side: in pixels; smaller videos keep their size; None: all do.
        quality: of the JPEG files, 1 to 100.
        always: encode the frames of videos that keep their size, too.
    """

    read: Callable[[str], Video]
    max_side: int | None
    quality: int
    always: bool

    def __call__(self, key: str) -> Video:
        """Read a video, shrink it.

        Raises:
            ShardError: as the reader does, or what it gives does not fit or cannot be decoded.
        """
        video = prepare_video(self.read(key))
        longest = max(video.height, video.width)
        scale = min(1.0, (self.max_side or longest) / longest)
        if scale == 1 and not self.always:
            return video
        height, width = (max(1, round(scale * it)) for it in (video.height, video.width))
        frames = [self._shrink(key, frame, (width, height)) for frame in video.frames]
        return replace(video, height=height, width=width, frames=frames)

    def _shrink(self, key: str, frame: Frame, size: tuple[int, int]) -> Frame:
        """Resize a frame to `size`, width and height; of its masks take the nearest pixels."""
        with blaming(f"video {key!r}: frame {frame.name} cannot be decoded"):
            picture = Image.open(BytesIO(frame.image)).convert("RGB")
            image = encode_jpeg(picture.resize(size, Image.Resampling.LANCZOS), self.quality)
        nearest = Image.Resampling.NEAREST
        masks = frame.masks and {
            name: encode_mask(np.asarray(Image.fromarray(decode_mask(rle)).resize(size, nearest)))
            for name, rle in frame.masks.items()
        }
        return replace(frame, image=image, extension="jpg", masks=masks)
