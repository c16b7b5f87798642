"""Frames encoded as JPEG: by a reader of videos, or anew and smaller if somebody asks for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from preprocess.official_files import as_shard_error
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import Frame, Video, prepare_video

JPEG_QUALITY = 95  # where frames have to be encoded and nobody asks for another one


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return a picture as JPEG without colour subsampling, of a quality from 1 to 100."""
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


@dataclass(frozen=True)
class Reencoded:
    """A reader whose frames are JPEG of a quality, no side longer than ``max_side``; picklable.

    Attributes:
        read: reads a video by its key.
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
        longer_side = max(video.height, video.width)
        scale = 1.0
        if self.max_side is not None:
            scale = min(1.0, self.max_side / longer_side)
        if scale == 1 and not self.always:
            return video
        height = max(1, round(scale * video.height))
        width = max(1, round(scale * video.width))
        frames = [self._shrink(key, frame, (width, height)) for frame in video.frames]
        return replace(video, height=height, width=width, frames=frames)

    def _shrink(self, key: str, frame: Frame, size: tuple[int, int]) -> Frame:
        """Resize a frame to `size`, width and height; of its masks take the nearest pixels."""
        with as_shard_error(f"video {key!r}: frame {frame.name} cannot be decoded"):
            picture = Image.open(BytesIO(frame.image)).convert("RGB")
            resized = picture.resize(size, Image.Resampling.LANCZOS)
            image = encode_jpeg(resized, self.quality)
        masks = None
        if frame.masks is not None:
            masks = {}
            for name, rle in frame.masks.items():
                mask = Image.fromarray(decode_mask(rle))
                resized_mask = mask.resize(size, Image.Resampling.NEAREST)
                masks[name] = encode_mask(np.asarray(resized_mask))
        return replace(frame, image=image, extension="jpg", masks=masks)
