"""Whole networks with golden weights, by the backbone a case names."""

from typing import Any

from sgmg import SgMg, SgMgConfig
from sgmg.network.tokenizer import Tokens
from sgmg.published.names import to_published_name
from tests.golden.fixtures import Cases, pad_ids, seed_module


def roberta(layers: int) -> dict[str, Any]:
    """Configuration of RoBERTa base, of as many layers as the golden set uses."""
    return {
        "model_type": "roberta",
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }


def published_config(backbone: str, text_layers: int, **changed: Any) -> SgMgConfig:
    """Published sizes; `backbone` may end in the published patch and window tag."""
    name = backbone.removesuffix("_p4w7")
    return SgMgConfig(backbone=name, text_config=roberta(text_layers), **changed)


def golden_model(cases: Cases, backbone: str, **changed: Any) -> SgMg:
    """The network with golden weights, in evaluation mode."""
    model = SgMg(published_config(backbone, cases["text_layers"], **changed))
    seed_module(model, lambda name: to_published_name(model, name))
    return model


def case_tokens(cases: Cases, case: Any) -> Tokens:
    """Tokens of the captions a case names."""
    return Tokens(*pad_ids([cases["captions"][name] for name in case["captions"]]))
