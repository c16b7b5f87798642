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

from shards import Batch, ClipLoader, ClipStyle, Expression, Plan, ShardError, ShardSet, build_set
from shards.format.rle import decode_mask
from shards.format.schema import Frame
from shards.stream.augment import Augmentation
from shards.stream.clip_source import MAX_ATTEMPTS
from shards.stream.decode import DEVIATION, MEAN, make_team
from shards.stream.sampling import ClipSampling
from shards.stream.transform import Mirror, Record
from tests.shards.sample_videos import build_toy, make_video

PUBLISHED_SAMPLING = ClipSampling.youtube_vos()
LIGHT_AUGMENTATION = Augmentation.synthetic()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder)
    return str(folder)


def make_loader(sets: Sequence[str | ShardSet], **settings: Any) -> ClipLoader:
    options = {"num_frames": 3, "batch_size": 4, "seed": 5, "style": make_style()}
    return ClipLoader(sets, **(options | settings))


def make_style(
    *,
    sampling: ClipSampling = PUBLISHED_SAMPLING,
    augmentation: Augmentation = LIGHT_AUGMENTATION,
) -> ClipStyle:
    return ClipStyle(sampling=sampling, augmentation=augmentation)


@pytest.fixture
def loaders() -> Iterator[Any]:
    made: list[ClipLoader] = []

    def make(sets: Sequence[str | ShardSet], **settings: Any) -> ClipLoader:
        made.append(make_loader(sets, **settings))
        return made[-1]

    yield make
    for loader in made:
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
            numbers = [frame for _, _, frame in clip.places]
            for t, number in enumerate(numbers):
                frame = video.frames[number]
                pixels = batch.frames[b, t, :, :h, :w].permute(1, 2, 0)
                grey = (pixels * torch.tensor(DEVIATION) + torch.tensor(MEAN)) * 255
                stored = np.asarray(Image.open(io.BytesIO(frame.image)).convert("RGB"))
                np.testing.assert_allclose(grey, stored, atol=1e-3)
                check_target(batch, b, t, frame, expression.objects)
    assert len(seen) > 5


def check_target(batch: Batch, b: int, t: int, frame: Frame, objects: Sequence[str]) -> None:
    h, w = batch.sizes[b].tolist()
    assert bool(batch.annotated[b, t]) == (frame.masks is not None)
    named = [decode_mask(frame.masks[o]) for o in objects if o in (frame.masks or {})]
    union = np.logical_or.reduce(named) if named else np.zeros((h, w), bool)
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
    one, two = loaders([toy]), loaders([toy], expressions=2)
    for single, batch in zip(one, two, strict=True):
        assert torch.equal(single.frames, batch.frames)
        own = [batch.clip_index.tolist().index(b) for b in range(4)]
        assert [batch.expressions[e] for e in own] == single.expressions
        assert torch.equal(batch.masks[own], single.masks)
        assert torch.equal(batch.boxes_cxcywh[own], single.boxes_cxcywh)
        assert single.clip_index.tolist() == [0, 1, 2, 3]
        assert batch.visible.any(1).all()
        videos = {row.key: row for row in two.sets[0].videos}
        for e, b in enumerate(batch.clip_index.tolist()):
            clip = two.source.clip(0, batch.positions[b])
            assert batch.expressions[e] in clip.expressions
            if not clip.record.mirrored:
                texts = [it.text for it in videos[batch.keys[b]].expressions]
                assert batch.expressions[e] in texts
        counts = batch.clip_index.bincount()
        assert counts.max() == 2
        assert all(len(set(two.source.clip(0, p).expressions)) >= 1 for p in batch.positions)


def test_an_epoch_delivers_each_item_once_and_nothing_unseen(toy: str, loaders: Any) -> None:
    loader = loaders([toy], style=make_style(sampling=ClipSampling.image()), num_frames=1)
    batches = list(loader)
    assert len(batches) == len(loader)
    positions = [p for batch in batches for p in batch.positions]
    assert positions == list(range(len(loader) * 4))
    assert all(batch.visible.any(1).all() for batch in batches)
    which, item = loader.source.order(0)
    assert sorted(item) == list(range(len(loader.source)))
    assert not which.any()


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
    wanted = clips_of(list(healthy))
    first = loaders([toy], prefetch=3)
    got = [batch for _, batch in zip(range(2), first, strict=False)]
    state = json.loads(json.dumps(first.state_dict()))
    assert len(json.dumps(state)) < 1000
    pair = [loaders([toy], rank=rank, world_size=2) for rank in (0, 1)]
    for rank in pair:
        rank.load_state_dict(state)
        rank.set_epoch(0)  # as a training loop does; must not rewind
        stream = iter(rank)
        got += [next(stream) for _ in range(3)]
    assert pair[0].state_dict() == pair[1].state_dict()
    last = loaders([toy], threads=2)
    last.load_state_dict(pair[0].state_dict())
    got += list(last)
    assert clips_of(got) == wanted
    assert sum(len(batch.positions) for batch in got) == len(wanted)
    assert (last.state_dict()["epoch"], last.state_dict()["position"]) == (1, 0)


