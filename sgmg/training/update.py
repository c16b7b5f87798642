"""One update of the network: forward, matching, loss over all processes, backward, step."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from sgmg.network.outputs import SgMgOutput
from sgmg.training.losses import Criterion, NonFiniteLossError, count_visible, normaliser
from sgmg.training.matcher import Matcher, Targets
from sgmg.training.optim import gradient_norms


@dataclass(frozen=True)
class Share:
    """The clips of one forward pass: what a process does of a batch, or of a part of it.

    Attributes:
        frames: [B, T, 3, H, W].
        padding: [B, H, W].
        expressions: E sentences.
        targets: what they mean.
        clip_index: clip of each expression, int64 [E]; by default one each, in order.
        annotated: frame of each clip that is answered for, int64 [B]; the targets are of it alone.
        seed: of dropout, so that a clip learns the same on any process and behind any restart.
    """

    frames: Tensor
    padding: Tensor
    expressions: Sequence[str]
    targets: Targets
    clip_index: Tensor | None = None
    annotated: Tensor | None = None
    seed: int = 0

    def to(self, device: torch.device | str) -> "Share":
        """The same with every tensor on `device`."""
        move = partial(torch.Tensor.to, device=device, non_blocking=True)
        moved: dict[str, Any] = {n: move(x) for n, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved, targets=Targets(*map(move, vars(self.targets).values())))


def answer(model: Any, share: Share, visible: float | Tensor) -> tuple[SgMgOutput, dict[str, Any]]:
    """Forward pass and loss of one share.

    Args:
        model: network in training mode, prepared or not.
        share: on its device.
        visible: frames with the object that the loss averages over.

    Returns:
        Output, and loss terms with their `total`.

    Raises:
        NonFiniteLossError: a term is NaN or infinite.
    """
    torch.manual_seed(share.seed)
    select = partial(Matcher(), targets=share.targets)
    which = {"target_frame": share.annotated, "clip_index": share.clip_index}
    outputs = model(share.frames, share.padding, share.expressions, select, **which)
    return outputs, Criterion()(outputs, share.targets, visible)


@dataclass(frozen=True)
class Update:
    """Moves the weights by one batch.

    Losses are averaged over the frames of all processes and accumulation steps: however a batch is
    shared, the update is that of the whole batch. (Batch norms that learn, which only the demo's
    backbone has, see one share at a time.)

    Args:
        accelerator: that prepared model and optimizer.
        model: prepared network, in training mode.
        optimizer: prepared.
        schedule: of the optimizer's rates, stepped once an update.
        clip_norm: largest norm of the whole gradient.
    """

    accelerator: Accelerator
    model: Any
    optimizer: Any
    schedule: LRScheduler
    clip_norm: float

    @property
    def network(self) -> Any:
        """The model as it was before it was prepared."""
        return self.accelerator.unwrap_model(self.model)

    def __call__(self, shares: Sequence[Share]) -> tuple[dict[str, float], Tensor]:
        """Learn from the shares of this process, as many as there are accumulation steps.

        Returns:
            Loss terms, `grad_norm` before clipping and that of each part, averaged over processes;
            logits of the masks predicted for the last share, [E, T, H, W].

        Raises:
            NonFiniteLossError: a term or a gradient is NaN or infinite; the weights have not moved.
        """
        accelerator = self.accelerator
        terms, mask_logits = self.gradients(shares)
        scale = accelerator.scaler.get_scale() if accelerator.scaler else 1.0
        parts = {n: it / scale for n, it in gradient_norms(self.network).items()}
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if accelerator.scaler is None and not norm.isfinite():
            bad = [f"gradient of {name}" for name, it in parts.items() if not it.isfinite()]
            raise NonFiniteLossError(tuple(bad))
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # by the scaler of float16
            self.schedule.step()
        self.optimizer.zero_grad()
        found = terms | {"grad_norm": norm} | {f"norm_{n}": value for n, value in parts.items()}
        values = accelerator.reduce(torch.stack([it.detach() for it in found.values()]), "mean")
        return dict(zip(found, values.tolist(), strict=True)), mask_logits

    def gradients(self, shares: Sequence[Share]) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient of a whole batch; no weight moves. As `__call__`, on this process alone."""
        accelerator, last = self.accelerator, len(shares) - 1
        here = torch.tensor(count_visible([share.targets for share in shares]))
        everywhere = accelerator.reduce(here.to(accelerator.device), "sum")
        visible = normaliser(everywhere, accelerator.num_processes * len(shares))
        # `backward` divides by the steps that Accelerate knows of
        scale = accelerator.gradient_accumulation_steps / len(shares)
        sums: dict[str, Tensor] = {}
        for number, share in enumerate(shares):
            wait = nullcontext() if number == last else accelerator.no_sync(self.model)
            with wait:
                outputs, terms = answer(self.model, share.to(accelerator.device), visible)
                accelerator.backward(terms["total"] * scale if scale != 1 else terms["total"])
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(shares)
            mask_logits = outputs.mask_logits.detach()
            del outputs, terms  # else they lie beside the next share's
        return sums, mask_logits
