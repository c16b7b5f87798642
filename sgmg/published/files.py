"""Files of others: read without running anything in them, and reduced to tensors by name."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sgmg.network.model_folder import CheckpointError

# Entries that carry nothing: operation counts that a profiler left, and tables that the layers
# compute for themselves.
CLUTTER = re.compile(
    r".*\.?(total_ops|total_params|relative_position_index|num_batches_tracked)"
    r"|text_encoder\.text_backbone\.embeddings\.(position_ids|token_type_ids)"
)
# Published checkpoints hold the box heads twice, the second time as part of the decoder.
ALIAS_PREFIX = "transformer.decoder.bbox_embed."
BOX_HEADS_PREFIX = "bbox_embed."


def read_published(path: str | Path) -> dict[str, object]:
    """Read a published file without running anything in it.

    Args:
        path: `.pth` (tensors, plain containers and one `argparse.Namespace`) or `.safetensors`.

    Raises:
        CheckpointError: There is no such file, it is broken, or it holds any other class.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # The authors' files keep the arguments of their training script in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        # torch 2.15 names the first class it refuses: "GLOBAL pathlib.Path was not an allowed".
        refused_class = re.search(r"GLOBAL (\S+)", str(error))
        problem = "is no checkpoint"
        if refused_class:
            problem = f"holds {refused_class[1]}, which could run code"
        raise CheckpointError(f"{path} {problem}: refused") from error
    except Exception as error:  # torch and safetensors raise all sorts on a damaged file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is broken ({reason}): download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def entries_by_name(checkpoint: Mapping[str, object]) -> dict[str, object]:
    """Entries of a checkpoint that has them by itself, or under `model` or `state_dict`."""
    entries = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not isinstance(entries, Mapping):
        entries = checkpoint
    return {str(name): value for name, value in entries.items()}


def require_tensors(entries: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the entries if each is a tensor.

    Raises:
        CheckpointError: One is something else.
    """
    tensors = {}
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} is a {type(value).__name__}, not a tensor")
        tensors[name] = value
    return tensors


def clutter_names(checkpoint: Mapping[str, object]) -> list[str]:
    """Names of the entries that `drop_clutter` leaves out."""
    return [name for name in entries_by_name(checkpoint) if CLUTTER.fullmatch(name)]


def drop_clutter(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors of a published checkpoint, each under one name.

    Args:
        checkpoint: Entries by their published names, by itself or under `model`.

    Raises:
        CheckpointError: An entry is no tensor, or two names of one tensor disagree.
    """
    entries = entries_by_name(checkpoint)
    for name in clutter_names(checkpoint):
        del entries[name]
    tensors: dict[str, Tensor] = {}
    for name, value in require_tensors(entries).items():
        first_name = name.replace(ALIAS_PREFIX, BOX_HEADS_PREFIX)
        first_value = tensors.setdefault(first_name, value)
        if first_value is not value and not torch.equal(first_value, value):
            raise CheckpointError(f"{name} and {first_name} should be one tensor but differ")
    return tensors
