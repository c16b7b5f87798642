"""A partial resize makes the pixels of the whole one."""

import numpy as np
import torch

from shards.stream.reshape import reshape
from shards.stream.transform import ClipTransform, Crop, Resize
from tests.shards.stream.pictures import picture


def test_a_resize_before_a_crop_makes_what_the_whole_resize_makes() -> None:
    draw = np.random.default_rng(3).integers
    for old, new in [((48, 64), (60, 90)), ((90, 70), (41, 33)), ((99, 98), (100, 99))] * 12:
        image, size = torch.from_numpy(picture(0, old).copy()), draw(4, np.add(new, 1))
        top, left = draw(0, np.subtract(new, size) + 1)
        crop = Crop(int(top), int(left), *map(int, size))
        partial = reshape(image, ClipTransform(old, (Resize(*new), crop))).int()
        whole = reshape(image, ClipTransform(old, (Resize(*new),))).int()[top:, left:]
        distance = (partial - whole[: crop.height, : crop.width]).abs().float()
        assert distance.mean() < 0.5
        assert distance.max() <= 2
