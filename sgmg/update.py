"""One update of the network: forward, matching, loss over all processes, backward, step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from sgmg.losses import Criterion, normaliser
from sgmg.matcher import Matcher, Targets


class Update:
    """Moves the weights by one batch; losses are averaged over the frames of all processes."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        optimizer: Any,
        schedule: LRScheduler,
        *,
        clip_norm: float,
    ) -> None:
        """Collect what moves.

        Args:
            accelerator: that prepared model and optimizer.
            model: prepared network, in training mode.
            optimizer: prepared.
            schedule: of the optimizer's rates, stepped once an update.
            clip_norm: largest norm of the whole gradient.
        """
        self.accelerator, self.model = accelerator, model
        self.optimizer, self.schedule = optimizer, schedule
        self.clip_norm = clip_norm
        self.matcher, self.criterion = Matcher(), Criterion()

    def __call__(
        self,
        frames: Tensor,
        padding: Tensor,
        expressions: Sequence[str],
        targets: Targets,
        clip_index: Tensor | None = None,
    ) -> tuple[dict[str, float], Tensor]:
        """Learn from the clips of this process.

        Args:
            frames: [B, T, 3, H, W].
            padding: [B, H, W].
            expressions: E sentences.
            targets: what they mean.
            clip_index: clip of each expression, int64 [E]; by default one each, in order.

        Returns:
            Loss terms and the gradient's norm before clipping, averaged over processes; logits of
            the predicted masks [E, T, H, W].

        Raises:
            NonFiniteLossError: a term is NaN or infinite; the weights have not moved.
        """
        accelerator = self.accelerator
        visible = accelerator.reduce(targets.visible.sum(), "sum")
        select = partial(self.matcher, targets=targets)
        outputs = self.model(frames, padding, expressions, select, clip_index=clip_index)
        terms = self.criterion(outputs, targets, normaliser(visible, accelerator.num_processes))
        accelerator.backward(terms["total"])
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        names = (*terms, "grad_norm")
        values = torch.stack([*(t.detach() for t in terms.values()), norm.detach()])
        values = accelerator.reduce(values, "mean")
        return dict(zip(names, values.tolist(), strict=True)), outputs.mask_logits.detach()
