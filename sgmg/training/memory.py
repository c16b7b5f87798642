"""Memory of training: what a step took, and time given for less of it."""

import resource
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sgmg.network.backbones.backbone import Backbone


def recompute_blocks(backbone: Backbone) -> int:
    """Keep of each block only what goes in; the backward pass computes the rest again.

    The numbers stay the same, dropped paths included.

    Args:
        backbone: changed in place.

    Returns:
        How many blocks it has.

    Raises:
        ValueError: it has none of those that may run twice.
    """
    blocks = backbone.recompute_blocks
    if not blocks:
        raise ValueError("--recompute works for Swin and ResNet backbones only; leave it out")
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = again
    return len(blocks)


def peak_memory(model: nn.Module, device: torch.device) -> str:
    """Say what training takes: the peak so far, and AdamW's two numbers a weight still to come.

    Args:
        model: the network, behind a backward pass.
        device: where it ran.
    """
    states = sum(2 * 4 * p.numel() for p in model.parameters() if p.requires_grad) / 2**30
    if device.type != "cuda":
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux
        return f"{used + states:.1f} GiB of memory, everything included"
    used = torch.cuda.max_memory_allocated(device) / 2**30
    there = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{used + states:.1f} of {there:.1f} GiB of the GPU"
