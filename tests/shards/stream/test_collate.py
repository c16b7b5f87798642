"""Colours, normalisation, padding and the memory of batches."""

import pytest
import torch

from shards.stream.batch import IMAGENET_MEAN, IMAGENET_STD
from shards.stream.collate import Collator, recolour
from shards.stream.transform import ClipTransform, Colour
from tests.shards.stream.pictures import picture


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
    recoloured = recolour(frame[list(colour.channels)], colour)
    pixels = (frame + colour.brightness).clamp(0, 255) * colour.contrast
    value, lowest = pixels.amax(0), pixels.amin(0)
    saturation = torch.where(value > 0, 1 - lowest / value, 0) * colour.saturation
    hue = torch.where(value > lowest, (value - pixels) / (value - lowest), 0)
    expected = (value - hue * saturation * value).clamp(0, 255)[list(colour.channels)]
    torch.testing.assert_close(recoloured, expected, atol=1e-3, rtol=0)


def test_collation_normalises_and_pads() -> None:
    sizes = [(20, 33), (20, 33), (25, 30), (25, 30)]
    pixels = [torch.from_numpy(picture(i, size).copy()) for i, size in enumerate(sizes)]
    transforms = [
        ClipTransform((20, 33), ()),
        ClipTransform((25, 30), (), (Colour(), Colour(brightness=5.0))),
    ]
    frames = Collator()(pixels, transforms, 2, 32)
    assert frames.shape == (2, 2, 3, 32, 64)
    back = (
        frames * torch.tensor(IMAGENET_STD)[:, None, None]
        + torch.tensor(IMAGENET_MEAN)[:, None, None]
    )
    for b, (h, w) in enumerate([(20, 33), (25, 30)]):
        assert not frames[b, :, :, h:].any()
        assert not frames[b, :, :, :, w:].any()
        grey_levels = (back[b, 0, :, :h, :w] * 255).permute(1, 2, 0)
        torch.testing.assert_close(grey_levels, pixels[2 * b].float(), atol=1e-3, rtol=0)
    assert (back[1, 1, :, :25, :30] * 255).mean() > pixels[3].float().mean()


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it() -> None:
    collate, pixels = Collator(), [torch.full((40, 40, 3), 255, dtype=torch.uint8)]

    def make(side: int) -> torch.Tensor:
        return collate([pixels[0][:side, :side]], [ClipTransform((side, side), ())], 1, 32)

    first = make(40)
    address = first.data_ptr()
    values = first[0, 0, 0, :2].clone()
    view = first[0, 0, 0, :2]
    del first
    second = make(40)
    assert second.data_ptr() != address
    assert torch.equal(view, values)
    del view
    third = make(20)
    assert third.data_ptr() == address
    assert third.shape == (1, 1, 3, 32, 32)
    assert not third[..., 20:].any()
    assert not third[..., 20:, :].any()
