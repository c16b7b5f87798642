"""INTERFACE ONLY FOR NOW (S1 fills it in)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shards.schema import Json, Video


@dataclass(frozen=True)
class Plan:
    """A video to come: its key and about how many bytes it will take."""

    key: str
    num_bytes: int


# A runner maps a picklable function over tasks, results in any order; Ray's is `lambda f, tasks: ...`.
Runner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def build_set(
    plans: Sequence[Plan],
    read: Callable[[str], Video],
    out: str,
    *,
    dataset: str,
    split: str,
    settings: Mapping[str, Json],
    shard_bytes: int = 256_000_000,
    seed: int = 0,
    workers: int = 1,
    on_error: Literal["stop", "skip"] = "stop",  # skip: videos that `read` cannot give (ValueError/OSError) are listed in manifest.skipped
    progress: Callable[[int, int], None] | None = None,  # done_bytes (of the plans), done_videos
    runner: Runner | None = None,  # instead of `workers` processes
) -> Any: ...  # Manifest
