from pathlib import Path

import pytest

from sgmg.training.journal import LossTable, progress_columns


def test_rows_of_updates_to_come_and_half_rows_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = LossTable(path)
    table.forget_after(0)  # there is nothing yet
    assert not path.exists()
    for step in (1, 2, 3):
        table.add(step, {"total": step / 2, "lr": 0.1})
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"4,2.")  # a process was killed while it wrote
    table.forget_after(4)
    assert path.read_bytes() == whole
    table.forget_after(2)
    table.add(3, {"total": 1.5, "lr": 0.1})
    assert path.read_bytes() == whole
    assert path.read_text().splitlines()[:2] == ["step,total,lr", "1,0.5,0.1"]


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"step,to", b"\0" * 40 + b"\r\n"])
def test_a_table_without_a_header_begins_anew(tmp_path: Path, content: bytes) -> None:
    table = LossTable(tmp_path / "losses.csv")
    table.path.write_bytes(content)
    table.forget_after(2)
    table.add(3, {"total": 1.5})
    assert table.path.read_bytes() == b"step,total\r\n3,1.5\r\n"


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 40,
        b"3,\0\0",
        b"3,\0\0\0\r\n",
        b"3,2",
        b"3,2.5\r",
        b"\r\n",
        b"\xff\xfe",
        b"3,2,1\r\n",
    ],
)
def test_a_broken_tail_is_dropped_and_the_rest_kept(tmp_path: Path, tail: bytes) -> None:
    table = LossTable(tmp_path / "losses.csv")
    table.add(1, {"total": 1.5})
    table.add(2, {"total": float("nan")})
    whole = table.path.read_bytes()
    table.path.write_bytes(whole + tail)
    table.path.with_suffix(".partial").write_bytes(whole[:5])  # killed while it dropped rows
    table.forget_after(9)
    assert table.path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [table.path]


def test_a_table_of_something_else_is_left(tmp_path: Path) -> None:
    table = LossTable(tmp_path / "losses.csv")
    table.path.write_bytes(b"day,loss\r\n1,2\r\n")
    with pytest.raises(ValueError, match="is no table of losses: move it away"):
        table.forget_after(0)
    assert table.path.read_bytes() == b"day,loss\r\n1,2\r\n"


def test_the_bar_shows_the_last_layer_and_faults_that_happened() -> None:
    values = {"total": 3.14159, "class": 1.0, "class_0": 2.0, "mask_low": 4.0, "grad_norm": 5.0}
    loader_stats = {"retries": 2, "quarantined": 0, "bytes_per_clip": 1_500_000}
    columns = progress_columns(values, loader_stats, clips=4, seconds=2.0, wait_seconds=0.5)
    assert columns == {
        "total": "3.14",
        "class": "1",
        "clips/s": "2.0",
        "wait": "25%",
        "retries": "2",
        "MB/clip": "1.50",
    }
