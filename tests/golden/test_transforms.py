"""Sizes, boxes, masks, words, pixels and colours against the published transforms."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards.stream.augment import Augmentation, draw_colours, draw_steps, size_after_resize
from shards.stream.batch import IMAGENET_MEAN, IMAGENET_STD
from shards.stream.collate import Collator, recolour
from shards.stream.decode import FrameDecoder
from shards.stream.expressions import mirror_expression
from shards.stream.geometry import transform_boxes
from shards.stream.targets import mask_box, target_boxes, transform_masks
from shards.stream.transform import (
    ClipTransform,
    Crop,
    Mirror,
    Resize,
    Step,
)
from tests.golden.fixtures import Cases, Entry, blob, compare, hold, read_fixture
from tests.golden.published_draws import COLOUR_DRAWS, STEP_DRAWS, seed_published

GREY = 1 / 255 / 0.225  # a grey level, normalised


@dataclass(frozen=True)
class Clip:
    """The three frames that the reference numbers start from."""

    tables: dict[str, Any]
    arrays: dict[str, Entry]
    frames: np.ndarray
    masks: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.masks.shape[1], self.masks.shape[2]


@pytest.fixture(scope="module")
def clip(golden_dir: Path, cases: Cases, table: Callable[[str], Any]) -> Clip:
    tables = table("data")
    height, width = cases["data"]["frame"]
    k, y, x, c = np.ogrid[:3, :height, :width, :3]
    frames = ((3 * x + 2 * y + 50 * c + 20 * k) % 256).astype(np.uint8)
    masks = np.zeros((3, height, width), bool)
    masks[0] = np.asarray(blob(cases["data"]["mask_seed"], height, width, 1)) > 0
    left, top, right, bottom = (int(v) for v in tables["transforms"]["boxes_in"][2])
    masks[2, top : bottom + 1, left : right + 1] = True
    return Clip(tables, read_fixture(golden_dir / "data.npz"), frames, masks)


@pytest.fixture(scope="module")
def decoder() -> Iterator[FrameDecoder]:
    decoder = FrameDecoder(device="cpu", threads=1, max_frames=3)
    yield decoder
    decoder.close()


def steps_of(clip: Clip, name: str) -> tuple[Step, ...]:
    """What the name of a reference outcome stands for."""
    if name.startswith("resize_"):
        short, longest = name.split("_")[1:]
        max_side = None if longest == "None" else int(longest)
        return (Resize(*size_after_resize(*clip.size, int(short), max_side)),)
    if name.startswith("crop_"):
        source = clip.tables["transforms"]["steps"][name.removesuffix("_check")]
        return (Crop(*source["region_ijhw"]),)
    if name in ("hflip", "random_hflip_p1"):
        return (Mirror(),)
    assert name in ("input", "check_only", "normalize"), f"unknown reference outcome {name}"
    return ()


def outcomes(clip: Clip) -> Iterator[tuple[str, dict[str, Any], ClipTransform]]:
    for name, expected in clip.tables["transforms"]["steps"].items():
        if not name.startswith("pad"):  # padding is the batch's, see test_loader.py
            yield name, expected, ClipTransform(clip.size, steps_of(clip, name))


def decode(
    decoder: FrameDecoder, frames: np.ndarray, transform: ClipTransform
) -> list[torch.Tensor]:
    images = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        images.append(file.getvalue())
    return decoder.decode(images, [transform] * len(images))


def test_sizes(clip: Clip) -> None:
    for width, height, short, longest, out_width, out_height in clip.tables["resize_table"]["rows"]:
        wrong = size_after_resize(height, width, short, longest) != (out_height, out_width)
        hold("size rules, sizes that differ", 0, wrong)
    for width, height, out_width, out_height in clip.tables["inference_resize"]["rows"]:
        assert size_after_resize(height, width, 360, None) == (out_height, out_width)


def test_boxes_of_masks(clip: Clip) -> None:
    mask_boxes = [mask_box(mask) or (0, 0, 0, 0) for mask in clip.masks]
    np.testing.assert_array_equal(mask_boxes, clip.tables["transforms"]["boxes_in"])


def test_geometry(clip: Clip) -> None:
    boxes = np.array(clip.tables["transforms"]["boxes_in"], np.float32)
    checked = 0
    for name, expected, transform in outcomes(clip):
        assert list(transform.size) == expected["size"], name
        mask_boxes = [mask_box(mask) for mask in clip.masks]
        masks = transform_masks(list(clip.masks), mask_boxes, transform)
        assert masks.sum((1, 2)).tolist() == expected["mask_area"], name
        bits = np.packbits(masks.reshape(-1))
        wrong = (bits != clip.arrays[f"{name}/mask_bits"].values).sum()
        hold("transforms, bytes of masks that differ", 0, wrong, name)
        centred, visible = target_boxes(mask_boxes, transform)
        if name.endswith("_check") or name == "check_only":
            assert visible.tolist() == [bool(v) for v in expected["valid"]], name
            checked += 1
        elif name == "normalize":
            visible_boxes = (
                np.array(expected["boxes"]) * visible[:, None]
            )  # a box without width is dropped
            np.testing.assert_allclose(centred, visible_boxes, atol=1e-6)
        else:
            moved = transform_boxes(boxes, transform)
            deviation = np.abs(np.subtract(moved, expected["boxes"])).max()
            hold("transforms, boxes in pixels", 1e-4, deviation, name)
    assert checked


def test_words(clip: Clip) -> None:
    steps = clip.tables["transforms"]["steps"]
    before, after = steps["input"]["caption"], steps["random_hflip_p1"]["caption"]
    assert mirror_expression(before, published=True) == mirror_expression(before) == after


def test_pixels(clip: Clip, decoder: FrameDecoder) -> None:
    for name, expected, transform in outcomes(clip):
        pixels = decode(decoder, clip.frames, transform)
        if name == "normalize":
            continue
        total = sum(int(p.long().sum()) for p in pixels)
        resized_image = name.startswith("resize_")
        group = "transforms, sums of resized pixels" if resized_image else "transforms, sums"
        hold(group, 1e-5 * resized_image, abs(total / expected["image_sum"] - 1), name)
        if f"{name}/frame0" in clip.arrays:  # Pillow's; ours rounds half a level otherwise
            stored = clip.arrays[f"{name}/frame0"]
            levels = pixels[0].numpy().astype(int).reshape(-1)[:: stored.stride]
            deviation = np.abs(levels - stored.values.astype(int).reshape(-1))
            hold("transforms, resized pixels in grey levels", 1, deviation.max(), name)
            hold(
                "transforms, share of resized pixels that differ",
                0.01,
                (deviation > 0).mean(),
                name,
            )


def _reference(frame: np.ndarray, height: int, width: int) -> Image.Image:
    return Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)


def test_normalise(clip: Clip, decoder: FrameDecoder) -> None:
    transform = ClipTransform(clip.size, ())
    pixels = decode(decoder, clip.frames, transform)
    frames = Collator()(pixels, [transform], len(pixels), pad_to=1)[0]
    total = clip.tables["transforms"]["steps"]["normalize"]["image_sum"]
    hold("transforms, normalised pixels", 1e-6, abs(float(frames.double().sum()) / total - 1))
    hold("transforms, normalised pixels", 1e-6, compare(clip.arrays["normalize/frame0"], frames[0]))


def test_colours(clip: Clip) -> None:
    augmentation = Augmentation.video()
    inputs = clip.arrays["photo/input"].values
    outputs = {k: v.values for k, v in clip.arrays.items() if k.startswith("photo/seed")}
    assert outputs
    for name, expected in outputs.items():
        seed_published(int(name.removeprefix("photo/seed")))
        colours = draw_colours(augmentation, len(inputs), COLOUR_DRAWS)
        for frame, colour, published_frame in zip(inputs, colours, expected, strict=True):
            channels = torch.from_numpy(frame).permute(2, 0, 1)[list(colour.channels)]
            ours = recolour(channels.float(), colour)
            recoloured = ours.permute(1, 2, 0).numpy()
            inside = (recoloured > 0) & (
                recoloured < 255
            )  # outside, the published colours wrap around
            assert inside.mean() > 0.3
            deviation = np.abs(np.floor(recoloured) - published_frame)[inside]
            hold("transforms, colours in grey levels", 1, deviation.max(), name)
            wrapped = recolour(channels.float(), colour, wrap=True).permute(1, 2, 0).numpy()
            deviation = np.abs(
                (wrapped - published_frame + 128) % 256 - 128
            )  # 255 and 0 are neighbours
            hold("transforms, published colours in grey levels", 1, deviation.max(), name)


def test_whole_pipeline(clip: Clip, decoder: FrameDecoder) -> None:
    augmentation = Augmentation.video()
    table = clip.tables["train_pipeline"]
    size = re.search(r"(\d+)x(\d+)", table["input"])
    assert size is not None
    width, height = map(int, size.groups())
    frames = np.stack([np.asarray(_reference(frame, height, width)) for frame in clip.frames])
    masks = np.stack(
        [np.asarray(Image.fromarray(mask).resize((width, height), 0)) for mask in clip.masks]
    )
    captions: dict[bool, str] = {}
    for row in table["rows"]:
        seed_published(row["seed"])
        steps = draw_steps(augmentation, (height, width), STEP_DRAWS)
        transform = ClipTransform(
            (height, width), steps, draw_colours(augmentation, 3, COLOUR_DRAWS)
        )
        published = replace(transform, published=True)
        assert list(transform.size) == row["size"]
        mask_boxes = [mask_box(mask) for mask in masks]
        boxes, visible = target_boxes(mask_boxes, transform)
        assert visible.tolist() == [bool(v) for v in row["valid"]]
        np.testing.assert_allclose(boxes[visible], np.array(row["boxes"])[visible], atol=1e-6)
        assert not boxes[~visible].any()
        np.testing.assert_allclose(target_boxes(mask_boxes, published)[0], row["boxes"], atol=1e-6)
        moved = transform_masks(list(masks), mask_boxes, transform)
        assert moved.sum((1, 2)).tolist() == row["mask_area"]
        captions.setdefault(transform.mirrored, row["caption"])
        assert captions[transform.mirrored] == row["caption"]
        hold_pixels(row, collate(decoder, frames, published))
        deviation = (
            (collate(decoder, frames, transform) - step_by_step(frames, transform)).abs().mean()
        )
        hold(
            "transforms, pipeline against Pillow, mean in grey levels",
            0.03,
            (deviation / GREY).item(),
        )
    if len(captions) == 2:
        assert mirror_expression(captions[False]) == captions[True]


def collate(decoder: FrameDecoder, frames: np.ndarray, transform: ClipTransform) -> torch.Tensor:
    return Collator()(decode(decoder, frames, transform), [transform], len(frames), pad_to=1)[0]


def hold_pixels(row: dict[str, Any], published: torch.Tensor) -> None:
    """The reference gives mean and deviation only.

    A frame whose colours stay as they are loses whole grey levels of some pixels on OpenCV's way
    to HSV and back: 0.05 of a level in the mean of a clip with such a frame, otherwise 0.0005.
    """
    for name, statistic in (("mean", published.mean()), ("std", published.std())):
        deviation = abs(float(statistic) - row[name]) / GREY
        hold("transforms, whole pipeline, mean and deviation in grey levels", 0.3, deviation, name)


def step_by_step(frames: np.ndarray, transform: ClipTransform) -> torch.Tensor:
    """Normalised frames by Pillow and NumPy; colours beyond 0 to 255 are clipped."""
    clipped = []
    for frame, colour in zip(frames, transform.colours, strict=True):
        image = Image.fromarray(frame)
        for step in transform.steps:
            if isinstance(step, Mirror):
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            elif isinstance(step, Crop):
                corner = (step.left + step.width, step.top + step.height)
                image = image.crop((step.left, step.top, *corner))
            else:
                image = image.resize((step.width, step.height), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image, np.float64) + colour.brightness).clip(0, 255) * colour.contrast
        highest = pixels.max(-1, keepdims=True)
        pixels = (highest - (highest - pixels) * colour.saturation)[..., list(colour.channels)]
        clipped.append(pixels.clip(0, 255))
    normalised = (
        torch.from_numpy(np.stack(clipped)).float() / 255 - torch.tensor(IMAGENET_MEAN)
    ) / (torch.tensor(IMAGENET_STD))
    return normalised.permute(0, 3, 1, 2)
