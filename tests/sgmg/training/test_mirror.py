"""Copies of checkpoints: what a stranger may have put among them."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from sgmg.training.mirror import INDEX, download, upload


class FolderStore:
    """Copies in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def stream(self, name: str) -> BinaryIO:
        return (self.folder / name).open("rb")

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        with (self.folder / name).open("wb") as file:
            yield file


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A store of two checkpoints."""
    store = FolderStore(tmp_path / "store")
    for step in (1, 2):
        checkpoint = tmp_path / f"source/step-{step:06d}"
        (checkpoint / "text").mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "text/vocab.json"):
            (checkpoint / name).write_text("{}")
        (checkpoint / "run.json").write_text(json.dumps({"step": step}))
        upload(checkpoint, store)
    return store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run/folder"
    run.mkdir(parents=True)
    return run


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type = kind
    member.linkname = target
    return member


def of_kind(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("thing")
    member.type = kind
    return member


def sparse() -> tarfile.TarInfo:
    """A few bytes that unpack to a terabyte."""
    member = tarfile.TarInfo("model.bin")
    member.pax_headers = {
        "GNU.sparse.map": f"{2**40},0",
        "GNU.sparse.size": str(2**40),
    }
    return member


HOSTILE = {
    "absolute": tarfile.TarInfo("/tmp/sgmg-escaped"),
    "parent": tarfile.TarInfo("../escaped"),
    "parent of a folder": tarfile.TarInfo("text/../../escaped"),
    "dot": tarfile.TarInfo("."),
    "backslash": tarfile.TarInfo("..\\escaped"),
    "deep": tarfile.TarInfo("a/b/c"),
    "long": tarfile.TarInfo("a" * 300),
    "twice": tarfile.TarInfo("config.json"),
    "in a file": tarfile.TarInfo("config.json/escaped"),
    "link out": link(tarfile.SYMTYPE, "../escaped"),
    "link in": link(tarfile.SYMTYPE, "config.json"),
    "hard link": link(tarfile.LNKTYPE, "config.json"),
    "device": of_kind(tarfile.CHRTYPE),
    "pipe": of_kind(tarfile.FIFOTYPE),
    "sparse": sparse(),
}


@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_copy_of_anything_but_plain_files_is_passed_over(
    store: FolderStore, run: Path, member: tarfile.TarInfo, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.folder / "checkpoint-1.tar"
    with tarfile.open(path) as tar:
        files = [(info, tar.extractfile(info)) for info in tar]
        contents = [(info, file.read() if file else b"") for info, file in files]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in [*contents, (member, b"")]:
            tar.addfile(info, io.BytesIO(content))
    download(store, run)
    assert "the copy of step-000002 is broken" in caplog.text
    assert names(run) == ["step-000001"]
    assert names(run.parent) == ["folder"]


def cut(store: FolderStore) -> None:
    path = store.folder / "checkpoint-1.tar"
    path.write_bytes(path.read_bytes()[:700])


def remove(store: FolderStore) -> None:
    (store.folder / "checkpoint-1.tar").unlink()


def exchange(store: FolderStore) -> None:
    """The file of another checkpoint."""
    (store.folder / "checkpoint-1.tar").write_bytes(store.get("checkpoint-0.tar"))


@pytest.mark.parametrize("damage", [cut, remove, exchange])
def test_a_broken_copy_gives_way_to_the_one_before(
    store: FolderStore,
    run: Path,
    damage: Callable[[FolderStore], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(store)
    download(store, run)
    assert "the copy of step-000002 is broken" in caplog.text
    assert names(run) == ["step-000001"]


def test_without_any_whole_copy_training_does_not_begin_anew(store: FolderStore, run: Path) -> None:
    for slot in ("checkpoint-0.tar", "checkpoint-1.tar"):
        store.put(slot, b"")
    with pytest.raises(ValueError, match=r"all copies are broken \(step-000002, step-000001\)"):
        download(store, run)
    assert not names(run)


def test_a_life_that_was_left_does_not_come_back(store: FolderStore, run: Path) -> None:
    (run / "abandoned-step-000002").mkdir()
    download(store, run)
    assert names(run) == ["abandoned-step-000002", "step-000001"]


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"../escaped.tar": "step-000001"}',
        b'{"checkpoint-0.tar": "../step-000001"}',
        b'{"checkpoint-0.tar": null}',
        b"[" * 100_000,
    ],
)
def test_a_broken_index_is_one_line(store: FolderStore, run: Path, index: bytes) -> None:
    store.put(INDEX, index)
    with pytest.raises(ValueError, match=r"checkpoints\.json of the mirror is broken: delete it"):
        download(store, run)


def test_an_index_names_the_last_copy_of_a_checkpoint_alone(
    store: FolderStore, tmp_path: Path
) -> None:
    upload(tmp_path / "source/step-000002", store)
    assert json.loads(store.get(INDEX)) == {
        "checkpoint-0.tar": "step-000001",
        "checkpoint-2.tar": "step-000002",
    }
