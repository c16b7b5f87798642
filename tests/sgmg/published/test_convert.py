"""`python -m sgmg convert`: from a published file to a folder that loads offline."""

import pickle
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from sgmg import SgMg, best_query
from sgmg.__main__ import main
from sgmg.network.backbones.backbone import build_backbone
from sgmg.network.tokenizer import train_tokenizer
from sgmg.published.names import to_published_name
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_config


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
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
def network(text) -> SgMg:
    """What the published file below is made of; RoBERTa's padding is token 1."""
    config = RobertaConfig.from_pretrained(text).to_dict() | {"pad_token_id": 1}
    return SgMg(tiny_config(backbone="resnet50", text_config=config)).eval()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A tokenizer that pads with 1, as RoBERTa's does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(EXPRESSIONS, vocab_size=300)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def published(network, tmp_path) -> Path:
    weights = {to_published_name(network, n): v for n, v in network.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    clutter = {"total_ops": torch.zeros(1), "backbone.0.total_params": torch.zeros(1)}
    torch.save({"model": weights | clutter}, path)
    return path


@pytest.fixture
def _offline(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))


@pytest.mark.usefixtures("_offline")
@torch.no_grad()
def test_published_file_becomes_a_folder(published, network, tokenizer_folder, tmp_path, capsys):
    out = tmp_path / "folder"
    assert main(["convert", str(published), str(out), "--text", str(tokenizer_folder)]) == 0
    told = capsys.readouterr().out
    for part in ("SgMg checkpoint", "backbone: resnet50", "32 channels, 1+2 layers, 3 queries"):
        assert part in told
    assert "left out: 2 entries (total_ops, total_params)" in told
    assert f"{sum(p.numel() for p in network.parameters()):,}" in told
    loaded = SgMg.from_pretrained(out)
    own, got = network.state_dict(), loaded.state_dict()
    assert own.keys() == got.keys()
    assert all(torch.equal(own[name], got[name]) for name in own)
    frames, padding = clips(1, 1)
    tokens = loaded.tokenize(EXPRESSIONS[:1])
    want = network(frames, padding, tokens, best_query).mask_logits
    assert torch.equal(loaded(frames, padding, EXPRESSIONS[:1], best_query).mask_logits, want)


def without(name):
    return lambda weights: weights.pop(name)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (without("text_proj.fc.bias"), ["missing text_proj.fc.bias"]),
        (lambda w: w.update(stray=torch.zeros(1)), ["unexpected stray"]),
        (
            lambda w: w.update({"class_embed.0.bias": torch.zeros(3)}),
            ["misshapen class_embed.0.bias [3] instead of [1]"],
        ),
        (lambda w: w.clear(), ["not a published SgMg checkpoint"]),
    ],
)
def test_file_that_does_not_fit(published, tokenizer_folder, tmp_path, capsys, change, messages):
    content = torch.load(published)
    change(content["model"])
    torch.save(content, published)
    refused(published, tmp_path, capsys, messages, text=tokenizer_folder)


def refused(file, tmp_path, capsys, messages, text="nowhere"):
    out = tmp_path / "folder"
    assert main(["convert", str(file), str(out), "--text", str(text)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for message in (str(file), *messages):
        assert message in error
    assert not list(tmp_path.glob("folder*")), "something half-written"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_files_that_are_no_checkpoint(tmp_path, capsys):
    file, mark = tmp_path / "file.pth", tmp_path / "exploded"
    refused(file, tmp_path, capsys, ["no such file"])
    file.write_bytes(pickle.dumps(Bomb(mark)))
    refused(file, tmp_path, capsys, ["refused"])
    assert not mark.exists()
    file.write_bytes(b"hello")
    refused(file, tmp_path, capsys, [])
    for content in ([torch.zeros(1)], {"model": torch.zeros(1)}, {3: torch.zeros(1)}):
        torch.save(content, file)
        refused(file, tmp_path, capsys, [])


def test_tokenizer_that_cannot_be_reached_or_is_another(
    published, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(published, tmp_path, capsys, ["pads with 1", "and 0: give --text"], text=text)
    out = tmp_path / "folder"
    assert main(["convert", str(published), str(out), "--text", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"no tokenizer of '{tmp_path}'" in error
    assert "then name that folder" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("folder*"))


def test_folder_that_exists_is_left_alone(published, tokenizer_folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["convert", str(published), str(tmp_path), "--text", str(tokenizer_folder)]
    assert main(arguments) == 1
    assert "exists: name a new folder" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def classifier(backbone: str, patch_frames: int) -> dict[str, torch.Tensor]:
    """File of a classifier as its authors publish it."""
    source = build_backbone(backbone)
    weights = {}
    for name, value in source.state_dict().items():
        published = source.published_name(name).removeprefix("body.")
        if published.startswith("norm"):
            continue
        if published.startswith("downsamples."):
            _, stage, *rest = published.split(".")
            published = ".".join(["layers", stage, "downsample", *rest])
        if patch_frames > 1 and published == "patch_embed.proj.weight":
            value = value.expand(-1, -1, patch_frames, -1, -1) / patch_frames
        weights[published] = value
    return weights | {"norm.weight": torch.ones(3), "head.weight": torch.ones(3, 3)}


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("name", "frames", "nested"), [("video_swin_t", 2, "state_dict"), ("swin_t", 1, "model")]
)
def test_classifier_becomes_a_new_network_on_its_backbone(
    name, frames, nested, text, tmp_path, capsys
):
    file, out = tmp_path / "classifier.pth", tmp_path / "folder"
    weights = classifier(name, frames)
    torch.save({nested: weights}, file)
    assert main(["convert", str(file), str(out), "--text", str(text)]) == 0
    assert f"backbone {name}; the rest of the network is new" in capsys.readouterr().out
    loaded = SgMg.from_pretrained(out)
    assert loaded.config.backbone == name
    body = loaded.backbone.body
    for key, value in body.state_dict().items():
        stem = body.published_name(key).replace("downsamples.", "layers.")
        if key.startswith("features") and stem in weights:
            torch.testing.assert_close(value, weights[stem])
    assert loaded.tokenize(EXPRESSIONS[:1]).ids.shape[0] == 1
