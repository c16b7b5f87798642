import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.format.image_header import image_size


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"x" * 300}])
def test_the_size_of_an_image_is_read_from_its_head(extension: str, options: dict) -> None:
    file = io.BytesIO()
    Image.new("L", (300, 7)).save(file, {"jpg": "JPEG", "png": "PNG"}[extension], **options)
    data = file.getvalue()
    assert image_size(data) == (7, 300)
    assert image_size(data[:12]) is None
    assert image_size(b"") is None
    assert image_size(b"GIF89a" * 9) is None


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_noise_behind_a_magic_number_does_no_harm(noise: bytes) -> None:
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        size = image_size(magic + noise)
        assert size is None or len(size) == 2


def test_sizes_of_genuine_frames(shared: Path) -> None:
    frames = sorted((shared / "realdata").rglob("*.jpg"))
    assert frames
    for path in frames[::20]:
        with Image.open(path) as image:
            assert image_size(path.read_bytes()) == (image.height, image.width)


def test_a_png_cut_short_in_its_size_has_none() -> None:
    file = io.BytesIO()
    Image.new("L", (300, 7)).save(file, "PNG")
    for length in range(24):
        assert image_size(file.getvalue()[:length]) is None
