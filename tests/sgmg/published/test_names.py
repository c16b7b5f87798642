import argparse
import fractions
import json
import pickle
from pathlib import Path

import pytest
import torch

from sgmg import SgMg, best_query
from sgmg.network.backbones.backbone import build_backbone
from sgmg.network.model_folder import CheckpointError, load_weights
from sgmg.published.names import (
    from_published,
    load_backbone,
    read_published,
    to_published_name,
)
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_config, tiny_model

ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def same_weights(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(path, model_card_kwargs={"recipe": "RECIPE", "metrics": "| J&F | 99 |"})
    return path


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path


@torch.no_grad()
def test_saved_network_comes_back_bit_equal_without_a_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    model, loaded = tiny_model(), SgMg.from_pretrained(folder)
    assert same_weights(model, loaded)
    assert not loaded.training
    loaded.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors", "text/tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    inputs = (*clips(1, 2), EXPRESSIONS[:1], best_query)
    assert torch.equal(model(*inputs).mask_logits, loaded(*inputs).mask_logits)


def test_model_card_tells_recipe_and_metrics(folder):
    card = (folder / "README.md").read_text()
    assert "RECIPE" in card
    assert "| J&F | 99 |" in card
    assert "license: apache-2.0" in card


def test_pushed_folder_is_the_saved_one(folder, monkeypatch):
    sent = {}

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, *, repo_id, **_):
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id, folder_path, **_):
            files = [p for p in Path(folder_path).rglob("*") if p.is_file()]
            sent[repo_id] = {str(p.relative_to(folder_path)): p.read_bytes() for p in files}

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    card = {"recipe": "RECIPE", "metrics": "| J&F | 99 |"}
    tiny_model().push_to_hub("net", model_card_kwargs=card)
    saved = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sent == {"me/net": saved}
    assert {"README.md", "config.json", "model.safetensors", "text/tokenizer.json"} <= set(saved)


def test_weights_of_another_network_are_refused_as_a_whole():
    model, other = tiny_model(), tiny_model(feedforward=64, decoder_layers=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(other.state_dict())
    del weights["query_positions.weight"]
    with pytest.raises(CheckpointError) as error:
        load_weights(model, weights, "some folder")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("some folder is of another network: missing query_positions.weight")
    assert "unexpected transformer.decoder.layers.2." in message
    assert "linear1.weight [64, 32] instead of [48, 32]" in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_named_parts_keep_their_own_weights():
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    own = model.class_heads[0].weight.clone()
    load_weights(model, other.state_dict(), "other", without=["class_heads."])
    assert torch.equal(model.class_heads[0].weight, own)
    assert torch.equal(model.query_positions.weight, other.query_positions.weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "Expecting property name"),
        (lambda f: (f / "config.json").write_text('{"hiden": 3}'), "unknown network settings"),
        (lambda f: (f / "config.json").write_text('{"hidden": "x"}'), "not supported between"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "is broken"),
        (lambda f: (f / "text" / "config.json").unlink(), "has no config.json"),
    ],
)
def test_broken_folders_say_what_is_wrong(copy, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as error:
        SgMg.from_pretrained(copy)
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_settings_of_another_network_beside_the_weights(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"queries": 7}))
    with pytest.raises(CheckpointError, match=r"query_positions.weight \[3, 32\] instead of"):
        SgMg.from_pretrained(copy)


