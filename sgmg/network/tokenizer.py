"""Expressions as token numbers, by a Hugging Face tokenizer or one learned from the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

Tokenizer = transformers.PreTrainedTokenizerBase
_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


@dataclass(frozen=True)
class Tokens:
    """Expressions as numbers.

    Attributes:
        ids: [E, L] int64, L that of the longest.
        attention: [E, L] bool, True on tokens, False on padding.
    """

    ids: Tensor
    attention: Tensor

    def to(self, device: torch.device | str) -> "Tokens":
        """The same on `device`."""
        return Tokens(self.ids.to(device), self.attention.to(device))


def load_tokenizer(name: str) -> Tokenizer:
    """Tokenizer of a text model.

    Args:
        name: Hugging Face name, or a folder with the tokenizer's files.

    Raises:
        ValueError: There is none, or it cannot be reached.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer of {name!r} ({str(error).splitlines()[0].strip(' .:')}): where there is "
            "network access, `hf download FacebookAI/roberta-base --include '*.json' merges.txt "
            "--local-dir FOLDER`, then name that folder"
        ) from error


def train_tokenizer(expressions: Sequence[str], *, vocab_size: int = 4000) -> Tokenizer:
    """Learn a tokenizer from expressions; equal expressions give an equal tokenizer.

    It is blind to case, so that few expressions suffice, and adds no marks at start and end: in
    the mean of a few words they would hide them.

    Args:
        expressions: Of the training set.
        vocab_size: Most entries; frequent words stay whole, others are split, bytes at worst.

    Raises:
        ValueError: No expression.
    """
    if not expressions:
        raise ValueError("no expressions to train a tokenizer on")
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(expressions, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)
