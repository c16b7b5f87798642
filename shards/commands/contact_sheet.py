"""A contact sheet of a shard set: frames with masks in colour, expressions below them."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from shards.format.index import VideoRow
from shards.format.rle import decode_mask
from shards.format.schema import Frame
from shards.format.shard_set import ShardSet

Colour = tuple[int, int, int]

OBJECT_COLOURS: tuple[Colour, ...] = (
    (230, 70, 60), (60, 150, 240), (70, 190, 90), (245, 180, 40),
    (170, 90, 220), (60, 200, 200), (240, 120, 180), (150, 110, 70),
)  # fmt: skip
BLACK: Colour = (0, 0, 0)
GREY: Colour = (90, 90, 90)  # of an expression that names no object
MARGIN_PX = 8
LINE_PX = 16
FONT_PX = 12
CHARACTER_PX = 7  # of the widest letters that are common, so that a line fits the frames above


@dataclass(frozen=True)
class _Line:
    """A line of text below the frames."""

    text: str
    colour: Colour


def contact_sheet(
    shard_set: ShardSet, videos: Sequence[int], *, num_frames: int = 5, width: int = 240
) -> Image.Image:
    """Draw some videos, one below the other.

    Args:
        shard_set: The set.
        videos: Positions of the videos in the set.
        num_frames: Frames a video, evenly spread.
        width: Of a frame on the sheet, in pixels.

    Raises:
        ShardError: If a frame cannot be read.
    """
    strips = [_draw_strip(shard_set, video, num_frames, width) for video in videos]
    # every strip has room for `num_frames`, so that all are equally wide
    return Image.fromarray(np.concatenate([np.asarray(strip) for strip in strips]))


def _draw_strip(shard_set: ShardSet, video: int, num_frames: int, width: int) -> Image.Image:
    """Draw one video: a row of frames, and lines of text below them."""
    row = shard_set.videos[video]
    colours = {}
    for position, name in enumerate(row.objects):
        colours[name] = OBJECT_COLOURS[position % len(OBJECT_COLOURS)]
    chosen = _spread_frames(len(row.frame_names), num_frames)
    pictures = [_overlay(frame, colours, width) for frame in shard_set.read(video, chosen)]
    column = width + MARGIN_PX
    lines = _describe(row, colours, max_characters=column * num_frames // CHARACTER_PX)

    text_top = MARGIN_PX + max(picture.height for picture in pictures)
    strip_width = column * num_frames + MARGIN_PX
    strip_height = text_top + LINE_PX * len(lines) + MARGIN_PX
    strip = Image.new("RGB", (strip_width, strip_height), "white")
    for position, picture in enumerate(pictures):
        strip.paste(picture, (MARGIN_PX + position * column, MARGIN_PX))
    draw = ImageDraw.Draw(strip)
    font = _load_font()
    for position, line in enumerate(lines):
        corner = (MARGIN_PX, text_top + 2 + position * LINE_PX)
        draw.text(corner, line.text, fill=line.colour, font=font)
    return strip


def _spread_frames(length: int, count: int) -> list[int]:
    """Return up to `count` positions in a video, its first and last frame among them."""
    positions = np.linspace(0, length - 1, min(count, length))
    return sorted({round(position) for position in positions})


def _describe(row: VideoRow, colours: Mapping[str, Colour], max_characters: int) -> list[_Line]:
    """Return a title, and the expressions in the colour of the first object that each names."""
    lines = [_Line(f"{row.key}   {row.video_id}   {row.height} x {row.width}", BLACK)]
    for expression in row.expressions:
        colour = colours[expression.objects[0]] if expression.objects else GREY
        text = f"{expression.id}: {expression.text}"
        if expression.kind:
            text += f"  [{expression.kind}]"
        for part in textwrap.wrap(text, max_characters) or [""]:
            lines.append(_Line(part, colour))
    return lines


def _load_font() -> ImageFont.FreeTypeFont:
    """Return a font with many scripts; matplotlib ships it, Pillow and a bare system do not."""
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    return ImageFont.truetype(f"{folder}/DejaVuSans.ttf", FONT_PX)


def _overlay(frame: Frame, colours: Mapping[str, Colour], width: int) -> Image.Image:
    """Return a frame in colour with its masks; one without annotation is grey."""
    mode = "L" if frame.masks is None else "RGB"
    with Image.open(io.BytesIO(frame.image)) as source:
        image = source.convert(mode).convert("RGB")
    pixels = np.asarray(image, np.float32).copy()
    for name, rle in (frame.masks or {}).items():
        mask = decode_mask(rle)
        colour = np.array(colours[name], np.float32)
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * colour
        rim = mask & ~ndimage.binary_erosion(mask)
        pixels[rim] = colour
    height = max(1, round(image.height * width / image.width))
    drawn = Image.fromarray(pixels.astype(np.uint8))
    return drawn.resize((width, height), Image.Resampling.BOX)
