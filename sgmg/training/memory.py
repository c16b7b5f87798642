"""Memory of training: what an update takes, and computing again what would not fit."""

import resource
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sgmg.network.backbones.backbone import Backbone

GIB = 2**30
ADAMW_BYTES = 2 * 4  # two float32 averages of each weight that trains


def recompute_blocks(backbone: Backbone) -> int:
    """Keep of each block only what goes in; the backward pass computes the rest again.

    The numbers stay the same, dropped paths included.

    Args:
        backbone: Changed in place.

    Returns:
        How many blocks it has.

    Raises:
        ValueError: It has none of those that may run twice.
    """
    blocks = backbone.recompute_blocks
    if not blocks:
        raise ValueError("--recompute works for Swin and ResNet backbones only; leave it out")
    for block in blocks:
        # Set on the instance: neither names of weights nor the block's own code change. The
        # reentrant kind (torch 2.15) would give no gradient where no input requires one.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def adamw_bytes(model: nn.Module) -> int:
    """Bytes that AdamW will add with its first step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return ADAMW_BYTES * sum(parameter.numel() for parameter in trained)


def peak_memory(model: nn.Module, device: torch.device) -> str:
    """Describe what training takes: the peak so far, and AdamW's averages still to come.

    Args:
        model: The network, after a backward pass.
        device: Where that ran.
    """
    if device.type != "cuda":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        return f"{(peak + adamw_bytes(model)) / GIB:.1f} GiB of memory, everything included"
    peak = torch.cuda.max_memory_allocated(device)
    total = torch.cuda.get_device_properties(device).total_memory
    return f"{(peak + adamw_bytes(model)) / GIB:.1f} of {total / GIB:.1f} GiB of the GPU"
