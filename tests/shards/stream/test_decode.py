import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.stream.decode import (
    DEVIATION,
    MEAN,
    Collator,
    DecodeError,
    FrameDecoder,
    recolour,
    reshape,
    source_part,
)
from shards.stream.transform import Colour, Crop, Mirror, Record, Resize
from tests.shards.sample_videos import encode_image

SIZE = (48, 64)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth picture, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def decode_pil(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@pytest.fixture
def decoder() -> FrameDecoder:
    return FrameDecoder(device="cpu", threads=1, max_frames=4)


def test_decoding_is_bit_equal_to_pillow(decoder: FrameDecoder) -> None:
    grey = io.BytesIO()
    Image.fromarray(picture()[..., 0]).save(grey, "PNG")
    images = [encode_image(picture(), "jpg"), encode_image(picture(1), "png"), grey.getvalue()]
    for found, image in zip(decoder.decode(images, [Record(SIZE, ())] * 3), images, strict=True):
        np.testing.assert_array_equal(found.numpy(), decode_pil(image))


def test_a_photograph_turned_by_its_tag_stays_as_stored(decoder: FrameDecoder) -> None:
    """Masks are drawn on the stored pixels."""
    file, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(picture()).save(file, "JPEG", exif=tags)
    (found,) = decoder.decode([file.getvalue()], [Record(SIZE, ())])
    np.testing.assert_array_equal(found.numpy(), decode_pil(file.getvalue()))


def test_one_resize_stands_for_all_steps(decoder: FrameDecoder) -> None:
    steps = (Resize(96, 128), Crop(10, 20, 60, 80), Resize(45, 60), Mirror())
    image = encode_image(picture(), "png")
    (found,) = decoder.decode([image], [Record(SIZE, steps)])
    wanted = Image.fromarray(picture()).resize((128, 96), Image.Resampling.BILINEAR)
    wanted = wanted.crop((20, 10, 100, 70)).resize((60, 45), Image.Resampling.BILINEAR)
    reference = np.asarray(wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).astype(int)
    off = np.abs(found.numpy().astype(int) - reference)
    assert off.mean() < 1.0
    assert off.max() <= 8


def test_a_resize_before_a_crop_makes_what_the_whole_resize_makes() -> None:
    draw = np.random.default_rng(3).integers
    for old, new in [((48, 64), (60, 90)), ((90, 70), (41, 33)), ((99, 98), (100, 99))] * 12:
        image, size = torch.from_numpy(picture(0, old).copy()), draw(4, np.add(new, 1))
        top, left = draw(0, np.subtract(new, size) + 1)
        crop = Crop(int(top), int(left), *map(int, size))
        found = reshape(image, Record(old, (Resize(*new), crop))).int()
        wanted = reshape(image, Record(old, (Resize(*new),))).int()[top:, left:]
        off = (found - wanted[: crop.height, : crop.width]).abs().float()
        assert off.mean() < 0.5
        assert off.max() <= 2


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_decoding_what_a_crop_keeps_makes_the_same_bits(
    decoder: FrameDecoder, extension: str
) -> None:
    draw, size, smaller = np.random.default_rng(4).integers, (120, 160), 0
    image = encode_image(picture(5, size), extension)
    whole = torch.from_numpy(decode_pil(image).copy())
    for case in range(40):
        new = (int(draw(80, 161)), int(draw(100, 201)))
        height, width = map(int, draw(40, new))
        crop = Crop(int(draw(new[0] - height + 1)), int(draw(new[1] - width + 1)), height, width)
        mirrors = (Mirror(),) * (case % 3)
        record = Record(size, (*mirrors, Resize(*new), crop, Resize(64, 48)))
        first, last = source_part(record)
        smaller += np.prod(np.subtract(last, first)) < 0.7 * 120 * 160
        (found,) = decoder.decode([image], [record])
        np.testing.assert_array_equal(found.numpy(), reshape(whole, record).numpy())
    assert smaller > 10


def test_what_was_decoded_outlives_the_decoder(decoder: FrameDecoder) -> None:
    image, record = encode_image(picture(), "jpg"), Record(SIZE, ())
    kept = decoder.decode([image] * 4, [record] * 4)
    decoder.decode([encode_image(picture(1), "jpg")] * 4, [record] * 4)
    decoder.close()
    for frame in kept:
        np.testing.assert_array_equal(frame.numpy(), decode_pil(image))


def test_mirror_before_and_after_a_crop_differ(decoder: FrameDecoder) -> None:
    image = encode_image(picture(), "png")
    records = [
        Record(SIZE, (Mirror(), Crop(0, 0, 48, 20))),
        Record(SIZE, (Crop(0, 0, 48, 20), Mirror())),
    ]
    first, after = decoder.decode([image, image], records)
    np.testing.assert_array_equal(first.numpy(), picture()[:, ::-1][:, :20])
    np.testing.assert_array_equal(after.numpy(), picture()[:, :20][:, ::-1])


def test_a_broken_image_is_told_and_the_decoder_goes_on(decoder: FrameDecoder) -> None:
    good, record = encode_image(picture(), "jpg"), Record(SIZE, ())
    short = good[: len(good) * 3 // 4]
    for bad in (good[:100], b"", b"no image at all", encode_image(picture(), "png")[:200], short):
        with pytest.raises(DecodeError, match=r"(?i)fail|empty"):
            decoder.decode([good, bad], [record] * 2)
        (found,) = decoder.decode([good], [record])
        np.testing.assert_array_equal(found.numpy(), decode_pil(good))


def test_closing_frees_the_threads(decoder: FrameDecoder) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    image, record = encode_image(picture(), "jpg"), Record(SIZE, ())
    decoder.decode([image], [record])
    decoder.close()
    before, rounds = count(), 10
    for _ in range(rounds):
        decoder.decode([image], [record])
        decoder.close()
    assert count() < before + rounds  # threads of others may come and go, one a round may not


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match='"cpu" or "mixed", not \'gpu\''):
        FrameDecoder(device="gpu", threads=1, max_frames=1)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='use device="cpu"'):
            FrameDecoder(device="mixed", threads=1, max_frames=1)


