"""How weights move: parameter groups, learning-rate scale and schedules."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

_POSITIONS = ("sampling_offsets", "reference_points")  # layers that only place sampling points


@runtime_checkable
class HasLrGroup(Protocol):
    """A module that names the group of all its parameters.

    Attributes:
        lr_group: a name of `parameter_groups`.
    """

    lr_group: str


def parameter_groups(
    model: nn.Module, *, lr: float, backbone_lr: float, text_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into the four published groups, for AdamW.

    All parameters decay, biases and norms too.

    Args:
        model: The network; its ``backbone`` and any Hugging Face model inside it have own rates. A
            module with an `lr_group` (see `HasLrGroup`) is in that group.
        lr: Rate of everything else, sampling points included.
        backbone_lr: Rate of the backbone.
        text_lr: Rate of the text model (its projections train at ``lr``).
        weight_decay: Decay of every group.

    Returns:
        Groups ``base``, ``backbone``, ``text_encoder``, ``linear_proj`` with ``name``, ``params``,
        ``lr``, ``weight_decay``; a group may be empty.
    """
    rates = {"base": lr, "backbone": backbone_lr, "text_encoder": text_lr, "linear_proj": lr}
    members: dict[str, list[Tensor]] = {name: [] for name in rates}
    kinds: dict[str, str] = {}  # of parameters that stand out by the module they belong to
    for prefix, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            kind = "text_encoder"
        elif isinstance(module, HasLrGroup):
            kind = module.lr_group
        else:
            continue
        kinds |= {f"{prefix}.{name}": kind for name, _ in module.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[kinds.get(name) or _group(name)].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": rate, "weight_decay": weight_decay}
        for name, rate in rates.items()
    ]


def make_schedule(
    optimizer: Optimizer,
    kind: str = "constant",
    *,
    drops: Sequence[int] = (),
    warmup: int = 0,
    total: int = 0,
    floor: float = 0.02,
) -> LambdaLR:
    """Raise all rates linearly, then lower them as a recipe says.

    Args:
        optimizer: What to schedule.
        kind: ``step``, ``cosine`` or ``constant``.
        drops: Updates after which the rates fall tenfold, ascending (``step``).
        warmup: Updates of the rise; the first already moves the weights.
        total: Updates in all (``cosine``).
        floor: Last rate over the highest (``cosine``).

    Returns:
        A scheduler to step once an update; its state is plain values.

    Raises:
        ValueError: The rise is longer than the training.
    """
    if not 0 <= warmup <= max(total, 0):
        raise ValueError(f"warm-up of {warmup} updates: must lie between 0 and {total=}")

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / warmup
        if kind != "cosine":
            return 0.1 ** bisect_right(drops, update) if kind == "step" else 1.0
        progress = min((update - warmup) / max(total - warmup, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of each top-level part, for the log.

    Args:
        model: After ``backward``.

    Returns:
        Scalars by the name of the part; parts without gradient are left out.
    """
    norms = {}
    for name, part in model.named_children():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        if gradients:
            norms[name] = get_total_norm(gradients)
    return norms


def _group(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "linear_proj" if any(word in name for word in _POSITIONS) else "base"
