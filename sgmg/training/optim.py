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

# Layers that only place sampling points. The published code gives them a group of their own.
POSITION_LAYERS = ("sampling_offsets", "reference_points")


@runtime_checkable
class HasLrGroup(Protocol):
    """A module that names the group of all its parameters.

    Attributes:
        lr_group: Name of one of the groups of `parameter_groups`.
    """

    lr_group: str


def parameter_groups(
    model: nn.Module, *, lr: float, backbone_lr: float, text_lr: float, weight_decay: float
) -> list[dict[str, Any]]:  # the type that torch's optimizers take
    """Sort the trainable parameters into the four published groups, for AdamW.

    All parameters decay, biases and norms too.

    Args:
        model: The network; its ``backbone`` and any Hugging Face model inside it have own rates. A
            module with an `lr_group` (see `HasLrGroup`) is in that group.
        lr: Rate of everything else, sampling points included.
        backbone_lr: Rate of the backbone.
        text_lr: Rate of the text model (its projections train at ``lr``).
        weight_decay: Decay of every group, a factor of the rate.

    Returns:
        Groups ``base``, ``backbone``, ``text_encoder``, ``linear_proj`` with ``name``, ``params``,
        ``lr``, ``weight_decay``; a group may be empty.
    """
    # Resuming needs the same groups in the same order, whichever parameters train.
    rates = {"base": lr, "backbone": backbone_lr, "text_encoder": text_lr, "linear_proj": lr}
    members: dict[str, list[Tensor]] = {group: [] for group in rates}
    group_of_module = _groups_by_module(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = group_of_module.get(name) or _group_by_name(name)
            members[group].append(parameter)
    return [
        {"name": group, "params": members[group], "lr": rate, "weight_decay": weight_decay}
        for group, rate in rates.items()
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
        optimizer: The one whose rates move.
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
        if kind == "step":
            return 0.1 ** bisect_right(drops, update)
        if kind == "cosine":
            progress = min((update - warmup) / max(total - warmup, 1), 1.0)
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    # A plain function: `LambdaLR.state_dict` leaves it out, and what stays fits into JSON.
    return LambdaLR(optimizer, factor)


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of each top-level part, for the log.

    Args:
        model: After ``backward``.

    Returns:
        Scalars by the name of the part; parts without gradient are left out.
    """
    norms: dict[str, Tensor] = {}
    for name, part in model.named_children():
        gradients = [
            parameter.grad for parameter in part.parameters() if parameter.grad is not None
        ]
        if gradients:
            norms[name] = get_total_norm(gradients)
    return norms


def _groups_by_module(model: nn.Module) -> dict[str, str]:
    """Group of each parameter that stands out by the module it belongs to."""
    groups: dict[str, str] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            group = "text_encoder"
        elif isinstance(module, HasLrGroup):
            group = module.lr_group
        else:
            continue
        for name, _ in module.named_parameters():
            groups[f"{prefix}.{name}"] = group
    return groups


def _group_by_name(name: str) -> str:
    """Group of any other parameter."""
    if name.startswith("backbone."):
        return "backbone"
    if any(layer in name for layer in POSITION_LAYERS):
        return "linear_proj"
    return "base"
