"""A contact sheet of a shard set: frames with masks in colour, expressions below them."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from shards.format.rle import decode_mask
from shards.format.schema import Frame
from shards.format.shard_set import ShardSet

COLOURS = (
    (230, 70, 60), (60, 150, 240), (70, 190, 90), (245, 180, 40),
    (170, 90, 220), (60, 200, 200), (240, 120, 180), (150, 110, 70),
)  # fmt: skip
_MARGIN = 8
_LINE = 16


def contact_sheet(
    shard_set: ShardSet, videos: Sequence[int], *, num_frames: int = 5, width: int = 240
) -> Image.Image:
    """Draw some videos, one below the other.

    Args:
        shard_set: The set.
        videos: Numbers of the videos.
        num_frames: Frames a video, evenly spread.
        width: Of a frame on the sheet, in pixels.

    Raises:
        ShardError: If a frame cannot be read.
    """
    strips = [_strip(shard_set, video, num_frames, width) for video in videos]
    return Image.fromarray(np.concatenate([np.asarray(strip) for strip in strips]))


def _strip(shard_set: ShardSet, video: int, num_frames: int, width: int) -> Image.Image:
    row = shard_set.videos[video]
    last = len(row.frame_names) - 1
    chosen = sorted({round(it) for it in np.linspace(0, last, min(num_frames, last + 1))})
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(row.objects)}
    frames = [_overlay(frame, colours, width) for frame in shard_set.read(video, chosen)]
    columns = (width + _MARGIN) * num_frames // 7
    lines = [(f"{row.key}   {row.video_id}   {row.height} x {row.width}", (0, 0, 0))]
    for it in row.expressions:
        colour = colours[it.objects[0]] if it.objects else (90, 90, 90)
        text = f"{it.id}: {it.text}" + (f"  [{it.kind}]" if it.kind else "")
        lines += [(line, colour) for line in textwrap.wrap(text, columns) or [""]]
    below = _MARGIN + max(frame.height for frame in frames)
    size = ((width + _MARGIN) * num_frames + _MARGIN, below + _LINE * len(lines) + _MARGIN)
    strip = Image.new("RGB", size, "white")
    letters = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    draw, font = ImageDraw.Draw(strip), ImageFont.truetype(letters, 12)
    for at, frame in enumerate(frames):
        strip.paste(frame, (_MARGIN + at * (width + _MARGIN), _MARGIN))
    for at, (line, colour) in enumerate(lines):
        draw.text((_MARGIN, below + 2 + at * _LINE), line, fill=colour, font=font)
    return strip


def _overlay(frame: Frame, colours: dict[str, tuple[int, int, int]], width: int) -> Image.Image:
    """A frame in colour with its masks; one without annotation is grey."""
    with Image.open(io.BytesIO(frame.image)) as source:
        image = source.convert("RGB" if frame.masks is not None else "L").convert("RGB")
    pixels = np.asarray(image, np.float32).copy()
    for name, rle in (frame.masks or {}).items():
        mask, colour = decode_mask(rle), np.array(colours[name], np.float32)
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * colour
        pixels[mask & ~ndimage.binary_erosion(mask)] = colour
    height = max(1, round(image.height * width / image.width))
    return Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
