"""Damaged frames and shards, put aside and reported so that training goes on."""

import logging
import threading
from collections.abc import Iterable
from typing import NamedTuple

from shards.errors import ShardError

_log = logging.getLogger(__name__)


class FrameKey(NamedTuple):
    """A frame of a mixture of shard sets."""

    set_index: int
    video_index: int
    frame_index: int


class ShardKey(NamedTuple):
    """A shard of a mixture of shard sets."""

    set_index: int
    shard_index: int


PartKey = FrameKey | ShardKey


class Quarantine:
    """Frames and whole shards that are damaged; a clip that needs one is replaced.

    Whether a clip is replaced follows from its data alone, not from what was met before: every
    rank and every restart replaces the same clips, and a state needs no list of them.

    Args:
        budget: Frames and shards that may be damaged before training ends.

    Attributes:
        num_replaced: Clips replaced so far.
    """

    def __init__(self, budget: int) -> None:
        """Start with nothing put aside."""
        self.budget = budget
        self.num_replaced = 0
        self._reasons: dict[PartKey, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of damaged frames and shards."""
        return len(self._reasons)

    def holds_any(self, parts: Iterable[PartKey]) -> bool:
        """Say whether any of these parts is known to be damaged."""
        # Nearly always nothing is damaged: skip building keys for every clip. Reading without the
        # lock is safe, a part that is added meanwhile is found damaged again when it is read.
        return bool(self._reasons) and any(part in self._reasons for part in parts)

    def count_replaced(self) -> None:
        """Count a clip that gives way to another because it needs a damaged part."""
        with self._lock:
            self.num_replaced += 1

    def add(self, part: PartKey, reason: str) -> None:
        """Put a part aside; one that is put aside already keeps its first reason.

        Raises:
            ShardError: If more parts are damaged than the budget allows.
        """
        with self._lock:
            if part in self._reasons:
                return
            self._reasons[part] = reason
            _log.warning("quarantined: %s", reason)
            if len(self._reasons) > self.budget:
                raise ShardError(
                    f"more than {self.budget} frames and shards are damaged; run `python -m shards "
                    f"verify --full` on the set; the last: {reason}"
                )

    def report(self) -> str:
        """List what was put aside and why, a line each behind a summary."""
        with self._lock:
            reasons = sorted(self._reasons.values())
        summary = f"{len(reasons)} damaged frames or shards, {self.num_replaced} clips replaced"
        return "\n".join([summary, *reasons])
