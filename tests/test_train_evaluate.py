"""The chain as people run it: shards -> train.py -> evaluate.py, in one process to save imports."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from PIL import Image
from safetensors.torch import load_file

import evaluate
import train
from preprocess import build_shards
from shards import ShardSet

UNEVEN = ["synthetic", "--data.shards", "x", "--data.accumulate"]
QUICK = ["--optim.warmup", "1", "--save-every", "2", "--keep", "5"]


def run(module: object, *arguments: object) -> None:
    """Call a program's main with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        module.main()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small synthetic shard sets: train, valid, image-train, image-val."""
    folder = tmp_path_factory.mktemp("shapes")
    run(
        build_shards,
        "synthetic",
        *("--root", folder / "data"),
        *("--out", folder / "shards"),
        *("--synthetic.train-videos", 6),
        *("--synthetic.valid-videos", 2),
        *("--synthetic.images", 12),
        *("--synthetic.valid-images", 2),
        *("--synthetic.num-frames", 5),
        *("--synthetic.valid-frames", 3),
    )
    return folder / "shards"


@pytest.fixture(scope="module")
def pretrained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a few image updates."""
    out = tmp_path_factory.mktemp("pretrain")
    run(
        train,
        "synthetic-pretrain",
        *("--out", out),
        *("--data.shards", shapes / "image-train"),
        *("--data.vocabulary", shapes / "train"),
        *("--optim.steps", 2),
        *QUICK,
    )
    return out


def video_run(shapes: Path, pretrained: Path, out: Path, *options: object) -> None:
    """Fine-tune on clips for four updates."""
    run(
        train,
        "synthetic",
        *("--out", out),
        *("--data.shards", shapes / "train"),
        *("--init", pretrained),
        *("--data.batch-size", 2),
        *("--optim.steps", 4),
        *QUICK,
        *options,
    )


@pytest.fixture(scope="module")
def finetuned(shapes: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of four clip updates, checkpoints at 2 and 4."""
    out = tmp_path_factory.mktemp("finetune")
    video_run(shapes, pretrained, out, "--validate", shapes / "valid")
    return out


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "losses.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_losses_pictures_tracker_and_checkpoints(finetuned: Path) -> None:
    rows = losses(finetuned)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(np.isfinite(float(row["total"])) for row in rows)
    assert {"class", "box", "giou", "mask", "dice", "mask_low", "dice_0", "lr"} <= set(rows[0])
    assert sorted(path.name for path in finetuned.glob("step-*")) == ["step-000002", "step-000004"]
    with Image.open(finetuned / "pictures/step-000004.png") as picture:
        assert picture.width > 200
    assert list((finetuned / "tracker").glob("events*"))
    scores = json.loads((finetuned / "step-000004/score.json").read_text())
    assert scores["score"] == scores["validation 0 J&F"]
    assert 0 <= scores["score"] <= 100
    assert (finetuned / "validation-0/sheet.png").is_file()
    assert not list(finetuned.glob("*.partial"))


