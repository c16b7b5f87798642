"""Recipes: their published numbers, and each on its data set's own form -> shards -> scores.

The network is small and so is T, unless SGMG_LONG is set; sampling, augmentation, rates and groups
are those of the recipe.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from preprocess import build_shards
from sgmg.training.recipes import RECIPES
from shards.stream.styles import named_style
from tests.preprocess.trees import TREES, draw
from tests.sgmg.tiny import tiny_model
from tests.test_train_evaluate import losses, run

IS_LONG = "SGMG_LONG" in os.environ
HEADLINES = {
    "mevis": "J&F",
    "ref-davis17": "J&F",
    "a2d-sentences": "mAP",
    "jhmdb-sentences": "mAP",
    "refcoco": "overall_iou",
}
VIDEO_SIDES = (288, 320, 352, 392, 416, 448, 480, 512)
IMAGE_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768)
long = pytest.mark.skipif(not IS_LONG, reason="takes long: set SGMG_LONG=1")


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages in docs/training.md, and how its clips are made.

    Attributes:
        rate_scale: Rates over those of the published optimizer.
        epochs: Length of the run.
        drops: Epochs after which rates fall tenfold.
        trains_text: Whether the text model trains.
        num_frames: Frames T of a clip.
        batch_size: Clips of an update.
        anchors: Frames that clips are made around.
        reverse: Probability that a clip runs backwards.
        short_sides: Sizes of the augmentation, pixels.
        supervise: What the loss looks at.
        new_parts: What does not come from the checkpoint.
    """

    rate_scale: float = 1 / 4
    epochs: int = 6
    drops: tuple[int, ...] = (3, 5)
    trains_text: bool = False
    num_frames: int = 5
    batch_size: int = 2
    anchors: str = "every"
    reverse: float = 0.0
    short_sides: tuple[int, ...] = VIDEO_SIDES
    supervise: str = "clip"
    new_parts: tuple[str, ...] = ()


STAGES = {
    "pretrain-refcoco": Stage(
        epochs=11,
        drops=(8, 10),
        trains_text=True,
        num_frames=1,
        batch_size=4,
        anchors="first",
        short_sides=IMAGE_SIDES,
    ),
    "ref-youtube-vos": Stage(reverse=0.3, new_parts=("class_heads.",)),
    "ref-youtube-vos-scratch": Stage(
        rate_scale=1 / 2, epochs=10, drops=(6, 8), trains_text=False, reverse=0.3
    ),
    "a2d-sentences": Stage(
        batch_size=4,
        anchors="annotated",
        supervise="target_frame",
        new_parts=("class_heads.",),
    ),
    "joint": Stage(rate_scale=1 / 2, trains_text=True, reverse=0.3),
    "ref-davis17": Stage(),
    "mevis": Stage(),
    "own": Stage(reverse=0.3),
}


def test_every_recipe_but_the_demo_is_in_the_table() -> None:
    assert STAGES.keys() == RECIPES.keys() - {"synthetic-pretrain", "synthetic"}


@pytest.mark.parametrize("name", STAGES)
def test_a_recipe_has_its_rates_and_groups(name: str) -> None:
    stage = STAGES[name]
    _, recipe = RECIPES[name]
    model = tiny_model(freeze_text=train.network_config(recipe).freeze_text)
    optimizer, schedule = train.build_optimizer(
        recipe, model, total_updates=stage.epochs, updates_per_epoch=1
    )
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {group: values["lr"] for group, values in groups.items()} == pytest.approx(
        {
            "base": 1e-4 * stage.rate_scale,
            "backbone": 5e-5 * stage.rate_scale,
            "text_encoder": 1e-5 * stage.rate_scale,
            "linear_proj": 1e-4 * stage.rate_scale,
        }
    )
    assert bool(groups["text_encoder"]["params"]) == stage.trains_text
    assert all(group["weight_decay"] == 5e-4 for group in groups.values())
    assert all(group["betas"] == (0.9, 0.999) for group in groups.values())
    assert recipe.optim.clip_norm == 0.1
    assert recipe.optim.epochs == stage.epochs
    for epoch in range(stage.epochs):
        drops = sum(epoch >= drop for drop in stage.drops)
        rate = 1e-4 * stage.rate_scale * 0.1**drops
        assert groups["base"]["lr"] == pytest.approx(rate), f"epoch {epoch}"
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", STAGES)
def test_a_recipe_cuts_its_clips(name: str) -> None:
    stage = STAGES[name]
    _, recipe = RECIPES[name]
    style = named_style(recipe.data.style)
    assert recipe.data.num_frames == stage.num_frames
    assert recipe.data.batch_size == stage.batch_size
    assert recipe.data.expressions == 1
    assert style.sampling.anchors == stage.anchors
    assert style.sampling.reverse == stage.reverse
    assert style.augmentation.short_sides == stage.short_sides
    assert style.augmentation.shake == (name == "joint")
    assert style.supervise == stage.supervise
    assert style.pad_to == 32
    assert recipe.init_without == stage.new_parts


