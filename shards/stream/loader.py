"""`ClipLoader`: order + storage + DALI -> `Batch`."""

import collections
import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from itertools import chain, islice, pairwise
from typing import Any, Literal

import numpy as np
import torch

from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from shards.storage.cache import ShardCache
from shards.stream import order
from shards.stream.batch import Batch
from shards.stream.clip_source import MAX_ATTEMPTS, Clip, ClipSource
from shards.stream.decode import Collator, DecodeError, FrameDecoder, make_team
from shards.stream.styles import ClipStyle, named_style


class ClipLoader:
    """Batches of clips for training: the same clips in the same order for any number of processes.

    Iterating yields the rest of the current epoch; after its last batch the next epoch begins.

    Args:
        sets: Shard sets, or where they lie.
        weights: Share of each set in an epoch; None: each item comes once.
        num_frames: T.
        batch_size: Clips a step, all processes together.
        parts: Batches that the clips of a step come in, one behind the other; a step must be taken
            whole before the state moves.
        seed: Of order, sampling and augmentation.
        rank: This process.
        world_size: Number of processes.
        style: How clips are cut from videos, augmented and padded, or the name of a known style.
        expressions: Most sentences of a clip: its item's own and, beyond the published one, others
            of its video. They share decoding and the visual pass, and tell each other apart.
        device: "cpu", or "mixed" to decode on the GPU.
        threads: Of DALI.
        prefetch: Batches made ahead, on a CPU each by a thread of its own.
        block_shards: Shards of a set read at a time, see `order.epoch_order`; 0: no blocks.
        cache: Where to keep whole shards of remote sets; closed with the loader.
        max_damage: Frames and shards that may be damaged, on this rank, before training ends; the
            clips that need them are replaced by others of their set, on all ranks alike.

    Raises:
        ValueError: If settings do not fit one another.
        ShardError: If a set cannot be opened or offers no clip.
    """

    def __init__(  # noqa: PLR0913
        self,
        sets: Sequence[str | ShardSet],
        *,
        weights: Sequence[float] | None = None,
        num_frames: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        style: ClipStyle | str,
        expressions: int = 1,
        device: Literal["cpu", "mixed"] = "cpu",
        threads: int = 1,
        prefetch: int = 2,
        parts: int = 1,
        block_shards: int = 0,
        cache: ShardCache | None = None,
        max_damage: int = 100,
    ) -> None:
        """Open the sets and list their items; reading starts with the first iteration."""
        style = named_style(style) if isinstance(style, str) else style
        counts = [
            num_frames, batch_size, expressions, threads, style.pad_to, prefetch, parts, len(sets)
        ]  # fmt: skip
        if min(counts) < 1:
            raise ValueError(
                "num_frames, batch_size, expressions, threads, pad_to, prefetch, parts and the "
                f"number of sets must be >= 1; got {counts}"
            )
        frames = num_frames * len(order.rank_slots(0, batch_size, rank, world_size * parts))
        self.batch_size, self._part = batch_size, batch_size // parts
        self._rank, self._world_size = rank, world_size
        self._num_frames, self._pad_to, self._prefetch = num_frames, style.pad_to, prefetch
        self._cache = cache
        self.sets = [ShardSet.open(s, cache=cache) if isinstance(s, str) else s for s in sets]
        self.source = ClipSource(
            self.sets, weights=weights, num_frames=num_frames, seed=seed, sampling=style.sampling,
            augmentation=style.augmentation, expressions=expressions, block_shards=block_shards,
            max_damage=max_damage,
        )  # fmt: skip
        shares = None if weights is None else tuple(map(float, weights))
        # Renaming a field of a style would refuse the states of runs from before.
        settings = repr((
            shares, num_frames, style.sampling, style.augmentation, expressions, block_shards
        ))  # fmt: skip
        self._state = order.State(
            manifests=hashlib.sha256(" ".join(s.hash for s in self.sets).encode()).hexdigest(),
            settings=hashlib.sha256(settings.encode()).hexdigest()[:16],
            seed=seed, epoch=0, position=0,
        )  # fmt: skip
        self._decoder = FrameDecoder(device=device, threads=threads, max_frames=frames)
        self._collate = Collator()
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="shards-read")
        self._makers = make_team(prefetch if device == "cpu" else 1)
        self._ahead: collections.deque[Future[Batch]] = collections.deque()
        self._waited, self._worked = 0.0, 0.0

    def __len__(self) -> int:
        """Steps of a whole epoch, equal on all ranks; the last step repeats clips to be full."""
        return -(-len(self.source) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the current one, also a resumed one, goes on where it is."""
        if epoch != self._state.epoch:
            _drop(self._ahead)
            self._state = replace(self._state, epoch=epoch, position=0)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands behind the batch handed out last: plain values, under 1 kB."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the saved batch, on any number of ranks.

        Raises:
            ShardError: If the state belongs to other shards, settings or another seed.
        """
        _drop(self._ahead)
        self._state = order.State.restore(state, self._state)

    def close(self) -> None:
        """Stop all threads and free DALI; the loader must not be used afterwards."""
        _drop(self._ahead)
        self._makers.shutdown()
        self._readers.shutdown(cancel_futures=True)
        self._decoder.close()
        if self._cache is not None:
            self._cache.close()

    def stats(self) -> dict[str, float]:
        """What the loader has cost and met so far, on this rank; indexes count as well.

        Returns:
            `data_wait`: share of the time that training waited for a batch; `clips`: made, some
            ahead of training; `bytes_per_clip` and `requests_per_clip`: from where the sets lie;
            `cache_hits`: share of ranges that the cache had; `retries`, `hedges`: requests made
            again after an error, or beside a slow one; `refetched`: members fetched again as they
            came damaged; `quarantined`: damaged frames and shards; `replaced`: clips that needed
            one.
        """
        names = ("requests", "bytes", "cached", "retries", "hedges", "refetched")
        total = {n: sum(getattr(it.storage.traffic, n) for it in self.sets) for n in names}
        clips = max(self.source.made, 1)
        return {
            "data_wait": self._waited / max(self._waited + self._worked, 1e-9),
            "clips": self.source.made,
            "bytes_per_clip": total["bytes"] / clips,
            "requests_per_clip": total["requests"] / clips,
            "cache_hits": total["cached"] / max(total["cached"] + total["requests"], 1),
            **{name: total[name] for name in names[3:]},
            "quarantined": len(self.source.quarantine),
            "replaced": self.source.quarantine.replaced,
        }

    def report(self) -> str:
        """What was found damaged and put aside, a line each behind a summary."""
        return self.source.quarantine.report()

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's batches of the rest of the epoch; the state moves with each."""
        _drop(self._ahead)
        epoch, start = self._state.epoch, self._state.position
        batches = self._batches(epoch, start)
        self._ahead = ahead = collections.deque(islice(batches, self._prefetch))
        after, mark = start, time.perf_counter()
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(islice(batches, 1))
                self._waited += time.perf_counter() - mark
                after += self._part
                if (after - start) % self.batch_size == 0:  # the step is whole
                    next_at = (epoch, after) if after < len(self.source) else (epoch + 1, 0)
                    self._state = replace(self._state, epoch=next_at[0], position=next_at[1])
                mark = time.perf_counter()
                yield batch
                self._worked += time.perf_counter() - mark
                mark = time.perf_counter()
        finally:
            _drop(ahead)

    def _batches(self, epoch: int, start: int) -> Iterator[Future[Batch]]:
        """Batches that have begun; the clips of the one behind them are read already."""

        def read(position: int) -> list[Future[Clip]]:
            slots = order.rank_slots(position, self._part, self._rank, self._world_size)
            return [self._readers.submit(self.source.clip, epoch, slot) for slot in slots]

        steps = -(-(len(self.source) - start) // self.batch_size)
        reads = map(read, range(start, start + steps * self.batch_size, self._part))
        for clips, _ in pairwise(chain(reads, [[]])):
            yield self._makers.submit(self._make, clips)

    def _make(self, clips: Sequence[Future[Clip]]) -> Batch:
        """A batch, once its clips are read."""
        return self._assemble([clip.result() for clip in clips])

    def _assemble(self, clips: Sequence[Clip]) -> Batch:
        """Decode and collate the clips of one batch."""
        clips, pixels = self._decode(clips)
        records = [clip.record for clip in clips]
        frames = self._collate(pixels, records, self._num_frames, self._pad_to)
        height, width = frames.shape[-2:]
        padding = torch.ones(len(clips), height, width, dtype=torch.bool)
        index = [b for b, clip in enumerate(clips) for _ in clip.expressions]
        masks = torch.zeros(len(index), self._num_frames, height, width, dtype=torch.bool)
        for b, clip in enumerate(clips):
            h, w = clip.record.size
            padding[b, :h, :w] = False
            first = index.index(b)
            masks[first : first + len(clip.masks), :, :h, :w] = torch.from_numpy(clip.masks)
        return Batch(
            frames=frames,
            padding=padding,
            expressions=[text for clip in clips for text in clip.expressions],
            clip_index=torch.tensor(index),
            masks=masks,
            boxes_cxcywh=torch.from_numpy(np.concatenate([clip.boxes_cxcywh for clip in clips])),
            visible=torch.from_numpy(np.concatenate([clip.visible for clip in clips])),
            annotated=torch.from_numpy(np.stack([clip.annotated for clip in clips])),
            target_frame=torch.tensor([clip.target_frame for clip in clips]),
            sizes=torch.tensor([record.size for record in records]),
            keys=[clip.key for clip in clips],
            positions=[clip.position for clip in clips],
        ).to(frames.device)

    def _decode(self, clips: Sequence[Clip]) -> tuple[Sequence[Clip], list[torch.Tensor]]:
        """Decode all frames of a batch; clips with broken images give way to others."""
        for _ in range(MAX_ATTEMPTS):
            images = [image for clip in clips for image in clip.images]
            records = [clip.record.frame(t) for clip in clips for t in range(len(clip.images))]
            try:
                return clips, self._decoder.decode(images, records)
            except DecodeError as error:
                failure = error
            broken = [self._broken(clip) for clip in clips]
            if not any(broken):
                break
            clips = [
                self.source.clip(clip.epoch, clip.position) if bad else clip
                for clip, bad in zip(clips, broken, strict=True)
            ]
        raise ShardError(f"DALI failed on a batch but on none of its images alone: {failure}")

    def _broken(self, clip: Clip) -> bool:
        """Put the images of a clip aside that do not decode; whether there are any."""
        broken = False
        for image, place in zip(clip.images, clip.places, strict=True):
            try:
                self._decoder.decode([image], [clip.record])
            except DecodeError as error:
                problem = f"the image does not decode ({error}); build it again"
                self.source.put_aside(place, problem)
                broken = True
        return broken


def _drop(ahead: collections.deque[Future[Any]]) -> None:
    """Cancel what has not begun, wait for what has."""
    for future in ahead:
        future.cancel()
    wait(ahead)
    ahead.clear()
