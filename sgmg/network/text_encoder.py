"""Words and sentences of expressions, from any Hugging Face text model."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from einops import reduce
from torch import Tensor, nn

from sgmg.network.tokenizer import Tokenizer, Tokens, load_tokenizer


def projection(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, norm, dropout: from the text model's width to the network's, [..., width | hidden].

    Args:
        width: Channels of the text model.
        hidden: Channels of the network.
        dropout: Rate.
    """
    norm = nn.LayerNorm(hidden, eps=1e-12)
    parts = {"fc": nn.Linear(width, hidden), "layer_norm": norm, "dropout": nn.Dropout(dropout)}
    return nn.Sequential(OrderedDict(parts))


class TextEncoder(nn.Module):
    """A text model with a projection for words and one for the sentence."""

    def __init__(
        self,
        model: str | Path | Mapping[str, Any],
        tokenizer: Tokenizer | None = None,
        *,
        hidden: int = 256,
        dropout: float = 0.1,
        freeze: bool = False,
        drop_frozen: bool = False,
    ) -> None:
        """Build the encoder.

        Args:
            model: Hugging Face name or folder (configuration, weights and tokenizer come from
                there), or a configuration (random weights, nothing is downloaded).
            tokenizer: The model's own by default; without any only `Tokens` can be encoded.
            hidden: Channels of words and sentence.
            dropout: Rate after the projections.
            freeze: Keep the text model as it is; the projections learn.
            drop_frozen: Leave a frozen text model's dropout on in training, as published.

        Raises:
            ValueError: No such model, or the configuration names no known architecture.
        """
        super().__init__()
        named = None if isinstance(model, Mapping) else str(model)
        self.backbone = _from_hub(named) if named else _from_config(cast("Mapping", model))
        self.tokenizer = load_tokenizer(named) if named and tokenizer is None else tokenizer
        width: int = self.backbone.config.hidden_size
        self.words = projection(width, hidden, dropout)
        self.sentence = projection(width, hidden, dropout)
        self.frozen, self.drop_frozen = freeze, drop_frozen
        if freeze:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TextEncoder":
        """Switch to training; a frozen text model stays in evaluation, unless it is to drop."""
        super().train(mode)
        if self.frozen and not self.drop_frozen:
            self.backbone.eval()
        return self

    @property
    def max_tokens(self) -> int | None:
        """Most tokens an expression may have, the model's own marks included; None = any number."""
        config = self.backbone.config
        positions: int | None = getattr(config, "max_position_embeddings", None)
        if positions is None or positions < 1:
            return None
        # RoBERTa and its kin count positions from behind the number of the padding token
        offset = getattr(self.backbone.get_input_embeddings(), "padding_idx", None) or 0
        counts_from_padding = "roberta" in config.model_type or config.model_type == "camembert"
        return positions - offset - 1 if counts_from_padding else positions

    def tokenize(self, expressions: Sequence[str]) -> Tokens:
        """Turn expressions into tokens as they are: no lower-casing, no truncation.

        Args:
            expressions: E strings.

        Returns:
            Tokens padded to the longest.

        Raises:
            ValueError: There is no tokenizer, no expression, or one is longer than the model reads.
        """
        if self.tokenizer is None:
            raise ValueError("this text encoder was built without a tokenizer: pass Tokens")
        if not expressions or not all(it.strip() for it in expressions):
            raise ValueError("an expression is missing or empty: say what to look for")
        batch = self.tokenizer(
            list(expressions), padding="longest", truncation=False, return_tensors="pt"
        )
        attention = batch["attention_mask"].bool()
        counts = attention.sum(1)
        if self.max_tokens is not None and int(counts.max()) > self.max_tokens:
            longest = int(counts.argmax())
            raise ValueError(
                f"expression {expressions[longest][:60]!r}... has {int(counts[longest])} tokens, "
                f"the text model reads at most {self.max_tokens}: shorten it"
            )
        return Tokens(batch["input_ids"], attention)

    def encode(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Raw output of the text model.

        Args:
            tokens: E expressions of up to L tokens.

        Returns:
            Last hidden state [E, L, width] and pooled state [E, width]: the model's own pooler, or
            the mean over tokens where it has none.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self.backbone(
                input_ids=tokens.ids, attention_mask=tokens.attention.to(tokens.ids.dtype)
            )
        last = output.last_hidden_state
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            weight = tokens.attention[..., None].to(last.dtype)
            pooled = reduce(last * weight, "e l c -> e c", "sum") / weight.sum(1)
        return last, pooled

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Features of words and sentences.

        Args:
            tokens: E expressions of up to L tokens.

        Returns:
            Words [E, L, hidden], their padding [E, L] (True = pad), sentences [E, hidden].
        """
        last, pooled = self.encode(tokens)
        return self.words(last), ~tokens.attention, self.sentence(pooled)

    def save(self, folder: str | Path) -> None:
        """Write configuration and tokenizer (not the weights) for `load_text_parts`."""
        self.backbone.config.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def load_text_parts(folder: str | Path) -> tuple[dict[str, Any], Tokenizer | None]:
    """Read what `TextEncoder.save` wrote; needs no network.

    Args:
        folder: Where it was written.

    Returns:
        The text model's configuration and its tokenizer (None if it had none), as `TextEncoder`
        takes them.

    Raises:
        ValueError: No configuration there.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: not a folder of a saved text encoder")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = None
    if (Path(folder) / "tokenizer_config.json").is_file():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return config.to_dict(), tokenizer


def _from_config(values: Mapping[str, Any]) -> transformers.PreTrainedModel:
    try:
        config = transformers.AutoConfig.for_model(**values)
    except (TypeError, ValueError) as error:
        kind = values.get("model_type")
        raise ValueError(f"text configuration: unknown model_type {kind!r}") from error
    return _family(config).from_config(config)


def _from_hub(name: str) -> transformers.PreTrainedModel:
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        config = getattr(config, "text_config", config)  # the text half of models such as CLIP
        return _family(config).from_pretrained(name, config=config)
    except OSError as error:
        raise ValueError(
            f"text model {name!r}: {str(error).splitlines()[0]} Give a Hugging Face name (and "
            "network access), a folder with the model, or a configuration for random weights"
        ) from error


def _family(config: transformers.PreTrainedConfig) -> Any:
    """The class that builds the encoder alone where Hugging Face knows one for this model."""
    known = type(config) in transformers.AutoModelForTextEncoding._model_mapping
    return transformers.AutoModelForTextEncoding if known else transformers.AutoModel


def tiny_text_config(vocab_size: int, *, width: int = 64, layers: int = 1) -> dict[str, Any]:
    """Configuration of a small DistilBERT, to be trained from nothing.

    It has no pooler, so the sentence is the mean of the tokens and its words show in it from the
    first update. The usual initial deviation of 0.02 is for widths near 768: at 64 every sentence
    would start, and for long stay, the same; 1 / sqrt(width) keeps the scale.

    Args:
        vocab_size: That of the tokenizer (`len(tokenizer)`).
        width: Channels, a multiple of 4.
        layers: Transformer layers.
    """
    return {
        "model_type": "distilbert",
        "vocab_size": vocab_size,
        "dim": width,
        "n_layers": layers,
        "n_heads": 4,
        "hidden_dim": 2 * width,
        "max_position_embeddings": 128,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": width**-0.5,
    }
