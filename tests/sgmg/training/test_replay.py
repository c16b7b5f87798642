from pathlib import Path

import pytest
import torch

from sgmg.__main__ import main
from sgmg.training.losses import count_visible
from sgmg.training.replay import replay_lines, write_dump
from sgmg.training.update import forward_and_loss
from tests.sgmg.tiny import tiny_model
from tests.sgmg.training.clips import micro_batch

CPU = torch.device("cpu")


def test_a_dump_is_replayed(tmp_path: Path) -> None:
    model = tiny_model(dropout=0.3).train()
    micro_batches = [micro_batch(2, key="a"), micro_batch(3, key="b")]
    num_visible = count_visible([clip.targets for clip in micro_batches]) / 2
    totals = []
    for clip in micro_batches:
        _, terms = forward_and_loss(model, clip, num_visible)
        totals.append(f"total {float(terms['total'].detach()):.4g}")
    write_dump(tmp_path / "fine", model, micro_batches, precision="no")
    heading, *lines, verdict = replay_lines(tmp_path / "fine", CPU)
    assert heading == "clips a, b; precision no"
    assert [line.partition(",")[0] for line in lines] == totals
    assert verdict == "everything is finite here"

    with torch.no_grad():
        model.get_parameter("projections.1.0.weight")[0, 0] = torch.inf
    write_dump(tmp_path / "bad", model, micro_batches, precision="bf16")
    *_, line, verdict = replay_lines(tmp_path / "bad", CPU)
    assert "is not finite" in line
    assert verdict == "first not finite: the output of projections.1.0"


def test_replay_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dump(tmp_path, tiny_model(), [micro_batch(2, key="a")], precision="no")
    assert main(["replay", str(tmp_path), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "clips a; precision no"
    assert main(["replay", str(tmp_path / "nothing")]) == 1
    assert "has no micro_batches.pt: give a dump-step-NNNNNN folder" in capsys.readouterr().err
