"""A saved network comes back, and broken folders say what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sgmg import SgMg, best_query
from sgmg.network.model_folder import CheckpointError, load_weights
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_model


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    first_weights = first.state_dict()
    second_weights = second.state_dict()
    return first_weights.keys() == second_weights.keys() and all(
        torch.equal(first_weights[name], second_weights[name]) for name in first_weights
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(path, model_card_kwargs={"recipe": "RECIPE", "metrics": "| J&F | 99 |"})
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path


@torch.no_grad()
def test_saved_network_comes_back_bit_equal_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    model = tiny_model()
    loaded = SgMg.from_pretrained(folder)
    assert same_weights(model, loaded)
    assert not loaded.training
    loaded.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors", "text/tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    inputs = (*clips(1, 2), EXPRESSIONS[:1], best_query)
    assert torch.equal(model(*inputs).mask_logits, loaded(*inputs).mask_logits)


def test_model_card_tells_recipe_and_metrics(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "RECIPE" in card
    assert "| J&F | 99 |" in card
    assert "license: apache-2.0" in card


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file of a folder, by its path inside."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_pushed_folder_is_the_saved_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = {}

    class Hub:
        def __init__(self, **_: object) -> None:
            pass

        def create_repo(self, *, repo_id: str, **_: object) -> type:
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id: str, folder_path: str, **_: object) -> None:
            uploads[repo_id] = contents(Path(folder_path))

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    card = {"recipe": "RECIPE", "metrics": "| J&F | 99 |"}
    tiny_model().push_to_hub("net", model_card_kwargs=card)
    saved = contents(folder)
    assert uploads == {"me/net": saved}
    assert {"README.md", "config.json", "model.safetensors", "text/tokenizer.json"} <= set(saved)


def test_weights_of_another_network_are_refused_as_a_whole() -> None:
    model = tiny_model()
    other_model = tiny_model(feedforward=64, decoder_layers=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(other_model.state_dict())
    del weights["query_positions.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights, "some folder")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("some folder is of another network: missing query_positions.weight")
    assert "unexpected transformer.decoder.layers.2." in message
    assert "linear1.weight [64, 32] instead of [48, 32]" in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_named_parts_keep_their_own_weights() -> None:
    model = tiny_model()
    other_model = tiny_model()
    with torch.no_grad():
        for parameter in other_model.parameters():
            parameter.add_(1)
    class_weight = model.get_parameter("class_heads.0.weight")
    class_weight_before = class_weight.clone()
    load_weights(model, other_model.state_dict(), "other", without=["class_heads."])
    assert torch.equal(class_weight, class_weight_before)
    assert torch.equal(model.query_positions.weight, other_model.query_positions.weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "Expecting property name"),
        (
            lambda folder: (folder / "config.json").write_text('{"hiden": 3}'),
            "unknown network settings",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"hidden": "x"}'),
            "not supported between",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "is broken"),
        (lambda folder: (folder / "text" / "config.json").unlink(), "has no config.json"),
    ],
)
def test_broken_folders_say_what_is_wrong(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        SgMg.from_pretrained(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_settings_of_another_network_beside_the_weights(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"queries": 7}))
    with pytest.raises(CheckpointError, match=r"query_positions.weight \[3, 32\] instead of"):
        SgMg.from_pretrained(copy)


def test_neither_folder_nor_repository(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        SgMg.from_pretrained(tmp_path / "nothing")