def test_neither_folder_nor_repository(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        SgMg.from_pretrained(tmp_path / "nothing")


@pytest.fixture(scope="module")
def small() -> SgMg:
    torch.manual_seed(0)
    return SgMg(tiny_config(backbone="resnet50", text_config=ROBERTA)).eval()


@pytest.fixture
def published(small) -> dict[str, torch.Tensor]:
    return {to_published_name(small, name): value for name, value in small.state_dict().items()}


def with_clutter(weights):
    extra = {
        "text_encoder.text_backbone.embeddings.position_ids": torch.arange(20)[None],
        "total_ops": torch.zeros(1),
        "backbone.0.body.layer1.0.conv1.total_params": torch.zeros(1),
    }
    alias = {
        f"transformer.decoder.{name}": value.clone()
        for name, value in weights.items()
        if name.startswith("bbox_embed.")
    }
    return {"model": weights | extra | alias, "args": argparse.Namespace(lr=1.0), "epoch": 3}


@pytest.mark.parametrize("wrap", [dict, with_clutter])
def test_published_weights_make_the_network_they_belong_to(small, published, wrap):
    loaded = from_published(wrap(published))
    assert same_weights(small, loaded)
    ours, theirs = small.config, loaded.config
    for name in ("backbone", "hidden", "heads", "encoder_layers", "decoder_layers", "queries"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert theirs.text_config == ROBERTA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("controller.layers.1.bias"), "missing controller.layers.1.bias"),
        (lambda w: w.pop("query_embed.weight"), "it has no tensor query_embed.weight"),
        (lambda w: w.update(stray=torch.zeros(2)), "unexpected stray"),
        (
            lambda w: w.update({"class_embed.1.bias": torch.zeros(2)}),
            r"misshapen class_embed.1.bias \[2\] instead of \[1\]",
        ),
        (lambda w: w.update(optimizer={}), "'optimizer' is a dict, not a tensor"),
        (
            lambda w: w.update({"transformer.decoder.bbox_embed.0.layers.0.bias": torch.ones(32)}),
            "should be one tensor but differ",
        ),
        (
            lambda w: w.pop("backbone.0.body.layer3.5.conv1.weight"),
            "missing backbone.0.body.layer3.5.conv1.weight",
        ),
        (
            lambda w: [w.pop(n) for n in list(w) if "layer3.5." in n],
            "layer3 of 5",
        ),
    ],
)
def test_published_weights_must_fit_exactly(published, change, message):
    change(published)
    with pytest.raises(CheckpointError, match=message):
        from_published(published)


def test_published_file_may_hold_a_namespace(tmp_path, published):
    path = tmp_path / "checkpoint.pth"
    torch.save(with_clutter(published), path)
    read = read_published(path)
    assert read["args"].lr == 1.0
    assert torch.equal(read["model"]["query_embed.weight"], published["query_embed.weight"])


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_file_that_would_run_code_is_refused(tmp_path):
    path, mark = tmp_path / "checkpoint.pth", tmp_path / "exploded"
    for content in ({"model": {}, "args": Bomb(mark)}, {"args": fractions.Fraction(1, 2)}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"which could run code: refused"):
            read_published(path)
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(CheckpointError, match="refused"):
        read_published(path)
    assert not mark.exists()


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": torch.zeros(10_000)}, path)
    whole = path.read_bytes()
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:10]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            read_published(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="no such file"):
        read_published(tmp_path / "absent.pth")


def test_backbone_takes_the_file_of_a_video_classifier():
    source, target = (build_backbone("video_swin_t") for _ in range(2))
    names = {source.published_name(n).removeprefix("body."): n for n in source.state_dict()}
    weights = {}
    for name, ours in names.items():
        stage = name.split(".")
        if stage[0] == "downsamples":
            name = ".".join(["layers", stage[1], "downsample", *stage[2:]])
        weights[f"backbone.{name}"] = source.state_dict()[ours]
    patch = weights["backbone.patch_embed.proj.weight"]
    weights["backbone.patch_embed.proj.weight"] = torch.cat([patch * 0.25, patch * 0.75], 2)
    weights |= {"backbone.norm.weight": torch.ones(768), "cls_head.fc_cls.bias": torch.ones(400)}
    weights["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(392, 392)
    load_backbone(target, {"state_dict": weights}, "file")
    for name, value in source.state_dict().items():
        assert torch.allclose(target.state_dict()[name], value, atol=1e-6), name
    del weights["backbone.layers.2.blocks.3.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"file is of another network: missing"):
        load_backbone(target, {"state_dict": weights}, "file")


def test_backbone_takes_the_file_of_an_image_classifier():
    source, target = (build_backbone("resnet50") for _ in range(2))
    weights = {n.removeprefix("body."): v for n, v in source.state_dict().items()}
    weights |= {"fc.weight": torch.ones(1000, 2048), "bn1.num_batches_tracked": torch.tensor(1)}
    load_backbone(target, weights, "file")
    assert same_weights(source, target)
