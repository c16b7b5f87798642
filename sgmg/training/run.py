"""One run of training: its weights on their way, its folder, its interruptions."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from sgmg.network.model import SgMg
from sgmg.training import checkpoints as checkpoints
from sgmg.training.journal import LossTable, prediction_sheet
from sgmg.training.losses import NonFiniteLossError
from sgmg.training.optim import gradient_norms
from sgmg.training.replay import write_dump
from sgmg.training.update import Share, Update

MOST_DRAWN = 4  # expressions in a picture
_log = logging.getLogger(__name__)


class Run:
    """Updates, and what they leave behind; the same on every process.

    Args:
        folder: run folder.
        accelerator: devices and processes.
        model: network, new or to be trained on.
        optimizer: of its parameters.
        schedule: of the optimizer's rates.
        clip_norm: largest norm of the gradient.
        keep: checkpoints kept, beside the best.
        store: another place that gets a copy of each.
        resume: a checkpoint's folder, `auto` for the newest there is, None for a new run.

    Attributes:
        step: updates done.
        terms: loss terms, norms of gradients and `lr` of the last.
        state: what `save` was given when the checkpoint was made that this run goes on from.

    Raises:
        ValueError: no such checkpoint, or a new run where another one has checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: SgMg,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        *,
        clip_norm: float,
        keep: int,
        store: checkpoints.Store | None = None,
        resume: str | None = None,
    ) -> None:
        """Prepare model and optimizer; go on where the run stood."""
        self.folder, self.accelerator, self.schedule = folder, accelerator, schedule
        self.keep, self.store = keep, store
        self.model, self.optimizer = accelerator.prepare(model.train(), optimizer)
        self.update = Update(accelerator, self.model, self.optimizer, schedule, clip_norm=clip_norm)
        self.losses = LossTable(folder / "losses.csv")
        self.step = 0
        self.terms: dict[str, float] = {}
        self.state: dict[str, Any] = {}
        if accelerator.is_main_process:
            checkpoints.open_run(folder, resume=resume is not None)
            if store is not None and resume == "auto":
                checkpoints.download(store, folder)
        accelerator.wait_for_everyone()
        checkpoint = checkpoints.find_state(resume, folder) if resume else None
        if checkpoint is not None:
            accelerator.load_state(str(checkpoint))
            self.state = checkpoints.read_state(checkpoint)
            self.schedule.load_state_dict(self.state["schedule"])
            self.step = self.state["step"]
        if accelerator.is_main_process:
            self.losses.forget_after(self.step)
        self._before = signal.signal(signal.SIGTERM, lambda *_: accelerator.set_trigger())

    def finish(self) -> None:
        """Close the trackers; SIGTERM ends the process as it did before."""
        signal.signal(signal.SIGTERM, self._before)
        self.accelerator.end_training()

    def learn(self, shares: Sequence[Share], keys: Sequence[str]) -> Tensor:
        """One update, and its row in the CSV.

        Args:
            shares: of this process.
            keys: of their videos, for messages.

        Returns:
            Logits of the masks of the last share, [E, T, H, W].

        Raises:
            NonFiniteLossError: a term or a gradient is not finite; says where the dump is.
        """
        with self._dumping(shares, keys):
            self.terms, mask_logits = self.update(shares)
        self.step += 1
        self.terms["lr"] = self.optimizer.param_groups[0]["lr"]
        if self.accelerator.is_main_process:
            self.losses.add(self.step, self.terms)
        return mask_logits

    def rehearse(self, share: Share, keys: Sequence[str]) -> float:
        """Forward and backward pass that leave no trace, in seconds; as `learn`."""
        network, begin = self.update.network, time.perf_counter()
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        with self._dumping([share], keys):
            self.update.gradients([share])
        sum(gradient_norms(network).values(), torch.zeros(())).item()  # a GPU is waited for
        self.optimizer.zero_grad()
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
        return time.perf_counter() - begin

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, and copy it; every process must call it.

        Args:
            state: JSON-able, beside what the run knows itself.

        Raises:
            OSError: it could not be written. A copy that fails is a warning.
        """
        state = {**state, "schedule": self.schedule.state_dict()}
        checkpoint = checkpoints.save_checkpoint(
            self.folder, self.step, self.accelerator, self.model, state, keep=self.keep
        )
        if self.store is not None and self.accelerator.is_main_process:
            try:
                checkpoints.upload(checkpoint, self.store)
            except (ValueError, OSError) as error:
                _log.warning("%s has no copy: %s", checkpoint, error)
        self.accelerator.wait_for_everyone()
        return checkpoint

    def draw(
        self, pixels: Callable[[int], NDArray[np.uint8]], share: Share, mask_logits: Tensor
    ) -> None:
        """Picture of the first predictions over the ground truth, in `pictures/`.

        Args:
            pixels: frames of a clip, [T, h, w, 3], by its number in the share.
            share: what was learnt.
            mask_logits: predicted for it, [E, T, H, W].
        """
        if not self.accelerator.is_main_process:
            return
        folder, rows = self.folder / "pictures", range(min(len(share.expressions), MOST_DRAWN))
        clips = rows if share.clip_index is None else share.clip_index[: len(rows)].tolist()
        frames = [pixels(clip) for clip in clips]
        if share.annotated is not None:
            places = share.annotated[list(clips)].tolist()
            frames = [clip[[place]] for clip, place in zip(frames, places, strict=True)]
        both = (share.targets.masks, mask_logits)
        truth, predicted = (it[: len(rows)].cpu().numpy() for it in both)
        folder.mkdir(exist_ok=True)
        sheet = prediction_sheet(frames, truth, predicted > 0, share.expressions[: len(rows)])
        sheet.save(folder / f"step-{self.step:06d}.png")

    def score(self, checkpoint: Path, mean: float, scores: Mapping[str, float]) -> None:
        """Note how well a checkpoint does; the best one is kept."""
        if scores and self.accelerator.is_main_process:
            checkpoints.write_score(checkpoint, mean, scores)
        self.accelerator.log(dict(scores), step=self.step)

    def seed(self, seed: int, position: int) -> int:
        """Of dropout for the clips from a position on, in the next update."""
        return int(np.random.SeedSequence((seed, self.step, position)).generate_state(1)[0])

    @contextmanager
    def _dumping(self, shares: Sequence[Share], keys: Sequence[str]) -> Iterator[None]:
        """Write down what led to a number that is not finite."""
        try:
            yield
        except NonFiniteLossError as error:
            accelerator, rank = self.accelerator, self.accelerator.process_index
            dump = self.folder / f"dump-step-{self.step + 1:06d}{f'-rank{rank}' if rank else ''}"
            network, precision = self.update.network, accelerator.mixed_precision
            write_dump(dump, network, shares, keys=keys, precision=precision)
            where = f"update {self.step + 1}, clips {', '.join(keys)}; `train.py --replay {dump}`"
            raise NonFiniteLossError(error.terms, f"{where} does it again") from None