def test_resuming_gives_the_same_losses_and_weights(
    shapes: Path, pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(finetuned, resumed)
    shutil.rmtree(resumed / "step-000004")
    video_run(shapes, pretrained, resumed, "--resume", "auto")
    assert losses(resumed) == losses(finetuned)
    want = load_file(finetuned / "step-000004/model.safetensors")
    got = load_file(resumed / "step-000004/model.safetensors")
    assert got.keys() == want.keys()
    for name, weight in want.items():
        assert torch.equal(got[name], weight), name


def test_fine_tuning_starts_from_the_pretrained_weights(pretrained: Path, finetuned: Path) -> None:
    before = load_file(pretrained / "step-000002/model.safetensors")
    after = load_file(finetuned / "step-000002/model.safetensors")
    weights = [name for name in before if "running_" not in name and "num_batches" not in name]
    moved = [float((after[name] - before[name]).abs().max()) for name in weights]
    assert 0 < max(moved) < 0.02  # two updates at a rate of 1e-3, not another initialisation


def test_evaluation_writes_masks_scores_and_sheet(
    shapes: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(evaluate, finetuned, shapes / "valid", "--out", tmp_path, "--short-side", 160)
    with (tmp_path / "expressions.csv").open() as file:
        rows = list(csv.DictReader(file))
    videos = list(ShardSet.open(str(shapes / "valid")).videos)
    assert len(rows) == sum(len(video.expressions) for video in videos)
    for video in videos:
        for expression in video.expressions:
            folder = tmp_path / "Annotations" / video.video_id / expression.id
            assert sorted(path.stem for path in folder.iterdir()) == sorted(video.frame_names)
            mask = np.asarray(Image.open(folder / f"{video.frame_names[0]}.png"))
            assert mask.shape == (video.height, video.width)
            assert set(np.unique(mask)) <= {0, 255}
    scores = json.loads((tmp_path / "summary.json").read_text())
    assert scores["J&F"] == pytest.approx(
        100 * np.mean([(float(row["j"]) + float(row["f"])) / 2 for row in rows])
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 100
    assert capsys.readouterr().out.splitlines()[-1].startswith("J&F ")


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_weights_are_refused(kind: str) -> None:
    """Their checkpoints would hold pieces of the network."""
    with pytest.raises(SystemExit, match=f"{kind} is not supported: use plain data parallelism"):
        train.check_parallelism(DistributedType(kind))


NO_DATA = ("--data.shards", "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown recipe 'nonsense'; choose one of synthetic-pretrain"),
        (["synthetic"], "no data; name one or more shard sets"),
        ([*UNEVEN, "3"], "--data.batch-size 4 does not divide among 1 processes"),
        ([*UNEVEN, "0"], "choose numbers that divide it"),
        (["own", *NO_DATA], "own fine-tunes a network: name its checkpoint with --init"),
        (["own", *NO_DATA, "--resume", "auto"], "own fine-tunes a network: name its"),
        (["own", *NO_DATA, "--init", "c", "--backbone", "swin_t"], "--backbone swin_t beside"),
        (["own", *NO_DATA, "--init", "c", "--pretrained"], "--pretrained beside --init c"),
        (["synthetic", *NO_DATA, "--tracker", "abacus"], "unknown tracker 'abacus'; choose one"),
        (["synthetic", *NO_DATA, "--tracker", "wandb"], "'wandb' is not installed: pip install"),
    ],
)
def test_wrong_arguments_of_train_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run(train, *arguments)
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_warmup_longer_than_the_run_is_refused_by_its_flag(shapes: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run", "--optim.steps", "3", "--optim.warmup", "4")
    with pytest.raises(SystemExit, match=r"--optim\.warmup 4 is longer than the run of 3 updates"):
        run(train, "synthetic", "--data.shards", shapes / "train", *options)
    assert not (tmp_path / "run").exists()


def test_an_unknown_style_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown clip style 'films'; choose one of image, you"):
        run(train, "synthetic", "--data.shards", "x", "--data.style", "films")


def test_half_built_shards_and_other_versions_are_refused(
    shapes: Path, finetuned: Path, tmp_path: Path
) -> None:
    shutil.copytree(shapes / "valid", tmp_path / "valid")
    manifest = tmp_path / "valid/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format_version": 1', '"format_version": 999'))
    assert manifest.read_text() != text
    with pytest.raises(ValueError, match="999"):
        run(evaluate, finetuned, tmp_path / "valid", "--out", tmp_path / "out")
    manifest.unlink()
    with pytest.raises(ValueError, match="manifest"):
        run(evaluate, finetuned, tmp_path / "valid", "--out", tmp_path / "out")
    with pytest.raises(ValueError, match="manifest"):
        run(train, "synthetic", "--out", tmp_path / "run", "--data.shards", tmp_path / "valid")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_config_is_refused(
    shapes: Path, finetuned: Path, tmp_path: Path
) -> None:
    shutil.copytree(finetuned / "step-000004", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["hidden"] = 32
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="another network"):
        run(evaluate, tmp_path / "model", shapes / "valid", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no checkpoint"):
        run(evaluate, tmp_path / "nothing", shapes / "valid", "--out", tmp_path / "out")
