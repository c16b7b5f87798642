"""Features of the words of an expression and of its whole, from any Hugging Face text model."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from einops import reduce
from torch import Tensor, nn

from sgmg.network.config import TextConfig
from sgmg.network.tokenizer import Tokenizer, Tokens, load_tokenizer, tokenize

# Text models that count positions from behind the number of the padding token.
POSITIONS_BEHIND_PADDING = ("roberta", "camembert")


class TextEncoder(nn.Module):
    """A text model with a projection for words and one for the sentence."""

    def __init__(
        self,
        model: str | Path | TextConfig,
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
            ValueError: There is no such model, or the configuration names no known architecture.
        """
        super().__init__()
        if isinstance(model, Mapping):
            self.backbone = _build_text_model(model)
        else:
            self.backbone = _load_text_model(str(model))
            if tokenizer is None:
                tokenizer = load_tokenizer(str(model))
        self.tokenizer = tokenizer
        width: int = self.backbone.config.hidden_size
        self.words = projection(width, hidden, dropout)
        self.sentence = projection(width, hidden, dropout)
        self.frozen = freeze
        self.drop_frozen = drop_frozen
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
        # Models with relative positions (T5 and its kin) have no such setting, or -1.
        positions: int | None = getattr(config, "max_position_embeddings", None)
        if positions is None or positions < 1:
            return None
        if not any(family in config.model_type for family in POSITIONS_BEHIND_PADDING):
            return positions
        # With padding number 1 the first token is at position 2: 514 positions hold 512 tokens.
        padding_id = getattr(self.backbone.get_input_embeddings(), "padding_idx", None) or 0
        return positions - padding_id - 1

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
        return tokenize(self.tokenizer, expressions, self.max_tokens)

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
                input_ids=tokens.ids,
                attention_mask=tokens.attention.to(tokens.ids.dtype),
            )
        last = output.last_hidden_state
        # Not every model's output has this field, and where it has, the pooler may be left out.
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


def projection(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, norm, dropout: from the text model's width to the network's, [..., width | hidden].

    Args:
        width: Channels of the text model.
        hidden: Channels of the network.
        dropout: Rate.
    """
    return nn.Sequential(
        OrderedDict(
            fc=nn.Linear(width, hidden),
            layer_norm=nn.LayerNorm(hidden, eps=1e-12),  # the epsilon of BERT and RoBERTa
            dropout=nn.Dropout(dropout),
        )
    )


def load_text_parts(folder: str | Path) -> tuple[TextConfig, Tokenizer | None]:
    """Read what `TextEncoder.save` wrote; needs no network.

    Args:
        folder: Where it was written.

    Returns:
        The text model's configuration and its tokenizer (None if it had none), as `TextEncoder`
        takes them.

    Raises:
        ValueError: There is no configuration.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: not a folder of a saved text encoder")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return config.to_dict(), tokenizer


def tiny_text_config(vocab_size: int, *, width: int = 64, layers: int = 1) -> TextConfig:
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


def _build_text_model(values: TextConfig) -> transformers.PreTrainedModel:
    """A text model with random weights."""
    try:
        config = transformers.AutoConfig.for_model(**values)
    except (TypeError, ValueError) as error:
        model_type = values.get("model_type")
        raise ValueError(f"text configuration: unknown model_type {model_type!r}") from error
    if _has_text_encoder(config):
        return transformers.AutoModelForTextEncoding.from_config(config)
    return transformers.AutoModel.from_config(config)


def _load_text_model(name: str) -> transformers.PreTrainedModel:
    """A text model with its published weights."""
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        config = getattr(config, "text_config", config)  # the text half of models such as CLIP
        if _has_text_encoder(config):
            return transformers.AutoModelForTextEncoding.from_pretrained(name, config=config)
        return transformers.AutoModel.from_pretrained(name, config=config)
    except OSError as error:
        raise ValueError(
            f"text model {name!r}: {str(error).splitlines()[0]} Give a Hugging Face name (and "
            "network access), a folder with the model, or a configuration for random weights"
        ) from error


def _has_text_encoder(config: transformers.PreTrainedConfig) -> bool:
    """Whether Hugging Face can build the encoder of this model alone, without a decoder."""
    return type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
