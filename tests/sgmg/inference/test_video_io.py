"""Files as people have them, and broken ones: frames, or one line that says what is wrong.

Files and kinds of damage come in turn; SGMG_BROKEN_FILES sets how many are tried (40, or 300).
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmg.inference.video_io import Pixels, frame_at, open_frames, video_writer
from tests.sgmg.inference.videos import (
    GREY_STEP,
    NUM_FRAMES,
    grey_frame,
    write_lossless_video,
    write_sound,
    write_video,
)

TRIES = int(os.environ.get("SGMG_BROKEN_FILES", "40"))


def number_of(frame: Pixels) -> int:
    """Number of a grey frame, also after lossy compression."""
    return round(frame.mean() / GREY_STEP)


def test_written_frames_come_back(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (31, 47))
    frames = open_frames(path)
    assert frames.rate == 24
    assert frames.num_frames == NUM_FRAMES
    arrays = list(frames)
    assert [array.shape for array in arrays] == [(32, 48, 3)] * NUM_FRAMES
    assert [number_of(array) for array in arrays] == list(range(NUM_FRAMES))
    for index in (0, 1, 7, NUM_FRAMES - 1, NUM_FRAMES + 9):
        assert number_of(frame_at(path, index, frames.rate)) == min(index, NUM_FRAMES - 1)
    assert [tensor.shape for tensor in frames.tensors()] == [(3, 32, 48)] * NUM_FRAMES


def test_images_and_folders(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        Image.fromarray(grey_frame(number)).save(tmp_path / f"{number:05d}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    folder = open_frames(tmp_path)
    assert [frame.mean() / GREY_STEP for frame in folder] == [0, 1, 2]
    assert not folder.is_single_image
    image = open_frames(tmp_path / "00001.png")
    assert image.is_single_image
    assert image.num_frames == 1
    with video_writer(tmp_path / "still.png", image.rate) as add_frame:
        add_frame(grey_frame(3, 31, 47))
    assert (frame_at(tmp_path / "still.png", 0, image.rate) == grey_frame(3, 31, 47)).all()
    Image.fromarray(grey_frame(3, 40, 40)).save(tmp_path / "00003.png")
    with pytest.raises(ValueError, match="frame 3 is 40x40 pixels, not 52x36"):
        list(open_frames(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        open_frames(tmp_path / "empty")
    with pytest.raises(ValueError, match="no such file"):
        open_frames(tmp_path / "nothing.mp4")


def test_photos_are_turned_as_they_say(tmp_path: Path) -> None:
    image = Image.fromarray(np.concatenate([grey_frame(0), grey_frame(9)], 1))
    tags = image.getexif()
    tags[0x0112] = 6  # turn by a quarter, clockwise
    image.save(tmp_path / "a.jpg", exif=tags)
    (turned,) = open_frames(tmp_path / "a.jpg")
    assert turned.shape == (104, 36, 3)
    assert turned[:40].mean() < 20 < 150 < turned[-40:].mean()


def huge_png(path: Path) -> Path:
    """The head of a picture of 60000 x 60000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    return path


# Makes a broken file near the path, from the bytes of a good video and a number that varies it;
# returns its path, which may have another suffix.
Maker = Callable[[Path, bytes, int], Path]


def write(content: bytes | str) -> Maker:
    def make(path: Path, good: bytes, number: int) -> Path:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def secret_playlist(path: Path, good: bytes, number: int) -> Path:
    """A playlist that names a good video outside its folder."""
    path = path.with_suffix((".m3u8", ".mp4")[number % 2])
    entry = f"#EXTINF:1,\nfile://{path.parent.parent}/good.mp4\n#EXT-X-ENDLIST\n"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{entry}")
    return path


def secret_script(path: Path, good: bytes, number: int) -> Path:
    path.write_text(f"ffconcat version 1.0\nfile {path.parent.parent}/good.mp4\n")
    return path


def cut(path: Path, good: bytes, number: int) -> Path:
    path.write_bytes(good[: len(good) * (1 + number % 17) // 20])
    return path


def flipped(path: Path, good: bytes, number: int) -> Path:
    data = np.frombuffer(good, np.uint8).copy()
    random = np.random.default_rng(number)
    data[random.integers(0, len(data), 60)] = random.integers(0, 256, 60)
    path.write_bytes(data.tobytes())
    return path


def cut_image(path: Path, good: bytes, number: int) -> Path:
    path = path.with_suffix((".png", ".jpg", ".webp", ".tiff")[number % 4])
    noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * (1 + number % 7) // 8])
    return path


BROKEN: dict[str, Maker] = {
    "cut": cut,
    "no frames": lambda path, good, n: write_lossless_video(
        path.with_suffix(".mov"), 64, 48, num_frames=0
    ),
    "one row": lambda path, good, n: write_lossless_video(path.with_suffix(".mov"), 64 + n, 1),
    "one column": lambda path, good, n: write_lossless_video(path.with_suffix(".mov"), 1, 48 + n),
    "ribbon": lambda path, good, n: write_lossless_video(
        path.with_suffix(".mov"), 400, 17 + n % 20
    ),
    "sound only": lambda path, good, n: write_sound(path),
    "program": write(b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8),
    "windows program": write(b"MZ\x90\x00" + bytes(range(256)) * 8),
    "shell script": write("#!/bin/sh\nrm -rf /\n" * 9),
    "empty": write(b""),
    "text": write("once upon a time\n" * 200),
    "web page": write("<html><body><video src='file:///etc/passwd'></video></body></html>"),
    "playlist": secret_playlist,
    "script of files": secret_script,
    "subtitles": write("1\n00:00:00,000 --> 00:00:04,000\nhello\n"),
    "zip": write(b"PK\x03\x04" + bytes(400)),
    "noise": lambda path, good, n: write(np.random.default_rng(n).bytes(5000))(path, good, n),
    "cut image": cut_image,
    "huge image": lambda path, good, n: huge_png(path.with_suffix(".png")),
    "program as image": lambda path, good, n: write(b"\x7fELF" * 99)(
        path.with_suffix(".jpg"), good, n
    ),
}
NAMES = ("video", "..mp4", "a b;rm -rf *", "%2e%2e%2fetc", "-i", "$(id)", "ünïcödé", "con\tcat:x")


@pytest.mark.parametrize("number", range(TRIES))
def test_a_broken_file_is_one_clear_line(number: int, tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", num_frames=4).read_bytes()
    (tmp_path / "upload").mkdir()
    kinds = list(BROKEN)
    make = BROKEN[kinds[number % len(kinds)]]
    path = make(tmp_path / "upload" / f"{NAMES[number % len(NAMES)]}.mp4", good, number)
    mode = stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(ValueError, match=r"give|scale or crop") as caught:
        list(open_frames(path))
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("number", range(max(TRIES // 10, 3)))
def test_damage_inside_gives_frames_or_a_clear_line(number: int, tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4").read_bytes()
    path = flipped(tmp_path / "flipped.mp4", good, number)
    try:
        shapes = {frame.shape for frame in open_frames(path)}
    except ValueError as error:
        message = str(error)
        assert "flipped.mp4" in message
        assert "\n" not in message
    else:
        assert len(shapes) == 1


@pytest.mark.parametrize(("width", "height"), [(17, 33), (51, 37), (64, 16), (16, 127)])
def test_odd_sizes_are_read(width: int, height: int, tmp_path: Path) -> None:
    frames = list(open_frames(write_lossless_video(tmp_path / "odd.mov", width, height)))
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 3
