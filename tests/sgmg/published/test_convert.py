"""`python -m sgmg convert`: from a published file to a folder that loads offline."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

from sgmg import SgMg, best_query
from sgmg.__main__ import main
from sgmg.network.backbones.backbone import build_backbone
from sgmg.network.tokenizer import train_tokenizer
from tests.sgmg.published.checkpoints import Bomb, classifier_weights, published_weights
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_config

ROBERTA_PADDING = 1  # the token that the authors' RoBERTa pads with

Capture = pytest.CaptureFixture[str]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RoBERTa in a folder: tokenizer and weights."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = train_tokenizer(EXPRESSIONS, vocab_size=300)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(text_model: Path) -> SgMg:
    """What the published file below is made of."""
    config = RobertaConfig.from_pretrained(text_model).to_dict()
    config["pad_token_id"] = ROBERTA_PADDING
    return SgMg(tiny_config(backbone="resnet50", text_config=config)).eval()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that pads as RoBERTa's does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(EXPRESSIONS, vocab_size=300)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ROBERTA_PADDING)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def published(network: SgMg, tmp_path: Path) -> Path:
    weights = published_weights(network)
    weights["total_ops"] = torch.zeros(1)
    weights["backbone.0.total_params"] = torch.zeros(1)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": weights}, path)
    return path


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))


@pytest.mark.usefixtures("_offline")
@torch.no_grad()
def test_published_file_becomes_a_folder(
    published: Path, network: SgMg, tokenizer_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "folder"
    assert main(["convert", str(published), str(out), "--text", str(tokenizer_folder)]) == 0
    summary = capsys.readouterr().out
    for part in ("SgMg checkpoint", "backbone: resnet50", "32 channels, 1+2 layers, 3 queries"):
        assert part in summary
    assert "left out: 2 entries (total_ops, total_params)" in summary
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" in summary
    loaded = SgMg.from_pretrained(out)
    weights = network.state_dict()
    loaded_weights = loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(weights[name], loaded_weights[name]) for name in weights)
    frames, padding = clips(1, 1)
    tokens = loaded.tokenize(EXPRESSIONS[:1])
    expected = network(frames, padding, tokens, best_query).mask_logits
    assert torch.equal(loaded(frames, padding, EXPRESSIONS[:1], best_query).mask_logits, expected)


def without(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (without("text_proj.fc.bias"), ["missing text_proj.fc.bias"]),
        (lambda weights: weights.update(stray=torch.zeros(1)), ["unexpected stray"]),
        (
            lambda weights: weights.update({"class_embed.0.bias": torch.zeros(3)}),
            ["misshapen class_embed.0.bias [3] instead of [1]"],
        ),
        (lambda weights: weights.clear(), ["not a published SgMg checkpoint"]),
    ],
)
def test_file_that_does_not_fit(
    published: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    capsys: Capture,
    change: Callable[[Weights], object],
    messages: Sequence[str],
) -> None:
    content = torch.load(published)
    change(content["model"])
    torch.save(content, published)
    check_refused(published, tmp_path, capsys, messages, text_model=tokenizer_folder)


def check_refused(
    file: Path,
    tmp_path: Path,
    capsys: Capture,
    messages: Sequence[str] = (),
    text_model: str | Path = "nowhere",
) -> None:
    """Convert, and hold the error to one line with these messages and nothing written."""
    out = tmp_path / "folder"
    assert main(["convert", str(file), str(out), "--text", str(text_model)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for message in (str(file), *messages):
        assert message in error
    assert not list(tmp_path.glob("folder*")), "something half-written"


def test_files_that_are_no_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "file.pth"
    mark = tmp_path / "exploded"
    check_refused(file, tmp_path, capsys, ["no such file"])
    file.write_bytes(pickle.dumps(Bomb(mark)))
    check_refused(file, tmp_path, capsys, ["refused"])
    assert not mark.exists()
    file.write_bytes(b"hello")
    check_refused(file, tmp_path, capsys)
    for content in ([torch.zeros(1)], {"model": torch.zeros(1)}, {3: torch.zeros(1)}):
        torch.save(content, file)
        check_refused(file, tmp_path, capsys)


def test_tokenizer_that_cannot_be_reached_or_is_another(
    published: Path,
    text_model: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    messages = ["pads with 1", "and 0: give --text"]
    check_refused(published, tmp_path, capsys, messages, text_model=text_model)
    out = tmp_path / "folder"
    assert main(["convert", str(published), str(out), "--text", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"no tokenizer of '{tmp_path}'" in error
    assert "then name that folder" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("folder*"))


def test_folder_that_exists_is_left_alone(
    published: Path, tokenizer_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["convert", str(published), str(tmp_path), "--text", str(tokenizer_folder)]
    assert main(arguments) == 1
    assert "exists: name a new folder" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("name", "patch_frames", "nested"),
    [("video_swin_t", 2, "state_dict"), ("swin_t", 1, "model")],
)
def test_classifier_becomes_a_new_network_on_its_backbone(
    name: str, patch_frames: int, nested: str, text_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "classifier.pth"
    out = tmp_path / "folder"
    weights = classifier_weights(build_backbone(name))
    if patch_frames > 1:  # each frame has the same share
        patch = weights["patch_embed.proj.weight"]
        repeated = patch.expand(-1, -1, patch_frames, -1, -1)
        weights["patch_embed.proj.weight"] = repeated / patch_frames
    weights["norm.weight"] = torch.ones(3)
    weights["head.weight"] = torch.ones(3, 3)
    torch.save({nested: weights}, file)
    assert main(["convert", str(file), str(out), "--text", str(text_model)]) == 0
    assert f"backbone {name}; the rest of the network is new" in capsys.readouterr().out
    loaded = SgMg.from_pretrained(out)
    assert loaded.config.backbone == name
    num_compared = 0
    for loaded_name, loaded_weight in classifier_weights(loaded.backbone).items():
        if loaded_name != "patch_embed.proj.weight":
            torch.testing.assert_close(loaded_weight, weights[loaded_name])
            num_compared += 1
    assert num_compared > 100
    assert loaded.tokenize(EXPRESSIONS[:1]).ids.shape[0] == 1