@pytest.mark.parametrize(
    "colour",
    [
        Colour(),
        Colour(brightness=20.0),
        Colour(brightness=-30.0, contrast=1.2),
        Colour(contrast=0.8, saturation=1.2, channels=(2, 0, 1)),
        Colour(brightness=10.0, contrast=1.1, saturation=0.8),
    ],
)
def test_colours_are_those_of_hsv(colour: Colour) -> None:
    frame = torch.from_numpy(picture().copy()).permute(2, 0, 1).float()
    found = recolour(frame[list(colour.channels)], colour)
    pixels = (frame + colour.brightness).clamp(0, 255) * colour.contrast
    value, lowest = pixels.amax(0), pixels.amin(0)
    saturation = torch.where(value > 0, 1 - lowest / value, 0) * colour.saturation
    hue = torch.where(value > lowest, (value - pixels) / (value - lowest), 0)
    wanted = (value - hue * saturation * value).clamp(0, 255)[list(colour.channels)]
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_collation_normalises_and_pads() -> None:
    sizes = [(20, 33), (20, 33), (25, 30), (25, 30)]
    pixels = [torch.from_numpy(picture(i, size).copy()) for i, size in enumerate(sizes)]
    records = [Record((20, 33), ()), Record((25, 30), (), (Colour(), Colour(brightness=5.0)))]
    frames = Collator()(pixels, records, 2, 32)
    assert frames.shape == (2, 2, 3, 32, 64)
    back = frames * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    for b, (h, w) in enumerate([(20, 33), (25, 30)]):
        assert not frames[b, :, :, h:].any()
        assert not frames[b, :, :, :, w:].any()
        found = (back[b, 0, :, :h, :w] * 255).permute(1, 2, 0)
        torch.testing.assert_close(found, pixels[2 * b].float(), atol=1e-3, rtol=0)
    assert (back[1, 1, :, :25, :30] * 255).mean() > pixels[3].float().mean()


@pytest.mark.gpu
def test_the_gpu_makes_the_pixels_of_the_cpu(decoder: FrameDecoder) -> None:
    steps = (Resize(96, 128), Crop(10, 20, 60, 80), Resize(45, 60), Mirror())
    images = [encode_image(picture(), "jpg"), encode_image(picture(1), "png")]
    records = [Record(SIZE, steps), Record(SIZE, ())]
    colours = [Record(r.source, r.steps, (Colour(10.0, 1.1, 0.9),)) for r in records]
    mixed = FrameDecoder(device="mixed", threads=1, max_frames=4)
    there = Collator()(mixed.decode(images, records), colours, 1, 32)
    here = Collator()(decoder.decode(images, records), colours, 1, 32)
    assert there.is_cuda
    assert (there.cpu() - here).abs().mean() < 0.02
    mixed.close()


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it() -> None:
    collate, pixels = Collator(), [torch.full((40, 40, 3), 255, dtype=torch.uint8)]

    def make(side: int) -> torch.Tensor:
        return collate([pixels[0][:side, :side]], [Record((side, side), ())], 1, 32)

    first = make(40)
    place, kept = first.data_ptr(), first[0, 0, 0, :2].clone()
    view = first[0, 0, 0, :2]
    del first
    second = make(40)
    assert second.data_ptr() != place
    assert torch.equal(view, kept)
    del view
    third = make(20)
    assert third.data_ptr() == place
    assert third.shape == (1, 1, 3, 32, 32)
    assert not third[..., 20:].any()
    assert not third[..., 20:, :].any()
