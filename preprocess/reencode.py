"""Smaller frames, if somebody asks for them: shrunk to a longest side, or encoded anew as JPEG."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from preprocess.source import encode_jpeg
from shards.schema import Frame, Rle, ShardError, Video, decode_mask, encode_mask


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
            ShardError: as the reader does, or a frame cannot be decoded.
        """
        video = self.read(key)
        longest = max(video.height, video.width)
        scale = min(1.0, (self.max_side or longest) / longest)
        if scale == 1 and not self.always:
            return video
        height, width = (max(1, round(scale * it)) for it in (video.height, video.width))
        frames = [
            replace(
                frame,
                image=self._image(key, frame, (width, height)),
                extension="jpg",
                masks=frame.masks if scale == 1 else _shrink(frame.masks, height, width),
            )
            for frame in video.frames
        ]
        return replace(video, height=height, width=width, frames=frames)

    def _image(self, key: str, frame: Frame, size: tuple[int, int]) -> bytes:
        try:
            with Image.open(BytesIO(frame.image)) as picture:
                small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        except (OSError, ValueError, SyntaxError) as error:
            raise ShardError(
                f"video {key!r}: frame {frame.name} cannot be decoded ({error}); download it again"
            ) from error
        return encode_jpeg(small, self.quality)


def _shrink(masks: Mapping[str, Rle] | None, height: int, width: int) -> dict[str, Rle] | None:
    """Take the nearest pixel of each mask."""
    if masks is None:
        return None
    shrunk = {}
    for name, rle in masks.items():
        rows = ((np.arange(height) + 0.5) * rle.height / height).astype(int)
        columns = ((np.arange(width) + 0.5) * rle.width / width).astype(int)
        shrunk[name] = encode_mask(decode_mask(rle)[rows][:, columns])
    return shrunk
