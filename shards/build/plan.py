"""What will be written: planned videos, their shards, and the tasks that write these."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from shards.errors import ShardError
from shards.format.manifest import ShardRecord
from shards.format.schema import FORMAT_VERSION, Json, Video

Read = Callable[[str], Video]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Plan:
    """A video to come: its key, and about how many bytes it will take."""

    key: str
    num_bytes: int


@dataclass(frozen=True)
class ShardTask:
    """Everything one shard depends on; picklable.

    Attributes:
        out: Address of the set.
        name: File name of the tar.
        plans: Its videos in their order.
        read: Reads a video by its key.
        content: Data set, split, seed and settings of the set.
        on_error: Whether a video that cannot be read stops the build or is left out.
    """

    out: str
    name: str
    plans: tuple[Plan, ...]
    read: Read
    content: Mapping[str, Json]
    on_error: OnError

    @property
    def digest(self) -> str:
        """SHA-256 of all that the shard was planned from; kept in the index."""
        videos = [[plan.key, plan.num_bytes] for plan in self.plans]
        return digest_json([FORMAT_VERSION, self.content, self.name, videos, self.on_error])


class Runner(Protocol):
    """Runs the tasks of a build somewhere: in other processes, on other machines."""

    def __call__(
        self, function: Callable[[ShardTask], ShardRecord], tasks: Sequence[ShardTask], /
    ) -> Iterable[ShardRecord]:
        """Call the function with each task and give the results, in any order."""


def spread(plans: Sequence[Plan], shard_bytes: int, seed: int) -> list[tuple[Plan, ...]]:
    """Deal videos over shards of about equal bytes.

    The order is that of SHA-256("seed/key"), so it depends neither on the order of `plans` nor on
    any library's random generator.

    Args:
        plans: The videos, in any order.
        shard_bytes: Size of a shard to aim at.
        seed: Decides the order.

    Raises:
        ShardError: If there are no videos, or two of one key.
    """
    if not plans:
        raise ShardError("there are no videos to write; check the root and the split")
    keys = sorted(plan.key for plan in plans)
    for first, second in pairwise(keys):
        if first == second:
            raise ShardError(
                f"two videos have the key {first!r}; keys must be unique, mend the reader"
            )
    order = sorted(plans, key=lambda plan: hashlib.sha256(f"{seed}/{plan.key}".encode()).digest())
    total_bytes = max(sum(plan.num_bytes for plan in order), 1)
    num_shards = max(1, _ceil_divide(total_bytes, shard_bytes))
    groups: list[list[Plan]] = [[] for _ in range(num_shards)]
    bytes_before = 0
    for plan in order:
        # Cut the row of all bytes into equal parts: a video goes to the part that holds its middle.
        # Twice the middle is a whole number, so nothing is rounded.
        twice_middle = 2 * bytes_before + plan.num_bytes
        number = twice_middle * num_shards // (2 * total_bytes)
        groups[min(num_shards - 1, number)].append(plan)
        bytes_before += plan.num_bytes
    # a video larger than a shard may leave its neighbours without any
    return [tuple(group) for group in groups if group]


def digest_json(content: object) -> str:
    """SHA-256 in hexadecimal of anything JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _ceil_divide(total: int, part: int) -> int:
    return -(-total // part)  # exact for every int, which `math.ceil` of a float is not
