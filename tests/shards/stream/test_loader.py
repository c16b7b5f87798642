import io
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards import (
    Batch,
    ClipLoader,
    ClipStyle,
    Expression,
    Plan,
    ShardError,
    ShardSet,
    Video,
    build_set,
    encode_mask,
)
from shards.format.rle import decode_mask
from shards.format.schema import Frame
from shards.stream.augment import Augmentation
from shards.stream.batch import IMAGENET_MEAN, IMAGENET_STD
from shards.stream.clip_source import MAX_ATTEMPTS
from shards.stream.order import REPLACEMENT, Draws
from shards.stream.sampling import ClipSampling
from tests.shards.sample_videos import build_toy, make_video

PUBLISHED_SAMPLING = ClipSampling.youtube_vos()
LIGHT_AUGMENTATION = Augmentation.synthetic()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder)
    return str(folder)


def make_loader(
    sets: Sequence[str | ShardSet],
    *,
    num_frames: int = 3,
    batch_size: int = 4,
    seed: int = 5,
    style: ClipStyle | str | None = None,
    **settings: Any,
) -> ClipLoader:
    return ClipLoader(
        sets,
        num_frames=num_frames,
        batch_size=batch_size,
        seed=seed,
        style=make_style() if style is None else style,
        **settings,
    )


def make_style(
    *,
    sampling: ClipSampling = PUBLISHED_SAMPLING,
    augmentation: Augmentation = LIGHT_AUGMENTATION,
) -> ClipStyle:
    return ClipStyle(sampling=sampling, augmentation=augmentation)


@pytest.fixture
def loaders() -> Iterator[Any]:
    opened: list[ClipLoader] = []

    def make(sets: Sequence[str | ShardSet], **settings: Any) -> ClipLoader:
        loader = make_loader(sets, **settings)
        opened.append(loader)
        return loader

    yield make
    for loader in opened:
        loader.close()


def clips_of(batches: Sequence[Batch]) -> dict[int, tuple[Any, ...]]:
    """Each clip by its position: all that was delivered, padding apart."""
    clips = {}
    for batch in batches:
        for b, position in enumerate(batch.positions):
            h, w = batch.sizes[b].tolist()
            clips[position] = (
                batch.keys[b],
                batch.expressions[b],
                batch.frames[b, ..., :h, :w].numpy().tobytes(),
                batch.masks[b, ..., :h, :w].numpy().tobytes(),
                batch.boxes_cxcywh[b].tolist(),
                batch.visible[b].tolist(),
                batch.annotated[b].tolist(),
            )
    return clips


def test_a_batch_says_what_is_in_the_shards(toy: str, loaders: Any) -> None:
    loader = loaders(
        [toy],
        style=make_style(
            sampling=ClipSampling.synthetic(),
            augmentation=Augmentation.none(),
        ),
    )
    rows = {row.key: i for i, row in enumerate(loader.sets[0].videos)}
    seen = set()
    for batch in loader:
        assert batch.frames.shape == (4, 3, 3, 64, 64)
        assert batch.frames.dtype == torch.float32
        for b, position in enumerate(batch.positions):
            clip = loader.source.clip(0, position)
            seen.add(clip.key)
            video = loader.sets[0].video(rows[clip.key])
            h, w = batch.sizes[b].tolist()
            assert (h, w) == (video.height, video.width)
            assert batch.padding[b].sum() == 64 * 64 - h * w
            assert not batch.padding[b, :h, :w].any()
            assert not batch.frames[b][..., batch.padding[b]].any()
            assert not batch.masks[b][..., batch.padding[b]].any()
            expression = next(e for e in video.expressions if e.text == batch.expressions[b])
            numbers = [frame for _, _, frame in clip.frame_keys]
            for t, number in enumerate(numbers):
                frame = video.frames[number]
                pixels = batch.frames[b, t, :, :h, :w].permute(1, 2, 0)
                grey = (pixels * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)) * 255
                stored = np.asarray(Image.open(io.BytesIO(frame.image)).convert("RGB"))
                np.testing.assert_allclose(grey, stored, atol=1e-3)
                check_target(batch, b, t, frame, expression.objects)
    assert len(seen) > 5


