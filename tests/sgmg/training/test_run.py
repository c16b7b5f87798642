from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from sgmg.training.checkpoints import read_state
from sgmg.training.losses import NonFiniteLossError
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.run import Run
from tests.sgmg.tiny import tiny_model
from tests.sgmg.training.clips import micro_batch


def make_run(folder: Path, resume: str | None = None) -> Run:
    network = tiny_model()
    groups = parameter_groups(network, lr=1e-3, backbone_lr=1e-3, text_lr=1e-3, weight_decay=0.0)
    optimizer = torch.optim.AdamW(groups)
    schedule = make_schedule(optimizer)
    accelerator = Accelerator(cpu=True)
    return Run(folder, accelerator, network, optimizer, schedule, keep=2, resume=resume)


def test_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    moving = [name for name in before if name.endswith("running_mean")]
    assert moving, "without batch norms this test would show nothing"
    assert run.dry_run(micro_batch(2)) > 0
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in run.network.parameters())
    assert not run.optimizer.state_dict()["state"]
    assert run.step == 0
    run.finish()


def test_a_number_that_is_not_finite_leaves_a_dump(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.finish_update({"total": 1.0})
    with torch.no_grad():
        run.network.get_parameter("projections.1.0.weight")[0, 0] = torch.inf
    message = r"update 2, clips some-video; `python -m sgmg replay .*dump-step-000002` does it"
    with pytest.raises(NonFiniteLossError, match=message):
        run.dry_run(micro_batch(2, key="some-video"))
    assert (tmp_path / "dump-step-000002/config.json").is_file()
    assert (tmp_path / "dump-step-000002/micro_batches.pt").is_file()
    run.finish()


def test_dropout_follows_from_seed_update_and_clips(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seeds = {run.dropout_seed(seed, position) for seed in (0, 1) for position in (0, 1)}
    assert len(seeds) == 4
    assert run.dropout_seed(0, 0) in seeds
    run.finish_update({"total": 1.0})
    assert run.dropout_seed(0, 0) not in seeds
    run.finish()


def test_a_picture_shows_the_supervised_frame_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    clip = micro_batch(2)
    mask_logits = torch.zeros(clip.targets.masks.shape)

    def pixels(_clip: int) -> np.ndarray:
        return np.zeros((2, 60, 150, 3), np.uint8)

    run.save_picture(pixels, clip, mask_logits)
    picture = tmp_path / "pictures/step-000000.png"
    whole = np.asarray(Image.open(picture))
    run.save_picture(pixels, micro_batch(2, target_frame=1), mask_logits[:, 1:])
    alone = np.asarray(Image.open(picture))
    assert whole.shape[1] > 1.5 * alone.shape[1]
    run.finish()


def test_a_run_that_goes_on_from_an_older_checkpoint_saves_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path)
    for _ in range(3):
        run.finish_update({"total": 1.0})
        run.save({})
    run.finish()
    run = make_run(tmp_path, resume=str(tmp_path / "step-000002"))
    assert "going on from update 2" in caplog.text
    assert "abandoned-step-000003 is left aside" in caplog.text
    run.finish_update({"total": 2.0})
    checkpoint = run.save({"life": "new"})
    run.finish()
    assert read_state(checkpoint)["loader"] == {"life": "new"}
    assert read_state(tmp_path / "abandoned-step-000003")["loader"] == {}
    resumed = make_run(tmp_path, resume="auto")
    assert resumed.loader_state == {"life": "new"}
    resumed.finish()
