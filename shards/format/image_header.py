"""The size of a PNG or JPEG image from its first bytes."""

import struct

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

# Markers C0 to CF of a JPEG start a frame and tell its size, but for three that carry tables:
# DHT (Huffman), JPG (reserved), DAC (arithmetic coding). ITU-T T.81, table B.1.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FILL = 0xFF


def image_size(data: bytes) -> tuple[int, int] | None:
    """Read height and width from the head of a PNG or JPEG.

    Pillow would do, but it makes an image object first: measurably slower where every frame of a
    data set is asked for its size.

    Args:
        data: The encoded image, or as much of its beginning as there is.

    Returns:
        Height and width in pixels; None if it is neither PNG nor JPEG, or ends before its size.
    """
    if data.startswith(PNG_SIGNATURE):
        return _png_size(data)
    if data.startswith(JPEG_SIGNATURE):
        return _jpeg_size(data)
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    # the first chunk must be IHDR: 4 bytes of length, 4 of name, then width and height
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk over the segments until one starts a frame."""
    position = 2  # behind the marker that starts the image
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_MARKERS:
            # marker (2 bytes), length (2), bits of a sample (1), height, width
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return height, width
        if marker == _FILL:  # any number of FF bytes may stand before a marker
            position += 1
        else:
            segment_length = int.from_bytes(data[position + 2 : position + 4])
            position += 2 + segment_length
    return None