def test_from_scratch_the_text_model_is_frozen_and_its_dropout_is_on() -> None:
    _, recipe = RECIPES["ref-youtube-vos-scratch"]
    config = train.network_config(recipe)
    assert config.freeze_text
    assert config.drop_frozen_text


def test_a_recipe_that_fine_tunes_freezes_the_text_and_needs_a_checkpoint() -> None:
    fine_tuning = {name for name, (_, recipe) in RECIPES.items() if recipe.fine_tunes}
    assert fine_tuning == {"ref-youtube-vos", "a2d-sentences", "ref-davis17", "mevis", "own"}


def test_only_the_demo_changes_betas_and_looks_for_unused_parameters() -> None:
    demo = {"synthetic-pretrain", "synthetic"}
    recipes = {name: recipe for name, (_, recipe) in RECIPES.items()}
    assert {name for name, recipe in recipes.items() if recipe.optim.beta2 != 0.999} == demo
    assert {name for name, recipe in recipes.items() if recipe.validate_short_side != 360} == demo
    assert {name for name, recipe in recipes.items() if recipe.find_unused_parameters} == {
        "synthetic-pretrain"
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shard set of each source."""
    folder = tmp_path_factory.mktemp("sources")
    shard_sets = {}
    for source in TREES:
        split, _ = draw(source, folder / source)
        out = folder / "shards" / source
        options = ["--split", split, "--out", out, "--allow-partial"]
        run(build_shards, source, "--root", folder / source, *options)
        shard_sets[source] = next(out.glob(f"{split}*"))
    return shard_sets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to begin with."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model(decoder_layers=1).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("pretrain-refcoco", ["refcoco"]),
        pytest.param("ref-youtube-vos", ["ref-youtube-vos"], marks=long),
        ("ref-youtube-vos-scratch", ["ref-youtube-vos"]),
        ("a2d-sentences", ["a2d-sentences"]),
        ("joint", ["ref-youtube-vos", "refcoco"]),
        ("ref-davis17", ["ref-davis17"]),
        ("mevis", ["mevis"]),
        pytest.param("own", ["jhmdb-sentences"], marks=long),
    ],
)
def test_a_recipe_takes_its_data_and_is_scored(
    name: str,
    sources: list[str],
    shards: dict[str, Path],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard_sets = [shards[source] for source in sources]
    accumulation_steps = 2 if name == "ref-davis17" else 1
    options: list[object] = ["--data.accumulate", accumulation_steps]
    if not IS_LONG and name != "pretrain-refcoco":
        options += ["--data.num-frames", 2]
    run(
        train,
        name,
        *("--data.shards", *shard_sets),
        *("--init", checkpoint),
        *("--out", tmp_path),
        *("--optim.steps", 1),
        *("--data.threads", 1),
        *("--tracker", "none"),
        *options,
    )
    printed = capsys.readouterr().out
    assert f"on 1 processes in {accumulation_steps} steps each" in printed
    (row,) = losses(tmp_path)
    assert row["step"] == "1"
    assert np.isfinite(float(row["total"]))
    assert float(row["total"]) > 0
    assert float(row["lr"]) == pytest.approx(1e-4 * STAGES[name].rate_scale)
    headline = HEADLINES.get(sources[0])
    if headline is not None:
        out = tmp_path / "scores"
        options = ["--out", out, "--short-side", 96, "--allow-partial"]
        run(evaluate, tmp_path, shard_sets[0], *options)
        scores = json.loads((out / "summary.json").read_text())
        assert 0 <= scores[headline] <= 100