def check_target(batch: Batch, b: int, t: int, frame: Frame, objects: Sequence[str]) -> None:
    h, w = batch.sizes[b].tolist()
    assert bool(batch.annotated[b, t]) == (frame.masks is not None)
    rles = frame.masks or {}
    masks = [decode_mask(rles[o]) for o in objects if o in rles]
    union = np.logical_or.reduce(masks) if masks else np.zeros((h, w), bool)
    np.testing.assert_array_equal(batch.masks[b, t, :h, :w], union)
    assert bool(batch.visible[b, t]) == union.any()
    if union.any():
        y, x = np.nonzero(union)
        low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
        box = [*(low + high) / 2 / (w, h), *(high - low) / (w, h)]
        np.testing.assert_allclose(batch.boxes_cxcywh[b, t], box, rtol=1e-5)
    else:
        assert not batch.boxes_cxcywh[b, t].any()


def test_further_expressions_of_a_clip_come_with_their_own_targets(toy: str, loaders: Any) -> None:
    single_loader = loaders([toy])
    pair_loader = loaders([toy], expressions=2)
    for single, batch in zip(single_loader, pair_loader, strict=True):
        assert torch.equal(single.frames, batch.frames)
        own = [batch.clip_index.tolist().index(b) for b in range(4)]
        assert [batch.expressions[e] for e in own] == single.expressions
        assert torch.equal(batch.masks[own], single.masks)
        assert torch.equal(batch.boxes_cxcywh[own], single.boxes_cxcywh)
        assert single.clip_index.tolist() == [0, 1, 2, 3]
        assert batch.visible.any(1).all()
        videos = {row.key: row for row in pair_loader.sets[0].videos}
        for e, b in enumerate(batch.clip_index.tolist()):
            clip = pair_loader.source.clip(0, batch.positions[b])
            assert batch.expressions[e] in clip.expressions
            if not clip.transform.mirrored:
                row = videos[batch.keys[b]]
                assert batch.expressions[e] in [expression.text for expression in row.expressions]
        counts = batch.clip_index.bincount()
        assert counts.max() == 2
        for position in batch.positions:
            clip = pair_loader.source.clip(0, position)
            assert len(clip.expressions) == len(clip.masks) <= 2


def test_an_epoch_delivers_each_item_once_and_nothing_unseen(toy: str, loaders: Any) -> None:
    loader = loaders([toy], style=make_style(sampling=ClipSampling.image()), num_frames=1)
    batches = list(loader)
    assert len(batches) == len(loader)
    positions = [p for batch in batches for p in batch.positions]
    assert positions == list(range(len(loader) * 4))
    assert all(batch.visible.any(1).all() for batch in batches)
    set_indices, item_indices = loader.source.epoch_order(0)
    assert sorted(item_indices) == list(range(len(loader.source)))
    assert not set_indices.any()


