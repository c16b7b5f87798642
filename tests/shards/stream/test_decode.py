import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.stream.collate import Collator
from shards.stream.decode import DecodeError, FrameDecoder
from shards.stream.reshape import reshape, source_part
from shards.stream.transform import ClipTransform, Colour, Crop, Mirror, Resize
from tests.shards.sample_videos import encode_image
from tests.shards.stream.pictures import SIZE, picture


def decode_pil(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@pytest.fixture
def decoder() -> FrameDecoder:
    return FrameDecoder(device="cpu", threads=1, max_frames=4)


def test_decoding_is_bit_equal_to_pillow(decoder: FrameDecoder) -> None:
    grey = io.BytesIO()
    Image.fromarray(picture()[..., 0]).save(grey, "PNG")
    images = [encode_image(picture(), "jpg"), encode_image(picture(1), "png"), grey.getvalue()]
    decoded_images = decoder.decode(images, [ClipTransform(SIZE, ())] * 3)
    for decoded, image in zip(decoded_images, images, strict=True):
        np.testing.assert_array_equal(decoded.numpy(), decode_pil(image))


def test_a_photograph_turned_by_its_tag_stays_as_stored(decoder: FrameDecoder) -> None:
    """Masks are drawn on the stored pixels."""
    file, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(picture()).save(file, "JPEG", exif=tags)
    (decoded,) = decoder.decode([file.getvalue()], [ClipTransform(SIZE, ())])
    np.testing.assert_array_equal(decoded.numpy(), decode_pil(file.getvalue()))


def test_steps_on_a_cpu_are_those_of_pillow(decoder: FrameDecoder) -> None:
    steps = (Resize(96, 128), Crop(10, 20, 60, 80), Resize(45, 60), Mirror())
    image = encode_image(picture(), "png")
    (decoded,) = decoder.decode([image], [ClipTransform(SIZE, steps)])
    pillow = Image.fromarray(picture()).resize((128, 96), Image.Resampling.BILINEAR)
    pillow = pillow.crop((20, 10, 100, 70)).resize((60, 45), Image.Resampling.BILINEAR)
    reference = np.asarray(pillow.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).astype(int)
    distance = np.abs(decoded.numpy().astype(int) - reference)
    assert distance.mean() < 0.5
    assert distance.max() <= 2


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
        transform = ClipTransform(size, (*mirrors, Resize(*new), crop, Resize(64, 48)))
        first, last = source_part(transform)
        smaller += int(np.prod(np.subtract(last, first)) < 0.7 * 120 * 160)
        (decoded,) = decoder.decode([image], [transform])
        np.testing.assert_array_equal(decoded.numpy(), reshape(whole, transform).numpy())
    assert smaller > 10


def test_what_was_decoded_outlives_the_decoder(decoder: FrameDecoder) -> None:
    image, transform = encode_image(picture(), "jpg"), ClipTransform(SIZE, ())
    decoded_frames = decoder.decode([image] * 4, [transform] * 4)
    decoder.decode([encode_image(picture(1), "jpg")] * 4, [transform] * 4)
    decoder.close()
    for frame in decoded_frames:
        np.testing.assert_array_equal(frame.numpy(), decode_pil(image))


def test_mirror_before_and_after_a_crop_differ(decoder: FrameDecoder) -> None:
    image = encode_image(picture(), "png")
    transforms = [
        ClipTransform(SIZE, (Mirror(), Crop(0, 0, 48, 20))),
        ClipTransform(SIZE, (Crop(0, 0, 48, 20), Mirror())),
    ]
    first, after = decoder.decode([image, image], transforms)
    np.testing.assert_array_equal(first.numpy(), picture()[:, ::-1][:, :20])
    np.testing.assert_array_equal(after.numpy(), picture()[:, :20][:, ::-1])


def test_a_broken_image_is_told_and_the_decoder_goes_on(decoder: FrameDecoder) -> None:
    good, transform = encode_image(picture(), "jpg"), ClipTransform(SIZE, ())
    short = good[: len(good) * 3 // 4]
    for bad in (good[:100], b"", b"no image at all", encode_image(picture(), "png")[:200], short):
        with pytest.raises(DecodeError, match=r"(?i)fail|empty"):
            decoder.decode([good, bad], [transform] * 2)
        (decoded,) = decoder.decode([good], [transform])
        np.testing.assert_array_equal(decoded.numpy(), decode_pil(good))


def test_closing_frees_the_threads(decoder: FrameDecoder) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    image, transform = encode_image(picture(), "jpg"), ClipTransform(SIZE, ())
    decoder.decode([image], [transform])
    decoder.close()
    before, rounds = count(), 10
    for _ in range(rounds):
        decoder.decode([image], [transform])
        decoder.close()
    assert count() < before + rounds  # threads of others may come and go, one a round may not


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match='"cpu" or "mixed", not \'gpu\''):
        FrameDecoder(device="gpu", threads=1, max_frames=1)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='use device="cpu"'):
            FrameDecoder(device="mixed", threads=1, max_frames=1)


@pytest.mark.gpu
def test_the_gpu_makes_the_pixels_of_the_cpu(decoder: FrameDecoder) -> None:
    steps = (Resize(96, 128), Crop(10, 20, 60, 80), Resize(45, 60), Mirror())
    images = [encode_image(picture(), "jpg"), encode_image(picture(1), "png")]
    transforms = [ClipTransform(SIZE, steps), ClipTransform(SIZE, ())]
    colours = [ClipTransform(r.source, r.steps, (Colour(10.0, 1.1, 0.9),)) for r in transforms]
    mixed = FrameDecoder(device="mixed", threads=1, max_frames=4)
    gpu_frames = Collator()(mixed.decode(images, transforms), colours, 1, 32)
    cpu_frames = Collator()(decoder.decode(images, transforms), colours, 1, 32)
    assert gpu_frames.is_cuda
    assert (gpu_frames.cpu() - cpu_frames).abs().mean() < 0.02
    mixed.close()
