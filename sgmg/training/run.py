"""One run of training: its folder, its weights on their way, its interruptions."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from sgmg.network.model import SgMg
from sgmg.training import checkpoints, mirror
from sgmg.training.journal import LossTable, prediction_sheet
from sgmg.training.losses import NonFiniteLossError
from sgmg.training.optim import gradient_norms
from sgmg.training.replay import write_dump
from sgmg.training.update import MicroBatch, accumulate_gradients

MAX_PICTURED_EXPRESSIONS = 4
_log = logging.getLogger(__name__)


class Run:
    """What updates work on and what they leave behind; the same on every process.

    Args:
        folder: Run folder.
        accelerator: Devices and processes.
        model: Network, new or to be trained on.
        optimizer: Optimizer of its parameters.
        schedule: Schedule of the optimizer's rates.
        keep: Checkpoints kept, beside the best.
        store: Another place that gets a copy of each.
        resume: A checkpoint's folder, `auto` for the newest there is, None for a new run.

    Attributes:
        model: The network, prepared for several processes and mixed precision.
        network: The network as it was given.
        optimizer: The prepared optimizer.
        step: Updates done.
        loader_state: Where the loader's stream stood when the checkpoint was made that this run
            goes on from; None in a new run.

    Raises:
        ValueError: No such checkpoint, a new run where another one has checkpoints, or another
            process trains in the folder.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: SgMg,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        *,
        keep: int,
        store: mirror.Store | None = None,
        resume: str | None = None,
    ) -> None:
        """Prepare model and optimizer; go on where the run stood."""
        self.folder = folder
        self.accelerator = accelerator
        self.network = model.train()
        self.schedule = schedule
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.losses = LossTable(folder / "losses.csv")
        self.step = 0
        self.loader_state: dict[str, object] | None = None
        self._lock: BinaryIO | None = None
        self._keep = keep
        self._store = store
        # The others must not look for checkpoints before the main process has got them.
        with checkpoints.failing_together(accelerator):
            if accelerator.is_main_process:
                self._lock = checkpoints.lock_run(folder)
                checkpoints.open_run(folder, resume=resume is not None)
                if store is not None and resume == "auto":
                    mirror.download(store, folder)
        checkpoint = checkpoints.find_state(resume, folder) if resume else None
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        with checkpoints.failing_together(accelerator):
            if accelerator.is_main_process:
                for path in checkpoints.set_aside_later(folder, self.step):
                    _log.warning("going on from update %d: %s is left aside", self.step, path)
                # A killed run may have written rows of updates that come again now.
                self.losses.forget_after(self.step)
        # Accelerate's trigger reaches all processes, whichever of them got the signal: they save
        # together, behind the same update.
        self._previous_handler = signal.signal(signal.SIGTERM, lambda *_: accelerator.set_trigger())

    def _go_on_from(self, checkpoint: Path) -> None:
        """Load weights, optimizer, random states, schedule and step."""
        self.accelerator.load_state(str(checkpoint))
        state = checkpoints.read_state(checkpoint)
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        self.loader_state = state["loader"]

    def finish(self) -> None:
        """Close the trackers and free the run folder; SIGTERM ends the process as it did before."""
        signal.signal(signal.SIGTERM, self._previous_handler)
        self.accelerator.end_training()
        if self._lock is not None:
            self._lock.close()

    def finish_update(self, values: Mapping[str, float]) -> None:
        """Count an update as done, and write its row of the CSV."""
        self.step += 1
        if self.accelerator.is_main_process:
            self.losses.add(self.step, values)

    def dropout_seed(self, seed: int, position: int) -> int:
        """Seed of dropout in the next update.

        It follows from the clips alone, so that these learn the same on any number of processes and
        after any resume.

        Args:
            seed: Seed of the run.
            position: Position in the epoch of the first clip of the micro batch.
        """
        sequence = np.random.SeedSequence((seed, self.step, position))
        return int(sequence.generate_state(1)[0])

    def dry_run(self, micro_batch: MicroBatch) -> float:
        """Make a forward and a backward pass that leave no trace.

        Returns:
            Seconds that they took.

        Raises:
            NonFiniteLossError: A loss term is not finite; says where the dump is.
        """
        begin = time.perf_counter()
        # Running statistics of batch norms move in every forward pass.
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with self.dump_if_not_finite([micro_batch]):
            accumulate_gradients(self.accelerator, self.model, [micro_batch])
        # Kernels run behind the program: reading a number that needs all gradients waits for them.
        sum(gradient_norms(self.network).values(), torch.zeros(())).item()
        self.optimizer.zero_grad()
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])
        return time.perf_counter() - begin

    def save(self, loader_state: dict[str, object]) -> Path:
        """Write a checkpoint, and copy it; every process must call it.

        Args:
            loader_state: JSON-able, where the loader's stream stands.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: It could not be written. A copy that fails is a warning.
        """
        state: checkpoints.RunState = {
            "step": self.step,
            "loader": loader_state,
            "schedule": self.schedule.state_dict(),
        }
        checkpoint = checkpoints.save_checkpoint(
            self.folder, self.accelerator, self.model, state, keep=self._keep
        )
        if self._store is not None and self.accelerator.is_main_process:
            # The checkpoint is safe here: a store that does not answer must not end the run.
            try:
                mirror.upload(checkpoint, self._store)
            except (ValueError, OSError) as error:
                _log.warning("%s has no copy: %s", checkpoint, error)
        self.accelerator.wait_for_everyone()
        return checkpoint

    def save_picture(
        self,
        pixels: Callable[[int], NDArray[np.uint8]],
        micro_batch: MicroBatch,
        mask_logits: Tensor,
    ) -> None:
        """Draw the first predictions over the ground truth, into `pictures/`.

        Args:
            pixels: Gives the frames of a clip, [T, h, w, 3], by its number in the micro batch.
            micro_batch: What was learnt from.
            mask_logits: Masks predicted for it, [E, T, H, W].
        """
        if not self.accelerator.is_main_process:
            return
        count = min(len(micro_batch.expressions), MAX_PICTURED_EXPRESSIONS)
        clips = list(range(count))
        if micro_batch.clip_index is not None:
            clips = micro_batch.clip_index[:count].tolist()
        frames = [pixels(clip) for clip in clips]
        if micro_batch.target_frame is not None:
            # Masks are of the supervised frame alone: show that one.
            target_frames = micro_batch.target_frame[clips].tolist()
            frames = [
                clip_frames[[index]]
                for clip_frames, index in zip(frames, target_frames, strict=True)
            ]
        picture = prediction_sheet(
            frames,
            truth=micro_batch.targets.masks[:count].cpu().numpy(),
            predicted=mask_logits[:count].cpu().numpy() > 0,
            expressions=micro_batch.expressions[:count],
        )
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"step-{self.step:06d}.png")

    def save_score(self, checkpoint: Path, mean: float, scores: Mapping[str, float]) -> None:
        """Note how well a checkpoint does; the one of the best mean is kept."""
        if scores and self.accelerator.is_main_process:
            checkpoints.write_score(checkpoint, mean, scores)
        self.accelerator.log(dict(scores), step=self.step)

    @contextmanager
    def dump_if_not_finite(self, micro_batches: Sequence[MicroBatch]) -> Iterator[None]:
        """Write down what led to a number that is not finite, for `python -m sgmg replay`.

        Raises:
            NonFiniteLossError: The block did; now it says where the dump is.
        """
        try:
            yield
        except NonFiniteLossError as error:
            number = self.step + 1
            name = f"dump-step-{number:06d}"
            rank = self.accelerator.process_index
            if rank:
                name += f"-rank{rank}"
            dump = self.folder / name
            write_dump(
                dump,
                self.network,
                micro_batches,
                precision=self.accelerator.mixed_precision,
            )
            keys = [key for micro_batch in micro_batches for key in micro_batch.keys]
            raise NonFiniteLossError(
                error.terms,
                f"update {number}, clips {', '.join(keys)}; `python -m sgmg replay {dump}` does it "
                "again",
            ) from None
