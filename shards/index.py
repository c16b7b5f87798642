"""INTERFACE ONLY FOR NOW (S1 fills it in): what `ShardSet` will offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.schema import BoolArray, Expression, Frame, Video


@dataclass(frozen=True, eq=False)
class VideoRow:
    """One video as the index knows it; arrays have one entry a frame, [F]."""

    key: str
    video_id: str
    height: int
    width: int
    frame_names: tuple[str, ...]
    annotated: BoolArray
    objects: Mapping[str, str]
    expressions: tuple[Expression, ...]
    visible: Mapping[str, BoolArray]
    shard: int  # position in manifest.shards; then per-member offset/size/crc32c arrays


class ShardSet:
    @classmethod
    def open(cls, url: str, *, gap: int | None = None, check_shards: bool = True) -> ShardSet: ...

    url: str
    manifest: Any  # Manifest: dataset, split, settings, counts, shards, hash
    hash: str  # = manifest.hash
    num_frames: npt.NDArray[np.int32]  # [N], a video each
    num_expressions: npt.NDArray[np.int32]  # [N]
    shard_of: npt.NDArray[np.int32]  # [N]; videos are in shard order, so this never falls

    def __len__(self) -> int: ...  # number of videos N

    @property
    def videos(self) -> Sequence[VideoRow]: ...  # row made on access (about 50 us), not kept

    def read(self, video: int, frames: Sequence[int]) -> list[Frame]: ...  # repeats and any order allowed; thread-safe

    def video(self, video: int) -> Video: ...  # whole video in one range

    def sequential(self, shards: Sequence[int] | None = None) -> Iterator[Video]: ...
    # picklable (spawn): re-opens its storage by url
