"""Copies of checkpoints in another place, such as an object store, for a machine that is lost.

Each checkpoint is one tar file, `checkpoint-0.tar` and so on; `checkpoints.json` tells which file
holds which checkpoint.
"""

import json
import logging
import re
import shutil
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from sgmg.network.model_folder import (
    CONFIG_FILE,
    is_checkpoint_name,
    list_checkpoints,
    step_of,
)
from sgmg.training.checkpoints import STATE, abandoned_path, read_state

INDEX = "checkpoints.json"
SLOT = re.compile(r"checkpoint-[0-9]{1,9}\.tar")
# A file of a checkpoint, at most one folder deep: `model.safetensors`, `text/vocab.json`.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99})?")

_log = logging.getLogger(__name__)


class Store(Protocol):
    """A folder for whole files, here or elsewhere; `shards.storage.storage.Storage` is one.

    Methods raise `ValueError` or `OSError` where the place does not answer.
    """

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def get(self, name: str) -> bytes:
        """Read a whole file."""

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, atomically."""

    def stream(self, name: str) -> BinaryIO:
        """Open a file to read it from start to end."""

    def new_file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to write; it appears whole when the block ends well, or not at all."""


def upload(checkpoint: Path, store: Store) -> None:
    """Copy a checkpoint; the store keeps as many as the run folder.

    The new file takes a slot that the index does not name, and the index is written last: wherever
    the copy breaks off, the index names whole files only.

    Args:
        checkpoint: Its folder in the run folder.
        store: Where the copy goes; its errors pass through.
    """
    slots = _read_index(store)
    slot = first_free_slot(slots)
    with store.new_file(slot) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for path in sorted(checkpoint.iterdir()):
            if path.name != STATE:
                tar.add(path, path.name)
        # Last of all, so that `download` knows a copy that was cut short by its absence.
        state = checkpoint / STATE
        tar.add(state, state.name)
    # Files of checkpoints that the run folder has let go become free: later copies write over them.
    # So does an older copy of this checkpoint, such as a broken one.
    local = {path.name for path in list_checkpoints(checkpoint.parent)} - {checkpoint.name}
    slots = {slot: name for slot, name in slots.items() if name in local}
    slots[slot] = checkpoint.name
    store.put(INDEX, json.dumps(slots).encode())


def first_free_slot(slots: dict[str, str]) -> str:
    """Name of the first file that the index does not speak of."""
    number = 0
    while f"checkpoint-{number}.tar" in slots:
        number += 1
    return f"checkpoint-{number}.tar"


def download(store: Store, run: Path) -> None:
    """Get the newest whole checkpoint of a store, unless the run folder has one as new.

    A broken copy is a warning; the one before it is taken.

    Args:
        store: Where `upload` put copies; its errors pass through.
        run: Run folder.

    Raises:
        ValueError: All copies are broken and the run folder has no checkpoint.
    """
    local = list_checkpoints(run)
    newest_local = step_of(local[-1].name) if local else -1
    slots = {name: slot for slot, name in _read_index(store).items()}
    broken = []
    for name in sorted(slots, key=step_of, reverse=True):
        if step_of(name) <= newest_local:
            return
        if abandoned_path(run / name).exists():
            continue  # the run went on from an older one
        try:
            _download_copy(store, slots[name], run / name)
        except BrokenCopyError as error:
            _log.warning("the copy of %s is broken (%s): it is passed over", name, error)
            broken.append(name)
        else:
            return
    if broken and not local:
        raise ValueError(f"all copies are broken ({', '.join(broken)}): delete them to begin anew")


class BrokenCopyError(Exception):
    """A copy that is cut short, missing, or was not written by `upload`."""


def _download_copy(store: Store, slot: str, checkpoint: Path) -> None:
    """Get one copy; its folder appears whole or not at all.

    Raises:
        BrokenCopyError: Nothing of it is left in the run folder.
    """
    if not store.exists(slot):
        raise BrokenCopyError(f"no {slot}")
    unfinished = checkpoint.with_suffix(".partial")
    unfinished.mkdir()
    try:
        with store.stream(slot) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                _extract(tar, member, unfinished)
        _check_state(unfinished, step_of(checkpoint.name))
        unfinished.rename(checkpoint)
    except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
        # The last two: one name twice, or a file where another name has a folder.
        raise BrokenCopyError(str(error).partition("\n")[0]) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one file of a copy.

    Not by `tarfile`: its filters let some names out of the folder (CVE-2025-4517).

    Raises:
        BrokenCopyError: It is no plain file, or its name may lead elsewhere.
    """
    path = folder / member.name
    is_plain_name = PLAIN_NAME.fullmatch(member.name) is not None
    if member.isdir() and is_plain_name:
        path.mkdir(exist_ok=True)
        return
    # A sparse file says itself how large it becomes.
    is_plain_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    content = tar.extractfile(member) if is_plain_file and is_plain_name else None
    if content is None:
        raise BrokenCopyError(f"{member.name!r} is no plain file")
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)


def _check_state(checkpoint: Path, step: int) -> None:
    """Check that the last file is there, and speaks of this checkpoint.

    Raises:
        BrokenCopyError: It is not, or does not.
    """
    if not (checkpoint / STATE).is_file() or not (checkpoint / CONFIG_FILE).is_file():
        raise BrokenCopyError("cut short")
    try:
        state = read_state(checkpoint)
        step_of_state = state["step"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrokenCopyError(f"{STATE} is none of ours") from error
    if step_of_state != step:
        raise BrokenCopyError(f"it is of update {step_of_state}")


def _read_index(store: Store) -> dict[str, str]:
    """Name of the checkpoint in each file of a store.

    Raises:
        ValueError: The index is broken.
    """
    if not store.exists(INDEX):
        return {}
    try:
        slots = json.loads(store.get(INDEX))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{INDEX} of the mirror is broken: delete it") from error
    if not isinstance(slots, dict):
        raise ValueError(f"{INDEX} of the mirror is broken: delete it")
    for slot, name in slots.items():
        is_ours = SLOT.fullmatch(slot) and isinstance(name, str) and is_checkpoint_name(name)
        if not is_ours:
            raise ValueError(f"{INDEX} of the mirror is broken: delete it")
    return slots
