"""Expressions as token numbers, by a Hugging Face tokenizer or one learned from the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

Tokenizer = transformers.PreTrainedTokenizerBase

# Tokens of a learned tokenizer that stand for no word.
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


@dataclass(frozen=True)
class Tokens:
    """Expressions as numbers.

    Attributes:
        ids: [E, L] int64, L that of the longest expression.
        attention: [E, L] bool, True on tokens, False on padding.
    """

    ids: Tensor
    attention: Tensor

    def to(self, device: torch.device | str) -> "Tokens":
        """The same on `device`."""
        return Tokens(ids=self.ids.to(device), attention=self.attention.to(device))


def tokenize(tokenizer: Tokenizer, expressions: Sequence[str], max_tokens: int | None) -> Tokens:
    """Turn expressions into tokens as they are: no lower-casing, no truncation.

    Args:
        tokenizer: That of the text model.
        expressions: E strings.
        max_tokens: Most tokens an expression may have; None for any number.

    Returns:
        Tokens padded to the longest.

    Raises:
        ValueError: There is no expression, one is empty, or one has more than `max_tokens`.
    """
    if not expressions or not all(expression.strip() for expression in expressions):
        raise ValueError("an expression is missing or empty: say what to look for")
    batch = tokenizer(list(expressions), padding="longest", truncation=False, return_tensors="pt")
    attention = batch["attention_mask"].bool()
    counts = attention.sum(1)
    if max_tokens is not None and int(counts.max()) > max_tokens:
        longest = int(counts.argmax())
        raise ValueError(
            f"expression {expressions[longest][:60]!r}... has {int(counts[longest])} tokens, "
            f"the text model reads at most {max_tokens}: shorten it"
        )
    return Tokens(ids=batch["input_ids"], attention=attention)


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
        first_line = str(error).splitlines()[0].strip(" .:")
        raise ValueError(
            f"no tokenizer of {name!r} ({first_line}): where there is "
            "network access, `hf download FacebookAI/roberta-base --include '*.json' merges.txt "
            "--local-dir FOLDER`, then name that folder"
        ) from error


def train_tokenizer(expressions: Sequence[str], *, vocab_size: int = 4000) -> Tokenizer:
    """Learn a tokenizer from expressions; equal expressions give an equal tokenizer.

    It is blind to case, so that few expressions suffice, and adds no marks at start and end: in
    the mean of a few words they would hide them.

    Args:
        expressions: Those of the training set.
        vocab_size: Most entries; frequent words stay whole, rarer ones are split, bytes at worst.

    Raises:
        ValueError: There is no expression.
    """
    if not expressions:
        raise ValueError("no expressions to train a tokenizer on")
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # With a space before it, the first word is the same token as in the middle of an expression.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, UNKNOWN, START, END],
        # `alphabet` comes in another order in every process, and with it would the token numbers.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(expressions, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=END,
    )
