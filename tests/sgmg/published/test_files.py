"""Files of others are read, and nothing in them is run."""

import argparse
import fractions
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sgmg.network.model_folder import CheckpointError
from sgmg.published.files import drop_clutter, entries_by_name, read_published
from tests.sgmg.published.checkpoints import Bomb, with_clutter

WEIGHTS = {"query_embed.weight": torch.rand(3, 4), "bbox_embed.0.bias": torch.rand(2)}


def test_published_file_may_hold_a_namespace(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(with_clutter(WEIGHTS), path)
    content = read_published(path)
    arguments = content["args"]
    assert isinstance(arguments, argparse.Namespace)
    assert arguments.lr == 1.0
    weights = drop_clutter(content)
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(WEIGHTS, path)
    weights = drop_clutter(read_published(path))
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    mark = tmp_path / "exploded"
    contents = ({"model": {}, "args": Bomb(mark)}, {"args": fractions.Fraction(1, 2)})
    for content in contents:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"which could run code: refused"):
            read_published(path)
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(CheckpointError, match="refused"):
        read_published(path)
    assert not mark.exists()


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": torch.zeros(10_000)}, path)
    whole = path.read_bytes()
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:10]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_published(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such file"):
        read_published(tmp_path / "absent.pth")
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="holds a list, not tensors by name"):
        read_published(path)


@pytest.mark.parametrize(
    "checkpoint",
    [WEIGHTS, {"model": WEIGHTS, "epoch": 3}, {"state_dict": WEIGHTS, "model_name": "swin"}],
)
def test_entries_are_found_where_files_keep_them(checkpoint: dict[str, object]) -> None:
    assert entries_by_name(checkpoint).keys() == WEIGHTS.keys()
