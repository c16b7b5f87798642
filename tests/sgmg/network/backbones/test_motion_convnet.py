import torch

from sgmg.network.backbones.motion_convnet import MotionConvNet, NeighbourCorrelation
from tests.sgmg.network.backbones.small import random_input


def test_a_still_clip_shows_no_motion() -> None:
    layer = NeighbourCorrelation(8, radius=2)
    image = random_input(1, 8, 6, 7)
    still_clip = image.expand(3, -1, -1, -1)
    expected = layer(image, num_frames=1).expand(3, -1, -1, -1)
    torch.testing.assert_close(layer(still_clip, num_frames=3), expected)


def test_motion_is_seen_and_the_clip_played_backwards_moves_otherwise() -> None:
    layer = NeighbourCorrelation(8, radius=2)
    image = random_input(8, 6, 7)
    clip = torch.stack([image, image.roll(1, dims=2), image.roll(2, dims=2)])
    motion = layer(clip, num_frames=3) - clip
    reversed_motion = layer(clip.flip(0), num_frames=3).flip(0) - clip
    assert not torch.allclose(motion, layer(clip[:1], num_frames=1) - clip[:1], atol=1e-3)
    assert not torch.allclose(motion, reversed_motion, atol=1e-3)


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    network = MotionConvNet().eval()
    clips = random_input(2, 3, 3, 64, 64)
    batch_maps = network(clips)
    clip_maps = network(clips[1:])
    for batch_map, clip_map in zip(batch_maps, clip_maps, strict=True):
        torch.testing.assert_close(batch_map[3:], clip_map, rtol=1e-4, atol=1e-4)
