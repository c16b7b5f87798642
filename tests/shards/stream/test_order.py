import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.stream.order import (
    Draws,
    Items,
    State,
    epoch_order,
    quotas,
    rank_slots,
)

PINNED = [172, 187, 231, 986, 873, 401]


def make_items(num_videos: int, max_items: int, num_shards: int, seed: int = 0) -> Items:
    counts = np.random.default_rng(seed).integers(1, max_items + 1, num_videos)
    video = np.repeat(np.arange(num_videos), counts)
    return Items(
        video, np.zeros_like(video), np.zeros_like(video), video * num_shards // num_videos
    )


def same_video_pairs(videos: np.ndarray, batch_size: int) -> int:
    batches = videos[: len(videos) // batch_size * batch_size].reshape(-1, batch_size)
    equal = batches[:, :, None] == batches[:, None, :]
    return int(equal.sum() - equal.shape[0] * batch_size) // 2


def test_draws_are_the_same_on_every_machine() -> None:
    draws = Draws(7, 2, 3, 11, 1)
    assert [draws.integer(0, 999) for _ in range(6)] == PINNED
    assert [Draws(7, 2, 3, 11, 1).integer(0, 999) for _ in range(2)] == PINNED[:1] * 2


def test_streams_do_not_touch_one_another() -> None:
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 0, 1), (1, 0, 0, 0, 1)]
    keys = [key + (0,) * (5 - len(key)) for key in keys]
    assert len({tuple(Draws(*key).permutation(20)) for key in keys}) == len(keys)


def test_draws_keep_their_bounds() -> None:
    draws = Draws(0, 0, 0)
    assert {draws.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert all(-1.0 <= draws.uniform(-1, 1) < 1.0 for _ in range(100))
    assert sorted(draws.sample(range(6), 6)) == list(range(6))
    assert 350 < sum(draws.chance(0.4) for _ in range(1000)) < 450
    assert not any(draws.chance(0.0) for _ in range(100))
    assert all(draws.chance(1.0) for _ in range(100))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_holds_each_item_once(videos: int, shards: int, block: int, epoch: int) -> None:
    items = make_items(videos, 5, shards)
    set_indices, item_indices = epoch_order([items], [len(items)], 5, epoch, block_shards=block)
    assert not set_indices.any()
    assert sorted(item_indices) == list(range(len(items)))


def test_order_follows_seed_and_epoch_alone() -> None:
    sets = [make_items(20, 5, 3), make_items(30, 5, 4, 1)]
    takes = [len(items) for items in sets]

    def epoch_list(seed: int, epoch: int) -> list[int]:
        set_indices, item_indices = epoch_order(sets, takes, seed, epoch, block_shards=2)
        return [*set_indices, *item_indices]

    first = epoch_list(0, 4)
    epoch_list(0, 3)
    assert epoch_list(0, 4) == first
    assert epoch_list(1, 4) != first != epoch_list(0, 5)


def test_weights_share_an_epoch_and_favour_no_item() -> None:
    sets = [make_items(10, 5, 1), make_items(40, 5, 1, 1)]
    sizes = [len(items) for items in sets]
    takes = quotas(sizes, [3, 1])
    assert sum(takes) == sum(sizes)
    assert takes[0] == round(0.75 * sum(sizes))
    counts = [np.zeros(size, int) for size in sizes]
    for epoch in range(7):
        set_indices, item_indices = epoch_order(sets, takes, 0, epoch)
        for number in (0, 1):
            np.add.at(counts[number], item_indices[set_indices == number], 1)
            ahead = counts[number].max() - counts[number].min()
            assert ahead <= 1
    assert quotas(sizes, None) == sizes
    assert quotas(sizes, [0, 2]) == [0, sum(sizes)]


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_weights_that_do_not_fit(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="2 shard sets need as many weights"):
        quotas([3, 4], weights)


def test_blocks_keep_reads_local_and_shuffle_like_a_full_permutation() -> None:
    items = make_items(600, 30, 12)
    pairs, moved = {}, {}
    for block in (0, 4):
        orders = [
            epoch_order([items], [len(items)], seed, 0, block_shards=block)[1] for seed in range(6)
        ]
        pairs[block] = sum(same_video_pairs(items.video[order], 16) for order in orders)
        moved[block] = np.mean([np.abs(order - np.arange(len(order))) for order in orders])
        shards = [len(set(items.shard[order[:2000]])) for order in orders]
        assert max(shards) <= 4 if block else min(shards) == 12
    assert pairs[4] == pytest.approx(pairs[0], rel=0.12)
    assert moved[4] == pytest.approx(moved[0], rel=0.1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_ranks_share_a_batch(world_size: int) -> None:
    shares = [rank_slots(36, 12, rank, world_size) for rank in range(world_size)]
    assert [slot for share in shares for slot in share] == list(range(36, 48))
    assert len({len(share) for share in shares}) == 1


def test_ranks_that_cannot_share() -> None:
    with pytest.raises(ValueError, match="batch of 8 cannot be shared by 3"):
        rank_slots(0, 8, 0, 3)
    with pytest.raises(ValueError, match="rank 2"):
        rank_slots(0, 8, 2, 2)


def test_state_is_small_and_tied_to_its_stream() -> None:
    state = State("a" * 64, "b" * 16, 2**62, 10**6, 10**9)
    saved = json.loads(json.dumps(asdict(state)))
    assert len(json.dumps(saved)) < 1000
    assert State.restore(saved, replace(state, epoch=0, position=0)) == state
    with pytest.raises(ShardError, match="a manifest changed"):
        State.restore(saved, replace(state, manifests="c"))
    with pytest.raises(ShardError, match="sampling settings"):
        State.restore(saved, replace(state, settings="c"))
    with pytest.raises(ShardError, match="this loader 1"):
        State.restore(saved, replace(state, seed=1))
    with pytest.raises(ShardError, match="not the state of a loader"):
        State.restore({"epoch": 1}, state)
