import math
import random

from shards.build.plan import Plan, spread


def test_spread_is_even_seeded_and_complete() -> None:
    sizes = random.Random(0)
    plans = [Plan(f"v{number}", sizes.randint(1, 40)) for number in range(1000)]
    groups = spread(plans, 500, 0)
    totals = [sum(plan.num_bytes for plan in group) for group in groups]
    dealt = [plan.key for group in groups for plan in group]
    assert sorted(dealt) == sorted(plan.key for plan in plans)
    assert len(groups) == math.ceil(sum(totals) / 500)
    assert max(totals) <= 540
    assert min(totals[:-1]) >= 440
    assert groups != spread(plans, 500, 1)
    assert groups == spread(plans[::-1], 500, 0)


def test_a_video_larger_than_a_shard_leaves_no_shard_empty() -> None:
    groups = spread([Plan("a", 10_000), Plan("b", 1)], 100, 0)
    assert [len(group) for group in groups] == [1, 1]


def test_a_video_of_no_bytes_gets_a_shard() -> None:
    assert spread([Plan("a", 0)], 100, 0) == [(Plan("a", 0),)]
