"""What cannot be read, put aside so that training goes on, and told."""

import logging
import threading
from collections.abc import Iterable

from shards.errors import ShardError

Place = tuple[int, int, int]  # set, video, frame; or set, -1, shard
_log = logging.getLogger(__name__)


class Quarantine:
    """Frames and whole shards that are damaged; a clip that needs one is replaced.

    Whether a clip is replaced follows from its data alone, not from what was met before: every
    rank and every restart replaces the same clips, and a state needs no list of them.

    Args:
        budget: Frames and shards that may be damaged before training ends.

    Attributes:
        replaced: Clips replaced so far.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.replaced = budget, 0
        self._reasons: dict[Place, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of damaged frames and shards."""
        return len(self._reasons)

    def holds(self, places: Iterable[Place]) -> bool:
        """Whether any of these places is damaged, as far as is known; counts a replaced clip."""
        found = bool(self._reasons) and any(place in self._reasons for place in places)
        if found:
            with self._lock:
                self.replaced += 1
        return found

    def add(self, place: Place, reason: str) -> None:
        """Put a place aside.

        Raises:
            ShardError: If these are more than the budget.
        """
        with self._lock:
            if place in self._reasons:
                return
            self._reasons[place] = reason
            _log.warning("quarantined: %s", reason)
            if len(self._reasons) > self.budget:
                raise ShardError(
                    f"more than {self.budget} frames and shards are damaged; run `python -m shards "
                    f"verify --full` on the set; the last: {reason}"
                )

    def report(self) -> str:
        """What was put aside and why, a line each."""
        with self._lock:
            reasons = sorted(self._reasons.values())
        head = f"{len(reasons)} damaged frames or shards, {self.replaced} clips replaced"
        return "\n".join([head, *reasons])
