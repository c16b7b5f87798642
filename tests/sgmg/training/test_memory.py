import re
import resource

import pytest
import torch
from torch import nn

from sgmg.training.memory import adamw_bytes, peak_memory, recompute_blocks
from sgmg.training.update import forward_and_loss
from tests.sgmg.tiny import tiny_model
from tests.sgmg.training.clips import micro_batch


def test_recomputed_blocks_learn_the_same() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny_model(backbone="video_swin_t", drop_path=0.5).train()
        if recompute:
            assert recompute_blocks(model.backbone) == 12
        _, terms = forward_and_loss(model, micro_batch(2), 1.0)
        terms["total"].backward()
        parts = [
            parameter.grad.flatten()
            for parameter in model.parameters()
            if parameter.grad is not None
        ]
        gradients.append(torch.cat(parts))
    assert torch.equal(*gradients)


def test_a_backbone_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="Swin and ResNet"):
        recompute_blocks(tiny_model().backbone)


def test_adamw_keeps_two_numbers_a_weight_that_trains() -> None:
    model = nn.Sequential(nn.Linear(30, 10), nn.Linear(10, 10))
    model[1].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    averages = [
        tensor
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    ]
    assert adamw_bytes(model) == sum(tensor.nbytes for tensor in averages) > 2000


def test_peak_memory_is_that_of_the_process_and_the_averages_to_come() -> None:
    model = nn.Linear(1024, 256 * 1024, bias=False, device="meta")  # 1 GiB in float32
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = peak_memory(model, torch.device("cpu"))
    number = re.match(r"([\d.]+) GiB of memory", text)
    assert number is not None
    assert float(number[1]) == pytest.approx(peak_gib + 2, abs=0.1)
