"""Damaged frames and shards are put aside, up to a budget."""

import pytest

from shards.errors import ShardError
from shards.stream.quarantine import FrameKey, Quarantine, ShardKey


def test_a_part_counts_once_and_is_reported_with_its_first_reason() -> None:
    quarantine = Quarantine(budget=2)
    quarantine.add(FrameKey(0, 1, 2), "frame 2 is damaged")
    quarantine.add(FrameKey(0, 1, 2), "frame 2 is damaged again")
    quarantine.add(ShardKey(0, 1), "a shard is gone")
    quarantine.count_replaced()
    assert len(quarantine) == 2
    summary, *reasons = quarantine.report().splitlines()
    assert summary == "2 damaged frames or shards, 1 clips replaced"
    assert reasons == ["a shard is gone", "frame 2 is damaged"]


def test_frames_and_shards_of_equal_numbers_differ() -> None:
    quarantine = Quarantine(budget=2)
    quarantine.add(ShardKey(0, 1), "a shard is gone")
    assert quarantine.holds_any([FrameKey(0, 0, 0), ShardKey(0, 1)])
    assert not quarantine.holds_any([FrameKey(0, 1, 0), ShardKey(1, 0)])


def test_more_damage_than_the_budget_ends_training() -> None:
    quarantine = Quarantine(budget=1)
    quarantine.add(FrameKey(0, 0, 0), "one")
    with pytest.raises(ShardError, match=r"more than 1 frames and shards.*the last: two"):
        quarantine.add(FrameKey(0, 0, 1), "two")
