"""A folder that holds a network: settings, weights, and all its text model needs without a network.

`config.json` (settings), `model.safetensors` (weights), `text/` (text configuration and tokenizer).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgmg.network.config import SgMgConfig
from sgmg.network.text_encoder import TextEncoder, load_text_parts

# `model_card_kwargs` of `save_pretrained` may give it `recipe` and `metrics`
MODEL_CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
CONFIG, WEIGHTS, TEXT = "config.json", "model.safetensors", "text"
SHOWN = 6  # names an error lists before it only counts


class CheckpointError(ValueError):
    """A checkpoint that is broken, or belongs to another network."""


def write_folder(folder: Path, config: SgMgConfig, model: nn.Module, text: TextEncoder) -> None:
    """Write a network.

    Args:
        folder: made if missing; files of an earlier network there are replaced.
        config: settings of the network.
        model: its weights.
        text: its text encoder, for configuration and tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text.save(folder / TEXT)
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    values = asdict(config) | {"text_config": None}  # that one is in `text/`
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def find_folder(source: str | Path, **download: Any) -> Path:
    """Folder of a saved network, downloaded first if `source` names a Hugging Face repository.

    Args:
        source: folder, or `owner/name`.
        download: passed to `huggingface_hub.snapshot_download`.

    Raises:
        CheckpointError: neither exists, or it cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    try:
        files = [CONFIG, WEIGHTS, f"{TEXT}/*"]
        return Path(snapshot_download(str(source), allow_patterns=files, **download))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{source} is no folder, and no Hugging Face repository either: {_first_line(error)}"
        ) from error


def find_checkpoint(path: Path) -> Path:
    """The model folder `path`, or the newest checkpoint of the run folder `path`.

    Raises:
        ValueError: there is none.
    """
    if (path / "config.json").is_file():
        return path
    if found := list_checkpoints(path):
        return found[-1]
    raise ValueError(
        f"{path} holds no checkpoint: give a run folder of train.py, or a folder with config.json"
    )


def read_folder(folder: Path) -> tuple[SgMgConfig, Any, dict[str, Tensor]]:
    """Read settings, tokenizer and weights of a folder.

    Args:
        folder: written by `write_folder`.

    Returns:
        Settings, with the text model's configuration in them, the tokenizer (or None), and the
        weights, on the CPU.

    Raises:
        CheckpointError: no such folder, its files are no settings of this version, or a file is
            missing or broken.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}: not a folder of a saved network")
    try:
        config = SgMgConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        text_config, tokenizer = load_text_parts(folder / TEXT)
        return replace(config, text_config=text_config), tokenizer, load_file(folder / WEIGHTS)
    except SafetensorError as error:
        reason = f"{folder / WEIGHTS} is broken ({_first_line(error)}): copy it again"
        raise CheckpointError(reason) from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{folder}: {_first_line(error)}") from error


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, *, without: Iterable[str] = ()
) -> None:
    """Give a network all of its weights, or none.

    Args:
        model: changed in place.
        weights: by the names of `model.state_dict()`.
        source: what the error calls them.
        without: prefixes of names that keep their values (such as `class_heads.`).

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen; the message lists them.
    """
    own, kept = model.state_dict(), tuple(without)
    wanted, given = (
        {name: value for name, value in some.items() if not name.startswith(kept)}
        for some in (own, weights)
    )
    if problems := mismatches(wanted, given):
        raise CheckpointError(f"{source} is of another network: {problems}")
    model.load_state_dict({**own, **given})


def mismatches(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say in one line which tensors are missing, unexpected or misshapen; empty if none."""
    groups = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "misshapen": [
            f"{name} {list(given[name].shape)} instead of {list(value.shape)}"
            for name, value in wanted.items()
            if name in given and given[name].shape != value.shape
        ],
    }
    return "; ".join(f"{kind} {_listed(names)}" for kind, names in groups.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    found = [path.parent for path in run.glob("step-*/config.json")]
    return sorted((it for it in found if it.suffix != ".partial"), key=lambda it: step_of(it.name))


def step_of(name: str) -> int:
    """Updates done at a checkpoint named `step-NNNNNN`."""
    return int(name.removeprefix("step-"))
