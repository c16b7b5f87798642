from pathlib import Path

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
