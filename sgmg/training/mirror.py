"""Copies of checkpoints in another place, such as an object store, for a machine that is lost.

Each checkpoint is one tar file, `checkpoint-0.tar` and so on; `checkpoints.json` tells which file
holds which checkpoint.
"""

import json
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from sgmg.network.model_folder import list_checkpoints, step_of
from sgmg.training.checkpoints import STATE

INDEX = "checkpoints.json"


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
    local = {path.name for path in list_checkpoints(checkpoint.parent)}
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
    """Get the newest checkpoint of a store, unless the run folder has one as new.

    Args:
        store: Where `upload` put copies; its errors pass through.
        run: Run folder.

    Raises:
        ValueError: The copy is broken.
    """
    slots = {name: slot for slot, name in _read_index(store).items()}
    if not slots:
        return
    newest = max(slots, key=step_of)
    local_steps = [step_of(path.name) for path in list_checkpoints(run)]
    if local_steps and max(local_steps) >= step_of(newest):
        return
    unfinished = run / f"{newest}.partial"
    try:
        with store.stream(slots[newest]) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            # The filter refuses links and names that lead out of the folder.
            tar.extractall(unfinished, filter="data")
        if not (unfinished / STATE).is_file():
            raise tarfile.ReadError("cut short")
    except tarfile.TarError as error:
        raise ValueError(f"the copy of {newest} is broken ({error}): delete it") from error
    unfinished.rename(run / newest)


def _read_index(store: Store) -> dict[str, str]:
    """Name of the checkpoint in each file of a store."""
    if not store.exists(INDEX):
        return {}
    slots: dict[str, str] = json.loads(store.get(INDEX))
    return slots
