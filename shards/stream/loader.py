"""`ClipLoader`: order + storage + decoder -> `Batch`."""

import collections
import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from shards.storage.cache import ShardCache
from shards.stream import order
from shards.stream.batch import Batch
from shards.stream.clip_source import MAX_ATTEMPTS, Clip, ClipSource
from shards.stream.collate import Collator
from shards.stream.decode import DecodeError, Decoder, FrameDecoder
from shards.stream.styles import ClipStyle, named_style
from shards.stream.threads import frame_thread_pool

# Clips read at once: reading waits for the network, not for the processor.
READ_THREADS = 4


class ClipLoader:
    """Batches of clips for training: the same clips in the same order for any number of processes.

    Iterating yields the rest of the current epoch; after its last batch the next epoch begins.

    Args:
        sets: Shard sets, or folders or URLs of them.
        weights: Share of each set in an epoch; None: each item comes once.
        num_frames: Frames of a clip, T.
        batch_size: Clips a step, all processes together.
        parts: Batches that the clips of a step come in, one behind the other; the state moves when
            the last of them was taken.
        seed: Seed of order, sampling and augmentation.
        rank: Number of this process, counted from 0.
        world_size: Number of processes.
        style: How clips are cut from videos, augmented and padded, or the name of a known style.
        expressions: Most expressions of a clip: its item's own and, beyond the published one,
            others of its video. They share decoding and the visual pass, and tell each other apart.
        device: "cpu", or "mixed" to decode on the GPU.
        threads: Number of DALI's threads.
        prefetch: Batches made ahead, on a CPU each by a thread of its own.
        block_shards: Shards of a set read at a time, see `order.epoch_order`; 0: no blocks.
        cache: Where to keep whole shards of remote sets; closed with the loader.
        max_damage: Frames and shards that may be damaged, on this rank, before training ends; the
            clips that need them are replaced by others of their set, on all ranks alike.
        decoder: In place of the decoder of `device`; closed with the loader.

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
        decoder: Decoder | None = None,
    ) -> None:
        """Open the sets and list their items; reading starts with the first iteration."""
        if isinstance(style, str):
            style = named_style(style)
        counts = [
            num_frames,
            batch_size,
            expressions,
            threads,
            style.pad_to,
            prefetch,
            parts,
            len(sets),
        ]
        if min(counts) < 1:
            raise ValueError(
                "num_frames, batch_size, expressions, threads, pad_to, prefetch, parts and the "
                f"number of sets must be >= 1; got {counts}"
            )
        # Also the check that processes and parts divide the batch, before anything is opened.
        clips_of_batch = len(order.rank_slots(0, batch_size, rank, world_size * parts))
        self.batch_size = batch_size
        self._batch_positions = batch_size // parts  # of one batch on all processes
        self._rank = rank
        self._world_size = world_size
        self._num_frames = num_frames
        self._pad_to = style.pad_to
        self._prefetch = prefetch
        self._cache = cache
        self.sets = [
            ShardSet.open(shard_set, cache=cache) if isinstance(shard_set, str) else shard_set
            for shard_set in sets
        ]
        self.source = ClipSource(
            self.sets,
            weights=weights,
            num_frames=num_frames,
            seed=seed,
            sampling=style.sampling,
            augmentation=style.augmentation,
            expressions=expressions,
            block_shards=block_shards,
            max_damage=max_damage,
        )
        # All that decides the clips. Padding does not: it may change between a stop and a resume.
        settings = (
            None if weights is None else tuple(map(float, weights)),
            num_frames,
            style.sampling,
            style.augmentation,
            expressions,
            block_shards,
        )
        manifests = " ".join(shard_set.hash for shard_set in self.sets)
        self._state = order.State(
            manifests=_sha256(manifests),
            settings=_sha256(repr(settings))[:16],
            seed=seed,
            epoch=0,
            position=0,
        )
        if decoder is None:
            decoder = FrameDecoder(
                device=device,
                threads=threads,
                max_frames=num_frames * clips_of_batch,
            )
        self._decoder = decoder
        self._collate = Collator()
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="shards-read")
        # On a GPU one thread is enough, and what it decoded is valid until its next batch.
        self._makers = frame_thread_pool(prefetch if device == "cpu" else 1)
        self._ahead: collections.deque[Future[Batch]] = collections.deque()
        self._waited_s = 0.0
        self._worked_s = 0.0

    def __len__(self) -> int:
        """Steps of a whole epoch, equal on all ranks; the last step repeats clips to be full."""
        return math.ceil(len(self.source) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the current one, also a resumed one, goes on where it is."""
        if epoch != self._state.epoch:
            _cancel(self._ahead)
            self._state = replace(self._state, epoch=epoch, position=0)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands behind the batch handed out last.

        Returns:
            Strings and whole numbers, under 1 kB as JSON.
        """
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the saved batch, on any number of ranks.

        Raises:
            ShardError: If the state belongs to other shards, settings or another seed.
        """
        _cancel(self._ahead)
        self._state = order.State.restore(state, self._state)

    def close(self) -> None:
        """Stop all threads and free DALI; the loader must not be used afterwards."""
        _cancel(self._ahead)
        self._makers.shutdown()
        self._readers.shutdown(cancel_futures=True)
        self._decoder.close()
        if self._cache is not None:
            self._cache.close()

    def stats(self) -> dict[str, float]:
        """Count what the loader has cost and met so far, on this rank; indexes count as well.

        Returns:
            `data_wait`: share of the time that training waited for a batch; `clips`: made, some
            ahead of training; `bytes_per_clip` and `requests_per_clip`: from where the sets lie;
            `cache_hits`: share of ranges that the cache had; `retries`, `hedges`: requests made
            again after an error, or beside a slow one; `refetched`: members fetched again as they
            came damaged; `quarantined`: damaged frames and shards; `replaced`: clips that needed
            one.
        """
        traffics = [shard_set.storage.traffic for shard_set in self.sets]
        num_bytes = sum(traffic.bytes for traffic in traffics)
        num_requests = sum(traffic.requests for traffic in traffics)
        num_cached = sum(traffic.cached for traffic in traffics)
        num_clips = self.source.num_clips_made
        # lower limits of 1 and of a nanosecond: before the first clip all shares are 0
        total_s = max(self._waited_s + self._worked_s, 1e-9)
        return {
            "data_wait": self._waited_s / total_s,
            "clips": num_clips,
            "bytes_per_clip": num_bytes / max(num_clips, 1),
            "requests_per_clip": num_requests / max(num_clips, 1),
            "cache_hits": num_cached / max(num_cached + num_requests, 1),
            "retries": sum(traffic.retries for traffic in traffics),
            "hedges": sum(traffic.hedges for traffic in traffics),
            "refetched": sum(traffic.refetched for traffic in traffics),
            "quarantined": len(self.source.quarantine),
            "replaced": self.source.quarantine.num_replaced,
        }

    def report(self) -> str:
        """List what is damaged and was put aside, a line each behind a summary."""
        return self.source.quarantine.report()

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's batches of the rest of the epoch; the state moves with each."""
        # An iteration that was left may still have batches ahead.
        _cancel(self._ahead)
        epoch = self._state.epoch
        start = self._state.position
        batches = self._begin_batches(epoch, start)
        ahead = collections.deque(itertools.islice(batches, self._prefetch))
        self._ahead = ahead
        next_position = start
        clock = time.perf_counter()
        try:
            while ahead:
                batch = ahead.popleft().result()
                # One batch was taken, so one more begins: `prefetch` are always on their way.
                ahead.extend(itertools.islice(batches, 1))
                self._waited_s += time.perf_counter() - clock
                next_position += self._batch_positions
                if (next_position - start) % self.batch_size == 0:
                    # The step is whole. The state moves before the batch is handed out, so that a
                    # state saved while training uses the batch is behind it.
                    self._move_state(epoch, next_position)
                clock = time.perf_counter()
                yield batch
                self._worked_s += time.perf_counter() - clock
                clock = time.perf_counter()
        finally:
            _cancel(ahead)

    def _move_state(self, epoch: int, position: int) -> None:
        """Let the state stand at a position, or behind an epoch's end at the start of the next."""
        if position >= len(self.source):
            epoch += 1
            position = 0
        self._state = replace(self._state, epoch=epoch, position=position)

    def _begin_batches(self, epoch: int, start: int) -> Iterator[Future[Batch]]:
        """Yield batches that have begun, and read the clips of the one behind each already."""
        num_steps = math.ceil((len(self.source) - start) / self.batch_size)
        stop = start + num_steps * self.batch_size
        clips: list[Future[Clip]] = []
        for position in range(start, stop, self._batch_positions):
            next_clips = self._begin_clips(epoch, position)
            if clips:
                yield self._makers.submit(self._make, clips)
            clips = next_clips
        if clips:
            yield self._makers.submit(self._make, clips)

    def _begin_clips(self, epoch: int, position: int) -> list[Future[Clip]]:
        """Begin to read this rank's clips of the batch that starts at a position."""
        slots = order.rank_slots(position, self._batch_positions, self._rank, self._world_size)
        return [self._readers.submit(self.source.clip, epoch, slot) for slot in slots]

    def _make(self, clips: Sequence[Future[Clip]]) -> Batch:
        """Make a batch, once its clips are read."""
        return self.assemble([clip.result() for clip in clips])

    def assemble(self, clips: Sequence[Clip]) -> Batch:
        """Decode and collate the clips of one batch."""
        clips, pixels = self._decode(clips)
        transforms = [clip.transform for clip in clips]
        frames = self._collate(pixels, transforms, self._num_frames, self._pad_to)
        height, width = frames.shape[-2:]
        expressions: list[str] = []
        clip_index: list[int] = []
        for b, clip in enumerate(clips):
            expressions += clip.expressions
            clip_index += [b] * len(clip.expressions)
        padding = torch.ones(len(clips), height, width, dtype=torch.bool)
        masks = torch.zeros(len(expressions), self._num_frames, height, width, dtype=torch.bool)
        first = 0  # of the clip's expressions, in the batch
        for b, clip in enumerate(clips):
            h, w = clip.transform.size
            padding[b, :h, :w] = False
            stop = first + len(clip.expressions)
            masks[first:stop, :, :h, :w] = torch.from_numpy(clip.masks)
            first = stop
        batch = Batch(
            frames=frames,
            padding=padding,
            expressions=expressions,
            clip_index=torch.tensor(clip_index),
            masks=masks,
            boxes_cxcywh=torch.from_numpy(np.concatenate([clip.boxes_cxcywh for clip in clips])),
            visible=torch.from_numpy(np.concatenate([clip.visible for clip in clips])),
            annotated=torch.from_numpy(np.stack([clip.annotated for clip in clips])),
            target_frame=torch.tensor([clip.target_frame for clip in clips]),
            sizes=torch.tensor([transform.size for transform in transforms]),
            keys=[clip.key for clip in clips],
            positions=[clip.position for clip in clips],
        )
        return batch.to(frames.device)

    def _decode(self, clips: Sequence[Clip]) -> tuple[Sequence[Clip], list[Tensor]]:
        """Decode all frames of a batch; clips with broken images give way to others."""
        for _ in range(MAX_ATTEMPTS):
            images = []
            transforms = []
            for clip in clips:
                for t, image in enumerate(clip.images):
                    images.append(image)
                    transforms.append(clip.transform.of_frame(t))
            try:
                return clips, self._decoder.decode(images, transforms)
            except DecodeError as error:
                failure = error
            # DALI does not say which image failed: try each alone.
            broken = [self._put_broken_images_aside(clip) for clip in clips]
            if not any(broken):
                break
            clips = [
                self.source.clip(clip.epoch, clip.position) if is_broken else clip
                for clip, is_broken in zip(clips, broken, strict=True)
            ]
        raise ShardError(f"DALI failed on a batch but on none of its images alone: {failure}")

    def _put_broken_images_aside(self, clip: Clip) -> bool:
        """Quarantine the images of a clip that do not decode; return whether there are any."""
        any_broken = False
        for image, frame_key in zip(clip.images, clip.frame_keys, strict=True):
            try:
                self._decoder.decode([image], [clip.transform])
            except DecodeError as error:
                problem = f"the image does not decode ({error}); build it again"
                self.source.put_aside(frame_key, problem)
                any_broken = True
        return any_broken


def _sha256(text: str) -> str:
    """Hash a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _cancel(ahead: collections.deque[Future[Batch]]) -> None:
    """Cancel what has not begun, wait for what has."""
    for future in ahead:
        future.cancel()
    wait(ahead)
    ahead.clear()