def test_the_next_epoch_differs_and_can_be_gone_to(toy: str, loaders: Any) -> None:
    one, two = loaders([toy]), loaders([toy])
    first, second = list(one), list(one)
    two.set_epoch(1)
    again = list(two)
    assert clips_of(second) == clips_of(again) != clips_of(first)


def test_a_state_moves_with_what_was_taken_not_with_what_was_made(toy: str, loaders: Any) -> None:
    loader = loaders([toy], prefetch=4)
    stream = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(stream)
    for _ in range(100):
        if all(made.done() for made in loader._ahead):
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
            assert {it.state_dict()["position"] for it in ranks} == {4 * step}
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
    here = clips_of(list(loaders([toy], style=make_style(augmentation=plain))))
    batches = list(loaders([toy], style=make_style(augmentation=replace(plain, mirror=1.0))))
    there = clips_of(batches)
    for position, (key, words, _, _, boxes, visible, _) in here.items():
        assert there[position][0] == key
        assert there[position][1] == words.replace("left", "right")
        assert there[position][5] == visible
        for box, mirrored, seen in zip(boxes, there[position][4], visible, strict=True):
            if seen:
                assert mirrored == pytest.approx([1 - box[0], *box[1:]], abs=1e-6)
    assert any("right" in expression for batch in batches for expression in batch.expressions)


def test_training_texts_are_lower_case(toy: str, loaders: Any) -> None:
    lower = replace(Augmentation.none(), lower=True)
    source = loaders([toy], style=make_style(augmentation=lower)).source
    assert source._words("  The  LEFT\tdog ", Record((8, 8), ())) == "the left dog"
    assert source._words("The Left Dog", Record((8, 8), (Mirror(),))) == "the right dog"


class Broken(ShardSet):
    """A set of which one image is damaged in a way that its checksum cannot tell."""

    damage = staticmethod(lambda image: image[:60])

    def read(self, video: int, frames: Sequence[int]) -> list[Frame]:
        read = super().read(video, frames)
        if self.videos[video].key != "toy-04":
            return read
        bad = [frame.name == "00010" for frame in read]
        return [
            replace(frame, image=self.damage(frame.image)) if worse else frame
            for frame, worse in zip(read, bad, strict=True)
        ]


def test_a_broken_image_is_named(toy: str, loaders: Any) -> None:
    loader = loaders([Broken.open(toy)], max_damage=0)
    named = r"more than 0 .*shard \d+, video toy-04, frame 00010: the image does not decode"
    with pytest.raises(ShardError, match=named):
        list(itertools.chain.from_iterable(loader for _ in range(5)))


def test_broken_images_are_replaced_alike_on_all_ranks(toy: str, loaders: Any) -> None:
    healthy, alone = clips_of(list(loaders([toy]))), loaders([Broken.open(toy)])
    delivered = clips_of(list(alone))
    replaced = {p for p, clip in delivered.items() if clip != healthy[p]}
    assert replaced
    assert {healthy[p][0] for p in replaced} == {"toy-04"}
    found = alone.stats()
    assert (found["quarantined"], found["replaced"] >= len(replaced)) == (1, True)
    head, reason = alone.report().splitlines()
    assert head.startswith("1 damaged frames or shards, ")
    assert "video toy-04, frame 00010: the image does not decode" in reason
    pair = [loaders([Broken.open(toy)], rank=rank, world_size=2) for rank in (0, 1)]
    assert clips_of([batch for rank in pair for batch in rank]) == delivered


def test_an_object_that_no_crop_shows_ends_training(toy: str, loaders: Any) -> None:
    loader = loaders([toy])
    loader.source._try_item = lambda *_: None
    with pytest.raises(ShardError, match=f"{MAX_ATTEMPTS} clips in a row show no object"):
        next(iter(loader))


def test_a_hidden_clip_is_replaced_by_rule(toy: str, loaders: Any) -> None:
    loader = loaders([toy])
    honest, refused = loader.source._try_item, []

    def refuse(number: int, item: int, at: tuple[int, int, int]) -> Any:
        _, position, attempt = at
        if position == 1 and attempt < 2:
            refused.append(item)
            return None
        return honest(number, item, at)

    loader.source._try_item = refuse
    clips = [loader.source.clip(0, 1) for _ in range(2)]
    assert len({(clip.key, clip.record, clip.expressions) for clip in clips}) == 1
    assert refused[:2] == refused[2:]
    assert len(set(refused)) > 1


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


def test_torch_works_alone_in_the_thread_that_makes_batches() -> None:
    def count() -> int:
        torch.zeros(1 << 18).mul_(2)  # the first work of a thread sets up its pool
        return torch.get_num_threads()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with make_team(1) as team:
            assert team.submit(count).result() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_set_without_targets_is_refused(tmp_path: Path) -> None:
    hidden = replace(make_video("secret"), expressions=(Expression("0", "the dog", ()),))
    plans = [Plan("secret", 1)]
    build_set(plans, lambda _: hidden, str(tmp_path), dataset="toy", split="test", settings={})
    with pytest.raises(ShardError, match="no expression has a visible object"):
        make_loader([str(tmp_path)])