@pytest.mark.parametrize("world_size", [2, 4])
def test_clips_are_the_same_for_every_number_of_ranks(
    toy: str, loaders: Any, world_size: int
) -> None:
    alone = loaders([toy, toy], weights=[2, 1])
    ranks = [
        loaders([toy, toy], weights=[2, 1], rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    delivered = [list(rank) for rank in ranks]
    assert {len(batches) for batches in delivered} == {len(alone)}
    assert clips_of([b for batches in delivered for b in batches]) == clips_of(list(alone))


def test_resuming_twice_on_other_ranks_loses_and_repeats_nothing(toy: str, loaders: Any) -> None:
    healthy = loaders([toy])
    expected = clips_of(list(healthy))
    first = loaders([toy], prefetch=3)
    delivered = [batch for _, batch in zip(range(2), first, strict=False)]
    state = json.loads(json.dumps(first.state_dict()))
    assert len(json.dumps(state)) < 1000
    pair = [loaders([toy], rank=rank, world_size=2) for rank in (0, 1)]
    for rank in pair:
        rank.load_state_dict(state)
        rank.set_epoch(0)  # as a training loop does; must not rewind
        stream = iter(rank)
        delivered += [next(stream) for _ in range(3)]
    assert pair[0].state_dict() == pair[1].state_dict()
    last = loaders([toy], threads=2)
    last.load_state_dict(pair[0].state_dict())
    delivered += list(last)
    assert clips_of(delivered) == expected
    assert sum(len(batch.positions) for batch in delivered) == len(expected)
    assert (last.state_dict()["epoch"], last.state_dict()["position"]) == (1, 0)


def test_the_next_epoch_differs_and_can_be_gone_to(toy: str, loaders: Any) -> None:
    loader = loaders([toy])
    first_epoch = list(loader)
    second_epoch = list(loader)
    moved_loader = loaders([toy])
    moved_loader.set_epoch(1)
    assert clips_of(second_epoch) == clips_of(list(moved_loader))
    assert clips_of(second_epoch) != clips_of(first_epoch)


def test_a_state_moves_with_what_was_taken_not_with_what_was_made(toy: str, loaders: Any) -> None:
    loader = loaders([toy], prefetch=4)
    stream = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(stream)
    for _ in range(100):
        if all(future.done() for future in loader._ahead):
            break
        threading.Event().wait(0.05)
    assert loader.state_dict()["position"] == 4
    next(stream)
    assert loader.state_dict()["position"] == 8


def test_a_step_in_parts_has_the_same_clips_and_moves_the_state_once(
    toy: str, loaders: Any
) -> None:
    whole = clips_of(list(loaders([toy])))
    ranks = [loaders([toy], parts=2, rank=rank, world_size=2) for rank in (0, 1)]
    streams = [iter(loader) for loader in ranks]
    for step in range(len(ranks[0])):
        for part in (0, 1):
            assert {loader.state_dict()["position"] for loader in ranks} == {4 * step}
            batches = [next(stream) for stream in streams]
            assert [b.positions for b in batches] == [[4 * step + 2 * part + r] for r in (0, 1)]
            assert all(whole[p] == clip for p, clip in clips_of(batches).items())
    assert ranks[0].state_dict()["epoch"] == 1
    with pytest.raises(ValueError, match="cannot be shared by 6 processes"):
        loaders([toy], parts=3, rank=0, world_size=2)


def test_states_of_other_data_and_settings_are_refused(
    toy: str, loaders: Any, tmp_path: Path
) -> None:
    state = loaders([toy]).state_dict()
    build_toy(tmp_path, settings={"a": 2})
    with pytest.raises(ShardError, match="manifest changed"):
        loaders([str(tmp_path)]).load_state_dict(state)
    with pytest.raises(ShardError, match="sampling settings"):
        loaders([toy], num_frames=2).load_state_dict(state)
    with pytest.raises(ShardError, match="seed 5, this loader 6"):
        loaders([toy], seed=6).load_state_dict(state)


def test_settings_are_checked(toy: str) -> None:
    with pytest.raises(ValueError, match="cannot be shared by 3"):
        make_loader([toy], world_size=3)
    with pytest.raises(ValueError, match="must be >= 1"):
        make_loader([toy], num_frames=0)
    with pytest.raises(ValueError, match="must be >= 1"):
        make_loader([])
    with pytest.raises(ValueError, match="1 shard sets need as many weights"):
        make_loader([toy], weights=[1, 2])


def test_mirrored_clips_carry_mirrored_words_and_boxes(toy: str, loaders: Any) -> None:
    plain = Augmentation.none()
    originals = clips_of(list(loaders([toy], style=make_style(augmentation=plain))))
    batches = list(loaders([toy], style=make_style(augmentation=replace(plain, mirror=1.0))))
    mirrored = clips_of(batches)
    for position, (key, expression, _, _, boxes, visible, _) in originals.items():
        assert mirrored[position][0] == key
        assert mirrored[position][1] == expression.replace("left", "right")
        assert mirrored[position][5] == visible
        for box, mirrored_box, is_visible in zip(
            boxes, mirrored[position][4], visible, strict=True
        ):
            if is_visible:
                assert mirrored_box == pytest.approx([1 - box[0], *box[1:]], abs=1e-6)
    assert any("right" in expression for batch in batches for expression in batch.expressions)


def test_training_texts_are_lower_case(toy: str, loaders: Any) -> None:
    lower = replace(Augmentation.none(), lower=True)
    plain = {
        position: clip[1]
        for position, clip in clips_of(
            list(loaders([toy], style=make_style(augmentation=Augmentation.none())))
        ).items()
    }
    lowered = clips_of(list(loaders([toy], style=make_style(augmentation=lower))))
    assert {position: clip[1] for position, clip in lowered.items()} == {
        position: expression.lower() for position, expression in plain.items()
    }


class Broken(ShardSet):
    """A set of which one image is damaged in a way that its checksum cannot tell."""

    damage = staticmethod(lambda image: image[:60])

    def read(self, video: int, frames: Sequence[int]) -> list[Frame]:
        read_frames = super().read(video, frames)
        if self.videos[video].key != "toy-04":
            return read_frames
        return [
            replace(frame, image=self.damage(frame.image)) if frame.name == "00010" else frame
            for frame in read_frames
        ]


def test_a_broken_image_is_named(toy: str, loaders: Any) -> None:
    loader = loaders([Broken.open(toy)], max_damage=0)
    message = r"more than 0 .*shard \d+, video toy-04, frame 00010: the image does not decode"
    with pytest.raises(ShardError, match=message):
        list(itertools.chain.from_iterable(loader for _ in range(5)))


def test_broken_images_are_replaced_alike_on_all_ranks(toy: str, loaders: Any) -> None:
    healthy = clips_of(list(loaders([toy])))
    alone = loaders([Broken.open(toy)])
    delivered = clips_of(list(alone))
    replaced = {p for p, clip in delivered.items() if clip != healthy[p]}
    assert replaced
    assert {healthy[p][0] for p in replaced} == {"toy-04"}
    stats = alone.stats()
    assert stats["quarantined"] == 1
    assert stats["replaced"] >= len(replaced)
    head, reason = alone.report().splitlines()
    assert head.startswith("1 damaged frames or shards, ")
    assert "video toy-04, frame 00010: the image does not decode" in reason
    pair = [loaders([Broken.open(toy)], rank=rank, world_size=2) for rank in (0, 1)]
    assert clips_of([batch for rank in pair for batch in rank]) == delivered


def thin_video(key: str) -> Video:
    """A video whose objects are a pixel wide: their boxes have no width, no clip shows them."""
    video = make_video(key)
    frames = []
    for frame in video.frames:
        masks = None
        if frame.masks is not None:
            column = np.zeros((video.height, video.width), bool)
            column[2:9, 5] = True
            masks = {name: encode_mask(column) for name in frame.masks}
        frames.append(replace(frame, masks=masks))
    return replace(video, frames=frames)


def build_mixed(folder: Path, thin: Sequence[str], wide: Sequence[str]) -> str:
    videos = {key: thin_video(key) for key in thin} | {key: make_video(key) for key in wide}
    plans = [Plan(key, 1) for key in videos]
    build_set(plans, videos.__getitem__, str(folder), dataset="toy", split="train", settings={})
    return str(folder)


def test_an_object_that_no_crop_shows_ends_training(tmp_path: Path, loaders: Any) -> None:
    loader = loaders([build_mixed(tmp_path, thin=["a", "b"], wide=[])])
    with pytest.raises(ShardError, match=f"{MAX_ATTEMPTS} clips in a row show no object"):
        next(iter(loader))


def test_a_hidden_clip_is_replaced_by_rule(tmp_path: Path, loaders: Any) -> None:
    thin = {"a", "b", "c"}
    url = build_mixed(tmp_path, thin=sorted(thin), wide=["d"])
    source = loaders([url], style=make_style(augmentation=Augmentation.none())).source
    again = loaders([url], style=make_style(augmentation=Augmentation.none())).source
    (items,) = source.items
    videos = source.sets[0].videos
    _, order = source.epoch_order(0)
    attempts = []
    for position in reversed(range(len(source))):
        item = int(order[position])
        attempt = 0
        while videos[int(items.video[item])].key in thin:
            attempt += 1
            draws = Draws(5, REPLACEMENT, 0, position, attempt)
            item = draws.integer(0, len(items) - 1)
        attempts.append(attempt)
        row = videos[int(items.video[item])]
        clip = source.clip(0, position)
        assert clip.key == row.key == "d"
        assert clip.expressions[0] == row.expressions[int(items.expression[item])].text
        same = again.clip(0, position)
        assert (clip.transform, clip.expressions) == (same.transform, same.expressions)
        assert clip.frame_keys == same.frame_keys
    assert {0, 1, 2} <= set(attempts)  # else this test would show little


def test_leaving_and_closing_end_all_threads(toy: str) -> None:
    before = set(threading.enumerate())
    threads = torch.get_num_threads()
    loader = make_loader([toy])
    for _ in range(2):
        for _ in loader:
            break
    next(iter(loader))
    loader.close()
    assert not set(threading.enumerate()) - before
    assert torch.get_num_threads() == threads


def test_a_set_without_targets_is_refused(tmp_path: Path) -> None:
    hidden = replace(make_video("secret"), expressions=(Expression("0", "the dog", ()),))
    plans = [Plan("secret", 1)]
    build_set(plans, lambda _: hidden, str(tmp_path), dataset="toy", split="test", settings={})
    with pytest.raises(ShardError, match="no expression has a visible object"):
        make_loader([str(tmp_path)])
