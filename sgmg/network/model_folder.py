"""A folder that holds a network: settings, weights, and all its text model needs without a network.

`config.json` (settings), `model.safetensors` (weights), `text/` (text configuration and tokenizer).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict, Unpack

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgmg.network.config import SgMgConfig
from sgmg.network.text_encoder import TextEncoder, load_text_parts
from sgmg.network.tokenizer import Tokenizer

# A template: `model_card_kwargs` of `save_pretrained` may give it `recipe` and `metrics`.
MODEL_CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TEXT_FOLDER = "text"
MAX_LISTED_NAMES = 6  # names that an error lists before it only counts


class CheckpointError(ValueError):
    """A checkpoint that is broken, or belongs to another network."""


class DownloadOptions(TypedDict, total=False):
    """Options of `huggingface_hub.snapshot_download`."""

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool


def write_folder(folder: Path, config: SgMgConfig, model: nn.Module, text: TextEncoder) -> None:
    """Write a network.

    Args:
        folder: Created if missing; files of an earlier network there are replaced.
        config: Settings of the network.
        model: The network, for its weights.
        text: Its text encoder, for configuration and tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text.save(folder / TEXT_FOLDER)
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    settings = asdict(replace(config, text_config=None))  # the text configuration is in `text/`
    config_json = json.dumps(settings, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(config_json, encoding="utf-8")


def find_folder(source: str | Path, **download: Unpack[DownloadOptions]) -> Path:
    """Folder of a saved network, downloaded first if `source` names a Hugging Face repository.

    Args:
        source: Folder, or `owner/name`.
        download: Options of the download.

    Raises:
        CheckpointError: Neither exists, or it cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    try:
        snapshot = snapshot_download(
            str(source),
            allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, f"{TEXT_FOLDER}/*"],
            **download,
        )
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{source} is no folder, and no Hugging Face repository either: {_first_line(error)}"
        ) from error
    return Path(snapshot)


def read_folder(folder: Path) -> tuple[SgMgConfig, Tokenizer | None, dict[str, Tensor]]:
    """Read settings, tokenizer and weights of a folder.

    Args:
        folder: Written by `write_folder`.

    Returns:
        Settings, with the text model's configuration in them, the tokenizer (or None), and the
        weights, on the CPU.

    Raises:
        CheckpointError: No such folder, its files are no settings of this version, or a file is
            missing or broken.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}: not a folder of a saved network")
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = SgMgConfig.from_dict(settings)
        text_config, tokenizer = load_text_parts(folder / TEXT_FOLDER)
        weights = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        reason = f"{folder / WEIGHTS_FILE} is broken ({_first_line(error)}): copy it again"
        raise CheckpointError(reason) from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        # JSON that is no settings of ours, or a text configuration that is none.
        raise CheckpointError(f"{folder}: {_first_line(error)}") from error
    return replace(config, text_config=text_config), tokenizer, weights


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, *, without: Iterable[str] = ()
) -> None:
    """Give a network all of its weights, or none.

    Args:
        model: Changed in place.
        weights: By the names of `model.state_dict()`.
        source: Name of the weights in the error.
        without: Prefixes of names that keep their values (such as `class_heads.`).

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen; the message lists them.
    """
    state = model.state_dict()
    prefixes = tuple(without)
    expected = {name: value for name, value in state.items() if not name.startswith(prefixes)}
    loaded = {name: value for name, value in weights.items() if not name.startswith(prefixes)}
    problems = mismatches(expected, loaded)
    if problems:
        raise CheckpointError(f"{source} is of another network: {problems}")
    model.load_state_dict({**state, **loaded})


def mismatches(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> str:
    """Say in one line which tensors are missing, unexpected or misshapen; empty if none.

    Args:
        expected: Tensors of the network by name.
        loaded: Tensors of a file by name.
    """
    missing = [name for name in expected if name not in loaded]
    unexpected = [name for name in loaded if name not in expected]
    misshapen = []
    for name, value in expected.items():
        if name in loaded and loaded[name].shape != value.shape:
            shapes = f"{list(loaded[name].shape)} instead of {list(value.shape)}"
            misshapen.append(f"{name} {shapes}")
    groups = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{kind} {_listed(names)}" for kind, names in groups.items() if names)


def find_checkpoint(path: Path) -> Path:
    """The model folder `path`, or the newest checkpoint of the run folder `path`.

    Raises:
        ValueError: There is none.
    """
    if (path / CONFIG_FILE).is_file():
        return path
    checkpoints = list_checkpoints(path)
    if checkpoints:
        return checkpoints[-1]
    raise ValueError(
        f"{path} holds no checkpoint: give a run folder of train.py, or a folder with config.json"
    )


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first; folders of any other name are not ours."""
    folders = [
        file.parent
        for file in run.glob(f"step-*/{CONFIG_FILE}")
        if is_checkpoint_name(file.parent.name)
    ]
    return sorted(folders, key=lambda folder: step_of(folder.name))


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after `step` updates."""
    return f"step-{step:06d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a name is `step-NNNNNN`; `step-000002.partial` and `step-000002-good` are none."""
    digits = name.removeprefix("step-")
    # `isdecimal` alone takes digits of other scripts, and any number of zeros before the number.
    return digits.isdecimal() and name == checkpoint_name(int(digits))


def step_of(name: str) -> int:
    """Updates done at a checkpoint named `step-NNNNNN`."""
    return int(name.removeprefix("step-"))


def _listed(names: list[str]) -> str:
    """The first names, and how many follow."""
    listed = ", ".join(names[:MAX_LISTED_NAMES])
    unlisted = len(names) - MAX_LISTED_NAMES
    if unlisted > 0:
        listed += f" and {unlisted} more"
    return listed


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
