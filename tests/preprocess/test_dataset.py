"""Sources against what is published, and the data sets of the registry."""

import re
from pathlib import Path

import pytest

from preprocess.build_shards import DATASETS
from preprocess.dataset import LeftOut, ListCount, PublishedCounts, ReadOptions, Source
from shards.build.plan import Plan
from shards.errors import ShardError
from shards.format.schema import Video


def read_nothing(key: str) -> Video:
    raise AssertionError(key)


def make_source(
    published: PublishedCounts, lists: tuple[ListCount, ...] = (), left_out: int = 0
) -> Source:
    """A source of two videos and five expressions."""
    return Source(
        dataset="data",
        split="val",
        plans=(Plan("a", 1), Plan("b", 1)),
        read=read_nothing,
        num_expressions=5,
        published=published,
        lists=lists,
        left_out=LeftOut(videos=left_out, expressions=left_out),
    )


@pytest.mark.parametrize(
    "source",
    [
        make_source(PublishedCounts()),
        make_source(PublishedCounts(videos=2)),
        make_source(PublishedCounts(videos=2, expressions=(4, 5))),
        make_source(PublishedCounts(videos=3, expressions=6), left_out=1),
        make_source(PublishedCounts(videos=2), (ListCount("rows", 7, 7),)),
    ],
)
def test_published_numbers_make_a_source_complete(source: Source) -> None:
    source.check_complete()
    assert not source.is_partial


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (make_source(PublishedCounts(videos=3)), "has 2 videos, published are 3: complete the"),
        (
            make_source(PublishedCounts(expressions=(6, 7))),
            "has 5 expressions, published are 6 or 7",
        ),
        (make_source(PublishedCounts(videos=2), left_out=1), "has 3 videos, published are 2"),
        (make_source(PublishedCounts(), (ListCount("rows", 6, 7),)), "has 6 rows, published are 7"),
    ],
)
def test_any_other_number_is_named(source: Source, message: str) -> None:
    assert source.is_partial
    with pytest.raises(ShardError, match=re.escape(f"data val {message}")):
        source.check_complete()


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_opens_each_of_its_splits_and_misses_its_files(
    tmp_path: Path, name: str
) -> None:
    dataset = DATASETS[name]
    assert dataset.splits
    for split in dataset.splits:
        with pytest.raises(ShardError, match=r"check --root"):
            dataset.open(tmp_path, split, ReadOptions(filter_leaks=False, quality=95))
