"""Stops at any step, on any number of ranks and workers: nothing lost, repeated or changed."""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from shards import ClipLoader, ClipStyle
from shards.format.shard_set import ShardSet
from shards.storage.cache import ShardCache
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling
from shards.stream.transform import ClipTransform
from tests.processes import finish, fork
from tests.shards.object_server import object_server
from tests.shards.sample_videos import build_toy, files_of, toy_keys

CASES = int(os.environ.get("SGMG_RESUME_CASES", "6"))
KILLS = int(os.environ.get("SGMG_KILLS", "3"))
BATCH = 24  # every number of ranks divides it


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two", "three")]
    for folder, count in zip(folders, (17, 9, 24), strict=True):
        build_toy(folder, toy_keys(count))
    return [str(folder) for folder in folders]


def settings(weights: Sequence[float] | None = (2, 1, 1)) -> dict[str, Any]:
    return {
        "weights": weights,
        "num_frames": 2,
        "batch_size": BATCH,
        "seed": 11,
        "style": ClipStyle(
            sampling=ClipSampling.youtube_vos(),
            augmentation=Augmentation.synthetic(),
        ),
    }


class StampDecoder:
    """In place of pixels: bits that tell which image it was and what was drawn for it."""

    def decode(
        self, images: Sequence[bytes], transforms: Sequence[ClipTransform]
    ) -> list[torch.Tensor]:
        frames = []
        for image, transform in zip(images, transforms, strict=True):
            stamp = hashlib.sha256(image + repr(transform).encode()).digest()[:24]
            frame = torch.zeros(*transform.size, 3, dtype=torch.uint8)
            frame[0, :8] = torch.tensor(list(stamp), dtype=torch.uint8).view(8, 3)
            frames.append(frame)
        return frames

    def close(self) -> None:
        pass


def take(sets: Sequence[Any], state: Any, ranks: int, workers: int, steps: int | None) -> Any:
    """Up to `steps` batches of every rank from a state: clips by position, and the new state."""
    clips: dict[int, Any] = {}
    states = []
    for rank in range(ranks):
        loader = ClipLoader(
            sets,
            rank=rank,
            world_size=ranks,
            prefetch=max(workers, 1),
            decoder=StampDecoder(),
            **settings(),
        )
        if state is not None:
            loader.load_state_dict(state)
        for _, batch in zip(range(steps or 10**9), loader, strict=False):
            for b, position in enumerate(batch.positions):
                assert position not in clips
                clips[position] = stamp_of(batch, b)
        states.append(loader.state_dict())
        loader.close()
    assert all(state == states[0] for state in states)
    assert len(json.dumps(states[0])) < 1000
    return clips, json.loads(json.dumps(states[0]))


def stamp_of(batch: Any, b: int) -> tuple[Any, ...]:
    own = batch.clip_index.tolist().index(b)
    h, w = batch.sizes[b].tolist()
    pixels = batch.frames[b, ..., :h, :w].contiguous().numpy().tobytes()
    masks = batch.masks[own, ..., :h, :w].contiguous().numpy().tobytes()
    digest = hashlib.sha256(pixels + masks).hexdigest()
    return batch.keys[b], batch.expressions[own], digest, batch.boxes_cxcywh[own].tolist()


def test_random_stops(sets: list[str]) -> None:
    opened = [ShardSet.open(url) for url in sets]
    healthy, end = take(opened, None, 1, 1, None)
    steps = len(healthy) // BATCH
    assert steps >= 4
    generator = random.Random(5)
    for _ in range(CASES):
        delivered: dict[int, Any] = {}
        first = generator.randrange(1, steps - 1)
        second = generator.randrange(1, steps - first)
        state = None
        for stop in (first, second, None):
            ranks, workers = generator.choice([1, 2, 3, 4, 8]), generator.choice([0, 1, 2, 4])
            clips, state = take(opened, state, ranks, workers, stop)
            assert not clips.keys() & delivered.keys()
            delivered |= clips
        assert delivered == healthy
        assert state == end


def test_accelerate_keeps_the_place(sets: list[str], tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = ClipLoader(sets, **settings())
    accelerator.register_for_checkpointing(loader)
    stream = iter(loader)
    next(stream)
    accelerator.save_state(str(tmp_path / "state"))
    expected = next(stream)
    accelerator.load_state(str(tmp_path / "state"))
    again = next(iter(loader))
    assert again.positions == expected.positions == list(range(BATCH, 2 * BATCH))
    assert torch.equal(again.frames, expected.frames)
    loader.close()


def _train(url: str, cache: str, journal: str) -> None:
    """A training that can be killed: a line for each batch, which is also its checkpoint."""
    torch.set_num_threads(1)
    loader = ClipLoader(
        [url], cache=ShardCache(cache, 10**7), decoder=StampDecoder(), **settings(None)
    )
    path = Path(journal)
    lines = path.read_text().splitlines() if path.exists() else []
    if lines:
        loader.load_state_dict(json.loads(lines[-1])["state"])
    while loader.state_dict()["epoch"] < 2:
        for batch in loader:
            clips = {p: stamp_of(batch, b) for b, p in enumerate(batch.positions)}
            lines.append(json.dumps({"state": loader.state_dict(), "clips": clips}))
            fresh = path.with_suffix(".new")
            fresh.write_text("\n".join(lines))
            fresh.replace(path)
            time.sleep(0.02)


@pytest.fixture
def remote(sets: list[str]) -> Iterator[str]:
    with object_server() as server:
        server.objects |= {f"/s/{name}": data for name, data in files_of(Path(sets[0])).items()}
        yield f"{server.url}/s"


def test_killed_while_training_nothing_is_lost(
    remote: str, sets: list[str], tmp_path: Path
) -> None:
    journal, generator = tmp_path / "journal", random.Random(1)
    arguments = (remote, str(tmp_path / "cache"), str(journal))
    kills = 0
    while kills < KILLS:
        child = fork(_train, *arguments)
        before = journal.read_text() if journal.exists() else ""
        end = time.monotonic() + 300
        while child.is_alive() and (not journal.exists() or journal.read_text() == before):
            assert time.monotonic() < end, "no batch came"
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        if child.exitcode == 0:  # ended before; on with another run
            check_journal(read(journal), sets[0])
            journal.unlink()
    assert finish([fork(_train, *arguments)]) == [0]
    check_journal(read(journal), sets[0])
    for path in (tmp_path / "cache").rglob("*"):
        if len(path.name) == 64:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def read(journal: Path) -> list[Any]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def check_journal(lines: list[Any], folder: str) -> None:
    """Each batch once and in order, each clip as an undisturbed loader makes it."""
    loader = ClipLoader([folder], decoder=StampDecoder(), **settings(None))
    expected = []
    for _ in range(2):
        for batch in loader:
            clips = {}
            for b, position in enumerate(batch.positions):
                clips[str(position)] = list(stamp_of(batch, b))
            expected.append(clips)
    loader.close()
    delivered = [line["clips"] for line in lines]
    assert len(delivered) >= 4
    assert delivered == expected
