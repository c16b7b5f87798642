"""Official files: what is whole is read as it is, what is not is named in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from preprocess.official_files import (
    as_shard_error,
    data_folder,
    read_jpeg,
    read_masks,
    read_rows,
    video_folder,
)
from shards.errors import ShardError
from shards.format.rle import decode_mask
from tests.preprocess.conftest import jpeg, write


def test_any_error_becomes_one_that_names_the_file() -> None:
    message = r"^x.json is odd \(KeyError: 'frames'\); mend it$"
    mending = as_shard_error("x.json is odd", "mend it")
    with pytest.raises(ShardError, match=message) as raised, mending:
        raise KeyError("frames")
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(ShardError, match=r"^as it was$"), as_shard_error("x.json is odd"):
        raise ShardError("as it was")


def test_a_data_set_is_found_in_its_own_folder_or_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "mevis/valid").mkdir(parents=True)
    expected = tmp_path / "mevis/valid"
    assert data_folder("MeViS", tmp_path, "mevis", "valid") == expected
    assert data_folder("MeViS", tmp_path / "mevis", "mevis", "valid") == expected
    with pytest.raises(ShardError, match=r"no MeViS: there is no folder .* nor .*; check --root"):
        data_folder("MeViS", tmp_path, "mevis", "train")


def test_a_video_is_looked_for_in_every_tree(tmp_path: Path) -> None:
    trees = [tmp_path / "480p", tmp_path]
    (tmp_path / "dog").mkdir()
    assert video_folder("masks", "dog", trees) == tmp_path / "dog"
    (tmp_path / "480p/dog").mkdir(parents=True)
    assert video_folder("masks", "dog", trees) == tmp_path / "480p/dog"


def test_only_the_last_column_of_a_table_may_have_commas(tmp_path: Path) -> None:
    table = write(tmp_path / "table.txt", 'video,query\r\na,"left, \r\n\r\nb,two\r\n')
    assert read_rows(table, "video,query") == [["a", '"left, '], ["b", "two"]]
    write(table, "video,query\na\n")
    with pytest.raises(ShardError, match=r"table.txt is no table with the columns video,query"):
        read_rows(table, "video,query")


def test_a_jpeg_is_whole_or_refused(tmp_path: Path) -> None:
    content = jpeg(20, 30)
    path = write(tmp_path / "frame.jpg", content)
    assert read_jpeg(path) == (content, (20, 30))
    write(path, content + bytes(100))  # padding
    assert read_jpeg(path) == (content + bytes(100), (20, 30))
    write(path, content[:-2])
    with pytest.raises(ShardError, match=r"frame.jpg is cut short"):
        read_jpeg(path)
    write(path, b"GIF89a")
    with pytest.raises(ShardError, match=r"frame.jpg is no readable JPEG"):
        read_jpeg(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.sampled_from([0, 0, 1, 2, 7, 200, 255]),
    )
)
def test_every_label_map_survives(tmp_path: Path, labels: np.ndarray) -> None:
    masks = read_masks(write(tmp_path / "labels.png", labels))
    rebuilt = np.zeros_like(labels)
    for name, rle in masks.items():
        rebuilt[decode_mask(rle)] += np.uint8(int(name))
    np.testing.assert_array_equal(rebuilt, labels)
