"""The two halves of an update: gradients of all its clips, then one step of the optimizer.

Losses are averaged over the frames of all processes and accumulation steps: however a batch is
split into micro batches, the update is that of the whole batch. (Batch norms that learn, which only
the demo's backbone has, see one micro batch at a time.)
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sgmg.network.outputs import SgMgOutput
from sgmg.training.losses import Criterion, NonFiniteLossError, count_visible, normaliser
from sgmg.training.matcher import Matcher
from sgmg.training.optim import gradient_norms
from sgmg.training.targets import Targets


@dataclass(frozen=True)
class MicroBatch:
    """The clips of one forward pass: what a process does of an update, or a part of that.

    Attributes:
        frames: [B, T, 3, H, W], ImageNet mean and deviation removed.
        padding: Bool [B, H, W], True on padded pixels.
        expressions: E expressions.
        targets: The object that each expression means.
        clip_index: Clip of each expression, int64 [E]; by default one each, in order.
        target_frame: Frame of each clip that is supervised, int64 [B]; the others only give motion
            context, and the targets have T = 1. By default all frames are supervised.
        seed: Seed of dropout, so that a clip learns the same on any process and after a resume.
        keys: Keys of the clips' videos, for messages.
    """

    frames: Tensor
    padding: Tensor
    expressions: Sequence[str]
    targets: Targets
    clip_index: Tensor | None = None
    target_frame: Tensor | None = None
    seed: int = 0
    keys: Sequence[str] = ()

    def to(self, device: torch.device | str) -> "MicroBatch":
        """Return the same micro batch with every tensor on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            padding=self.padding.to(device, non_blocking=True),
            targets=self.targets.to(device),
            clip_index=moved(self.clip_index),
            target_frame=moved(self.target_frame),
        )


def forward_and_loss(
    model: nn.Module, micro_batch: MicroBatch, num_visible: float | Tensor
) -> tuple[SgMgOutput, dict[str, Tensor]]:
    """Run the network on a micro batch and compute its loss.

    Args:
        model: Network in training mode, prepared by Accelerate or not.
        micro_batch: On the model's device.
        num_visible: Frames with the object that the loss averages over.

    Returns:
        Output of the network, and unweighted loss terms with their weighted ``total``.

    Raises:
        NonFiniteLossError: A term is NaN or infinite.
    """
    torch.manual_seed(micro_batch.seed)  # of dropout and dropped paths
    outputs = model(
        micro_batch.frames,
        micro_batch.padding,
        micro_batch.expressions,
        partial(Matcher(), targets=micro_batch.targets),
        target_frame=micro_batch.target_frame,
        clip_index=micro_batch.clip_index,
    )
    return outputs, Criterion()(outputs, micro_batch.targets, num_visible)


def accumulate_gradients(
    accelerator: Accelerator, model: nn.Module, micro_batches: Sequence[MicroBatch]
) -> tuple[dict[str, Tensor], Tensor]:
    """Add up the gradients of all micro batches of an update; no weight moves.

    Args:
        accelerator: The one that prepared the model.
        model: Prepared network in training mode.
        micro_batches: Those of this process; on any device, each is moved when its turn comes.

    Returns:
        Loss terms, averaged over the micro batches of this process; logits of the masks of the last
        micro batch, [E, T, H, W].

    Raises:
        NonFiniteLossError: A loss term is NaN or infinite.
    """
    num_steps = len(micro_batches)
    last = num_steps - 1

    # How many frames show the object, over all processes: the loss averages over these.
    visible_here = count_visible([micro_batch.targets for micro_batch in micro_batches])
    visible_everywhere = accelerator.reduce(
        torch.tensor(visible_here).to(accelerator.device), "sum"
    )
    num_visible = normaliser(visible_everywhere, accelerator.num_processes * num_steps)

    # `Accelerator.backward` divides by the accumulation steps that it was configured with
    # (accelerate 1.15), so a call with another number of micro batches must undo that.
    scale = accelerator.gradient_accumulation_steps / num_steps

    sums: dict[str, Tensor] = {}
    for index, micro_batch in enumerate(micro_batches):
        # Processes exchange gradients once an update, in the backward pass of the last micro batch.
        context = nullcontext() if index == last else accelerator.no_sync(model)
        with context:
            outputs, terms = forward_and_loss(
                model, micro_batch.to(accelerator.device), num_visible
            )
            total = terms["total"]
            accelerator.backward(total if scale == 1 else total * scale)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach() / num_steps
        mask_logits = outputs.mask_logits.detach()
        # Otherwise they would lie in memory beside those of the next micro batch.
        del outputs, terms, total
    return sums, mask_logits


def step_optimizer(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    schedule: LRScheduler,
    *,
    clip_norm: float,
) -> dict[str, Tensor]:
    """Clip the gradients, move the weights and the learning rates, forget the gradients.

    Args:
        accelerator: The one that prepared model and optimizer.
        model: Prepared network, after a backward pass.
        optimizer: Prepared optimizer of its parameters.
        schedule: Schedule of the optimizer's rates.
        clip_norm: Largest norm of the whole gradient.

    Returns:
        ``grad_norm`` before clipping, and ``norm_`` of each part of the network.

    Raises:
        NonFiniteLossError: A gradient is NaN or infinite; the weights have not moved.
    """
    scaler = accelerator.scaler  # of float16, None in any other precision
    loss_scale = 1.0 if scaler is None else scaler.get_scale()
    # Without the compiler's wrapper, whose only part would be the whole network.
    network = accelerator.unwrap_model(model, keep_torch_compile=False)
    norms = {name: norm / loss_scale for name, norm in gradient_norms(network).items()}
    grad_norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    # In float16 infinite gradients are part of the game: the scaler skips the step and tries a
    # smaller scale in the next one.
    if scaler is None and not grad_norm.isfinite():
        non_finite = [name for name, norm in norms.items() if not norm.isfinite()]
        raise NonFiniteLossError(tuple(f"gradient of {name}" for name in non_finite))
    optimizer.step()
    if not optimizer.step_was_skipped:
        schedule.step()
    optimizer.zero_grad()
    return {"grad_norm": grad_norm, **{f"norm_{name}": norm for name, norm in norms.items()}}


def average_over_processes(
    accelerator: Accelerator, scalars: Mapping[str, Tensor]
) -> dict[str, float]:
    """Average scalars over all processes, in one exchange; every process must call it."""
    values = torch.stack([scalar.detach() for scalar in scalars.values()])
    means = accelerator.reduce(values, "mean").tolist()
    return dict(zip(scalars, means, strict=True))
