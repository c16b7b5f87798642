"""One update is one update, however its clips are split among processes and steps."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from sgmg.training.losses import NonFiniteLossError
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.update import (
    accumulate_gradients,
    average_over_processes,
    forward_and_loss,
    step_optimizer,
)
from tests.processes import finish, start
from tests.sgmg.tiny import tiny_model
from tests.sgmg.training.clips import micro_batch

CLIPS = 4
RATE = 1e-3


@dataclass(frozen=True)
class Prepared:
    """What `train.py` prepares before its first update."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: AcceleratedOptimizer
    schedule: LRScheduler

    def step(self) -> dict[str, torch.Tensor]:
        return step_optimizer(
            self.accelerator, self.model, self.optimizer, self.schedule, clip_norm=1e9
        )


def prepared(network: nn.Module) -> Prepared:
    accelerator = Accelerator(cpu=True)
    groups = parameter_groups(network, lr=RATE, backbone_lr=RATE, text_lr=RATE, weight_decay=0.0)
    optimizer = torch.optim.SGD(groups)
    schedule = make_schedule(optimizer)
    model, accelerated_optimizer = accelerator.prepare(network, optimizer)
    return Prepared(accelerator, model, accelerated_optimizer, schedule)


def one_update(out: Path) -> None:
    """Of all clips; no statistics over a batch, but dropout and dropped paths."""
    network = tiny_model(backbone="timm:test_convnext", dropout=0.1, drop_path=0.2).train()
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    setup = prepared(network)
    accelerator = setup.accelerator
    numbers = range(accelerator.process_index, CLIPS, accelerator.num_processes)
    micro_batches = [micro_batch(number) for number in numbers]
    terms, _ = accumulate_gradients(accelerator, setup.model, micro_batches)
    norms = setup.step()
    values = average_over_processes(accelerator, terms | norms)
    moved = nn.utils.parameters_to_vector(network.parameters()).detach() - before
    if accelerator.is_main_process:
        torch.save({"values": values, "moved": moved, "steps": len(numbers)}, out)
    accelerator.end_training()


def test_processes_times_accumulation_give_one_update(tmp_path: Path) -> None:
    updates = {}
    for processes in (1, 2, 4):
        out = tmp_path / str(processes)
        steps = CLIPS // processes
        group = start(processes, one_update, out, ACCELERATE_GRADIENT_ACCUMULATION_STEPS=str(steps))
        assert finish(group) == [0] * processes
        updates[processes] = torch.load(out)
        assert updates[processes]["steps"] == steps
    want = updates[1]
    for got in (updates[2], updates[4]):
        assert got["values"] == pytest.approx(want["values"], rel=1e-6)
        assert (got["moved"] - want["moved"]).norm() <= 1e-6 * want["moved"].norm()


def test_gradients_reach_every_parameter_that_trains() -> None:
    model = tiny_model(freeze_text=True).train()
    setup = prepared(model)
    accumulate_gradients(setup.accelerator, setup.model, [micro_batch(3)])
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert len(trained) > 100
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    frozen = [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith("text_encoder.backbone.")
    ]
    assert frozen
    assert all(parameter.grad is None for parameter in frozen)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = tiny_model().train()
    setup = prepared(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.query_positions.weight.register_hook(lambda gradient: gradient * torch.nan)
    accumulate_gradients(setup.accelerator, setup.model, [micro_batch(2)])
    with pytest.raises(NonFiniteLossError, match="gradient of query_positions is"):
        setup.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter)


def test_a_supervised_frame_is_learnt_alone() -> None:
    whole = micro_batch(3)
    supervised = micro_batch(3, target_frame=1)
    assert torch.equal(supervised.targets.masks, whole.targets.masks[:, 1:])
    assert torch.equal(supervised.targets.boxes_cxcywh, whole.targets.boxes_cxcywh[:, 1:])
    assert torch.equal(supervised.targets.visible, whole.targets.visible[:, 1:])
    outputs, _ = forward_and_loss(tiny_model().train(), supervised, 1.0)
    assert outputs.mask_logits.shape == supervised.targets.masks.shape
