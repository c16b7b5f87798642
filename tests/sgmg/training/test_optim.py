import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import RobertaConfig, RobertaModel

from sgmg.network.backbones.motion_convnet import NeighbourCorrelation
from sgmg.training.optim import (
    gradient_norms,
    make_schedule,
    parameter_groups,
)


def network() -> nn.ModuleDict:
    """Parts with the names of the real ones."""
    roberta = RobertaConfig(
        vocab_size=5,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
    )
    text = nn.ModuleDict({"model": RobertaModel(roberta), "project": nn.Linear(4, 4)})
    attention = nn.ModuleDict({"sampling_offsets": nn.Linear(4, 4), "value": nn.Linear(4, 4)})
    backbone = nn.ModuleDict({"stem": nn.Linear(4, 4), "sampling_offsets": nn.Linear(4, 4)})
    backbone["compare"] = NeighbourCorrelation(4, radius=1)
    return nn.ModuleDict({"backbone": backbone, "text_encoder": text, "attention": attention})


def names_by_group(model: nn.Module) -> dict[str, set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, lr=4, backbone_lr=3, text_lr=2, weight_decay=0.5)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("base", 4, 0.5),
        ("backbone", 3, 0.5),
        ("text_encoder", 2, 0.5),
        ("linear_proj", 4, 0.5),
    ]
    assert len(torch.optim.AdamW(groups).param_groups) == 4
    return {group["name"]: {names[parameter] for parameter in group["params"]} for group in groups}


def linear(*names: str) -> set[str]:
    """Parameters of linear layers."""
    return {f"{name}.{parameter}" for name in names for parameter in ("weight", "bias")}


def test_every_parameter_is_in_the_group_of_its_part() -> None:
    model = network()
    groups = names_by_group(model)
    names = [name for name, _ in model.named_parameters()]
    motion = {name for name in names if name.startswith("backbone.compare.")}
    text = {name for name in names if name.startswith("text_encoder.model.")}
    assert len(motion) == 7
    assert groups == {
        "base": motion | linear("attention.value", "text_encoder.project"),
        "backbone": linear("backbone.stem", "backbone.sampling_offsets"),
        "text_encoder": text,
        "linear_proj": linear("attention.sampling_offsets"),
    }


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model.get_submodule("text_encoder.model").requires_grad_(False)
    assert names_by_group(model)["text_encoder"] == set()


def sgd(lr: float) -> Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


def rates(schedule: LRScheduler, optimizer: Optimizer, updates: int) -> list[float]:
    """Rate of the first group in each update."""
    rates_of_updates = []
    for _ in range(updates):
        rates_of_updates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates_of_updates


def test_step_decay_drops_all_groups_at_the_milestones() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (1.0, 0.5)]
    optimizer = torch.optim.SGD(groups)
    schedule = make_schedule(optimizer, "step", drops=[2, 4])
    assert rates(schedule, optimizer, 5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.005)


def test_warmup_rises_to_the_rate_and_cosine_falls_to_the_floor() -> None:
    optimizer = sgd(lr=2.0)
    schedule = make_schedule(optimizer, "cosine", warmup=4, total=14, floor=0.1)
    rates_of_updates = rates(schedule, optimizer, 16)
    assert rates_of_updates[:5] == pytest.approx([0.5, 1, 1.5, 2, 2])
    assert rates_of_updates[9] == pytest.approx(2 * 0.55)
    assert rates_of_updates[14] == rates_of_updates[15] == pytest.approx(0.2)
    assert rates_of_updates[4:15] == sorted(rates_of_updates[4:15], reverse=True)


def test_warmup_alone_keeps_the_rate() -> None:
    optimizer = sgd(lr=2.0)
    schedule = make_schedule(optimizer, warmup=2, total=5)
    assert rates(schedule, optimizer, 5) == [1, 2, 2, 2, 2]


def test_warmup_longer_than_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warm-up of 9"):
        make_schedule(sgd(lr=2.0), warmup=9, total=5)


def test_gradient_norms_are_of_each_part() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "c": nn.Linear(3, 2)})
    (model["a"](torch.ones(3)).sum() + 2 * model["b"](torch.ones(3)).sum()).backward()
    norms = {name: norm.item() for name, norm in gradient_norms(model).items()}
    assert norms == pytest.approx({"a": 8**0.5, "b": 2 * 8**0.5})
