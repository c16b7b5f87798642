"""Text encoder against the published implementation."""

import re
from typing import cast

import numpy as np
import torch

from sgmg import SgMg
from sgmg.network.text_encoder import TextEncoder
from sgmg.network.tokenizer import Tokens
from sgmg.published.names import to_published_name
from tests.golden.fixtures import compare, hold, pad_ids, randn, seed_module

TOLERANCE = 2e-5


def roberta(layers: int, vocab_size: int = 50265) -> TextEncoder:
    """Sizes of roberta-base but for the number of layers (and of words)."""
    config = {
        "model_type": "roberta",
        "vocab_size": vocab_size,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "num_hidden_layers": layers,
    }
    encoder = TextEncoder(config)
    # only names of a backbone ask the network for anything
    network = cast(SgMg, encoder)
    return seed_module(encoder, lambda name: to_published_name(network, f"text_encoder.{name}"))


@torch.inference_mode()
def test_text_model(text_case, cases, golden):
    reference = golden(text_case)
    number = re.search(r"\d+", text_case)
    assert number is not None
    layers = int(number[0])
    ids, attention = pad_ids(cases["text_encoder"])
    np.testing.assert_array_equal(ids, reference["input_ids"].array)
    np.testing.assert_array_equal(attention, reference["attention_mask"].array)
    last, pooled = roberta(layers).encode(Tokens(ids, attention))
    hold("text encoder", TOLERANCE, compare(reference[f"layers{layers}/last_hidden"], last))
    hold("text encoder", TOLERANCE, compare(reference[f"layers{layers}/pooled"], pooled))


@torch.inference_mode()
def test_projections(cases, golden):
    reference = golden("mod_small")
    seeds = cases["modules"]["mod_small"]["seeds"]
    encoder = roberta(1, vocab_size=10)
    words = encoder.words(randn(seeds["text_proj"], *reference["text_proj"].shape[:-1], 768))
    sentence = encoder.sentence(
        randn(seeds["sentence_proj"], *reference["sentence_proj"].shape[:-1], 768)
    )
    hold("text encoder", TOLERANCE, compare(reference["text_proj"], words))
    hold("text encoder", TOLERANCE, compare(reference["sentence_proj"], sentence))
