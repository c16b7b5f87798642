"""One update is one update, however its clips are shared among processes and steps."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sgmg.training.losses import NonFiniteLossError, count_visible
from sgmg.training.matcher import Targets
from sgmg.training.memory import peak_memory, recompute_blocks
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.replay import replay, write_dump
from sgmg.training.update import Share, Update, answer
from tests.processes import finish, start
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

CLIPS, RATE = 4, 1e-3


def share(number: int, size: int = 136) -> Share:
    """One clip; the object is in no frame of clip 0, in one of clip 1, in both of the others."""
    generator = torch.Generator().manual_seed(number)
    frames = torch.randn(1, 2, 3, size, size + 8 * number, generator=generator)
    visible = torch.tensor([[number > 1, number > 0]])
    blobs = torch.rand(1, 2, *frames.shape[-2:], generator=generator) > 0.6
    boxes = torch.rand(1, 2, 4, generator=generator) * 0.3 + 0.2
    targets = Targets(blobs & visible[..., None, None], boxes * visible[..., None], visible)
    padding = torch.zeros(1, *frames.shape[-2:], dtype=torch.bool)
    words = [EXPRESSIONS[number % len(EXPRESSIONS)]]
    return Share(frames, padding, words, targets, seed=number)


def prepared(model: nn.Module) -> Update:
    accelerator = Accelerator(cpu=True)
    rates = {"lr": RATE, "backbone_lr": RATE, "text_lr": RATE, "weight_decay": 0.0}
    optimizer = torch.optim.SGD(parameter_groups(model, **rates))
    schedule = make_schedule(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    return Update(accelerator, model, optimizer, schedule, clip_norm=1e9)


def one_update(out: Path) -> None:
    """Of all clips; no statistics over a batch, but dropout and dropped paths."""
    model = tiny_model(backbone="timm:test_convnext", dropout=0.1, drop_path=0.2).train()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    update = prepared(model)
    accelerator = update.accelerator
    mine = range(accelerator.process_index, CLIPS, accelerator.num_processes)
    terms, _ = update([share(number) for number in mine])
    moved = nn.utils.parameters_to_vector(update.network.parameters()).detach() - before
    if accelerator.is_main_process:
        torch.save({"terms": terms, "moved": moved, "steps": len(mine)}, out)
    accelerator.end_training()


def test_processes_times_accumulation_give_one_update(tmp_path: Path) -> None:
    found = {}
    for count in (1, 2, 4):
        out, steps = tmp_path / str(count), str(CLIPS // count)
        group = start(count, one_update, out, ACCELERATE_GRADIENT_ACCUMULATION_STEPS=steps)
        assert finish(group) == [0] * count
        found[count] = torch.load(out)
        assert found[count]["steps"] == CLIPS // count
    want = found[1]
    for got in (found[2], found[4]):
        assert got["terms"] == pytest.approx(want["terms"], rel=1e-6)
        assert (got["moved"] - want["moved"]).norm() <= 1e-6 * want["moved"].norm()


def test_gradients_reach_every_parameter_that_trains() -> None:
    model = tiny_model(freeze_text=True).train()
    update = prepared(model)
    update.gradients([share(3)])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 100
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    frozen = [p for n, p in model.named_parameters() if n.startswith("text_encoder.backbone.")]
    assert frozen
    assert all(p.grad is None for p in frozen)


def test_recomputed_blocks_learn_the_same() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny_model(backbone="video_swin_t", drop_path=0.5).train()
        if recompute:
            assert recompute_blocks(model.backbone) == 12
        _, terms = answer(model, share(2), 1.0)
        terms["total"].backward()
        parts = [p.grad for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat([part.flatten() for part in parts]))
    assert torch.equal(*gradients)
    assert "GiB" in peak_memory(model, torch.device("cpu"))
    with pytest.raises(ValueError, match="Swin and ResNet"):
        recompute_blocks(tiny_model().backbone)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = tiny_model().train()
    update = prepared(model)
    before = {n: v.clone() for n, v in model.named_parameters()}
    model.query_positions.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NonFiniteLossError, match="gradient of query_positions is"):
        update([share(2)])
    assert all(torch.equal(before[n], v) for n, v in model.named_parameters())


def test_a_dump_is_replayed(tmp_path: Path) -> None:
    model = tiny_model(dropout=0.3).train()
    shares = [share(2), share(3)]
    visible = count_visible([it.targets for it in shares]) / 2
    want = [float(answer(model, it, visible)[1]["total"].detach()) for it in shares]
    write_dump(tmp_path / "fine", model, shares, keys=["a", "b"], precision="no")
    told, *terms, end = replay(tmp_path / "fine", torch.device("cpu"))
    assert told == "clips a, b; precision no"
    assert [line.partition(",")[0] for line in terms] == [f"total {it:.4g}" for it in want]
    assert end == "everything is finite here"
    with torch.no_grad():
        model.projections[1][0].weight[0, 0] = torch.inf
    write_dump(tmp_path / "bad", model, shares, keys=["a", "b"], precision="bf16")
    *_, term, end = replay(tmp_path / "bad", torch.device("cpu"))
    assert "is not finite" in term
    assert end == "first not finite: the output of projections.1.0"
    with pytest.raises(ValueError, match="has no shares"):
        list(replay(tmp_path / "nothing", torch.device("cpu")))
