from pathlib import Path

import pytest
import torch
from transformers import AutoModel, DistilBertConfig

from sgmg.network.text_encoder import TextEncoder, load_text_parts, tiny_text_config
from sgmg.network.tokenizer import Tokenizer, Tokens, train_tokenizer

EXPRESSIONS = [
    "the small red circle moving left",
    "the large blue square on the right",
    "a green triangle",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(EXPRESSIONS)


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    torch.manual_seed(0)
    config = tiny_text_config(len(tokenizer))
    return TextEncoder(config, tokenizer, hidden=64, dropout=0.0).eval()


def test_frequent_words_stay_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokenize("the red circle") == ["Ġthe", "Ġred", "Ġcircle"]
    assert tokenizer("red").input_ids == tokenizer.convert_tokens_to_ids(["Ġred"])


def test_any_word_can_be_written(tokenizer: Tokenizer) -> None:
    ids = tokenizer("ein Täßchen 茶 \N{HOT BEVERAGE}").input_ids
    assert tokenizer.unk_token_id not in ids
    assert "täßchen 茶" in tokenizer.decode(ids, skip_special_tokens=True)


def test_the_tokenizer_is_blind_to_case(tokenizer: Tokenizer) -> None:
    assert tokenizer("A Red").input_ids == tokenizer("a red").input_ids


def test_training_is_reproducible(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(EXPRESSIONS).get_vocab() == tokenizer.get_vocab()


def test_tokens_are_padded_to_the_longest_and_never_cut(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(EXPRESSIONS)
    assert tokens.ids.shape == (3, 7)
    assert tokens.attention.sum(1).tolist() == [6, 7, 3]
    assert encoder.tokenizer is not None
    assert (tokens.ids[~tokens.attention] == encoder.tokenizer.pad_token_id).all()
    long = " ".join(["red"] * 128)
    assert encoder.tokenize([long]).ids.shape == (1, 128)
    with pytest.raises(ValueError, match=r"'red red .* has 129 tokens.* at most 128"):
        encoder.tokenize([f"{long} red"])


def test_an_expression_says_something(encoder: TextEncoder) -> None:
    for nothing in ([], [""], ["a red circle", "  "]):
        with pytest.raises(ValueError, match="missing or empty"):
            encoder.tokenize(nothing)


def test_the_longest_expression_is_read(encoder: TextEncoder) -> None:
    words, _, _ = encoder(encoder.tokenize([" ".join(["red"] * 128)]))
    assert words.shape == (1, 128, 64)


def test_roberta_reads_two_tokens_less_than_it_has_positions() -> None:
    config = {"model_type": "roberta", "vocab_size": 20, "max_position_embeddings": 12}
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    encoder = TextEncoder(config | sizes | {"intermediate_size": 8}, hidden=32)
    assert encoder.max_tokens == 10
    ids = torch.full((1, 10), 5)
    assert encoder(Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))[0].shape == (1, 10, 32)


def test_an_expression_does_not_depend_on_its_neighbours(encoder: TextEncoder) -> None:
    batch = encoder(encoder.tokenize(EXPRESSIONS))
    words, padding, sentence = encoder(encoder.tokenize(EXPRESSIONS[2:]))
    assert batch[1].tolist()[2] == [False] * 3 + [True] * 4
    torch.testing.assert_close(batch[0][2:, :3], words)
    torch.testing.assert_close(batch[2][2:], sentence)
    assert not padding.any()


def test_sentence_is_the_mean_where_the_model_has_no_pooler() -> None:
    config = {"model_type": "distilbert", "vocab_size": 20, "dim": 8, "n_heads": 2, "n_layers": 1}
    encoder = TextEncoder(config | {"hidden_dim": 8}, hidden=32).eval()
    ids = torch.tensor([[3, 4, 5, 0]])
    last, pooled = encoder.encode(Tokens(ids, ids > 0))
    torch.testing.assert_close(pooled, last[:, :3].mean(1))


def test_frozen_text_model_neither_learns_nor_drops() -> None:
    config = tiny_text_config(30)
    encoder = TextEncoder(config, hidden=64, dropout=0.0, freeze=True).train()
    tokens = Tokens(torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool))
    words, _, sentence = encoder(tokens)
    assert words.equal(encoder(tokens)[0])
    (words.square().sum() + sentence[:, 0].sum()).backward()
    learning = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    reached = {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None}
    assert learning == reached == {"words", "sentence"}
    published = config | {"dropout": 0.1}
    for drops in (False, True):
        encoder = TextEncoder(published, dropout=0.0, freeze=True, drop_frozen=drops).train()
        assert encoder(tokens)[0].equal(encoder(tokens)[0]) != drops
        assert not encoder.backbone.get_input_embeddings().weight.requires_grad


def test_text_model_learns_unless_frozen(encoder: TextEncoder) -> None:
    words, _, sentence = encoder.train()(encoder.tokenize(EXPRESSIONS))
    (words[..., 0].sum() + sentence[:, 0].sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name


def test_saved_parts_build_an_equal_encoder(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder.save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    config, tokenizer = load_text_parts(tmp_path)
    restored = TextEncoder(config, tokenizer, hidden=64, dropout=0.0).eval()
    restored.load_state_dict(encoder.state_dict())
    tokens, restored_tokens = (e.tokenize(EXPRESSIONS) for e in (encoder, restored))
    assert tokens.ids.equal(restored_tokens.ids)
    torch.testing.assert_close(restored(restored_tokens)[2], encoder(tokens)[2])


def test_model_from_a_folder_brings_weights_and_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = AutoModel.from_config(DistilBertConfig(**tiny_text_config(len(tokenizer))))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path, hidden=64)
    for name, value in model.state_dict().items():
        assert value.equal(encoder.backbone.state_dict()[name]), name
    assert encoder.tokenize(["a red circle"]).ids.equal(
        torch.tensor([tokenizer("a red circle").input_ids])
    )


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        TextEncoder(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="unknown model_type None"):
        TextEncoder({"hidden_size": 8})
    with pytest.raises(ValueError, match="unknown model_type 'no-such'"):
        TextEncoder({"model_type": "no-such"})
    with pytest.raises(ValueError, match="not a folder of a saved text encoder"):
        load_text_parts(tmp_path)
    with pytest.raises(ValueError, match="without a tokenizer"):
        TextEncoder(tiny_text_config(30)).tokenize(["a"])
    with pytest.raises(ValueError, match="no expressions"):
        train_tokenizer([])
