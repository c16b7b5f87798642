"""Each published recipe: its data set's own form -> shards -> training -> scores.

The network is small and so is T, unless SGMG_LONG is set; sampling, augmentation, rates and groups
are those of the recipe.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from preprocess import build_shards
from tests.preprocess.trees import TREES, draw
from tests.sgmg.tiny import tiny_model
from tests.test_train_evaluate import losses, run

SCORED = {
    "mevis": "J&F",
    "ref-davis17": "J&F",
    "a2d-sentences": "mAP",
    "jhmdb-sentences": "mAP",
    "refcoco": "overall_iou",
}
long = pytest.mark.skipif("SGMG_LONG" not in os.environ, reason="takes long: set SGMG_LONG=1")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shard set of each source."""
    folder, found = tmp_path_factory.mktemp("sources"), {}
    for source in TREES:
        split, _ = draw(source, folder / source)
        out = folder / "shards" / source
        more = ["--split", split, "--out", out, "--allow-partial"]
        run(build_shards, source, "--root", folder / source, *more)
        found[source] = next(out.glob(f"{split}*"))
    return found


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to begin with."""
    folder = tmp_path_factory.mktemp("start")
    tiny_model(decoder_layers=1).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("recipe", "sources"),
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
def test_a_recipe_learns_from_its_data_and_is_scored(
    recipe: str,
    sources: list[str],
    shards: dict[str, Path],
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = [shards[source] for source in sources]
    more = ["--optim.steps", 1, "--data.threads", 1, "--tracker", "none"]
    if "SGMG_LONG" not in os.environ and recipe != "pretrain-refcoco":
        more += ["--data.num-frames", 2]
    if recipe == "ref-davis17":
        more += ["--data.accumulate", 2]
    run(train, recipe, "--data.shards", *sets, "--init", start, "--out", tmp_path, *more)
    steps = 1 + (recipe == "ref-davis17")
    assert f"on 1 processes in {steps} steps each" in capsys.readouterr().out
    rows = losses(tmp_path)
    assert [row["step"] for row in rows] == ["1"]
    assert all(np.isfinite(float(row["total"])) and float(row["total"]) > 0 for row in rows)
    if name := SCORED.get(sources[0]):
        out = tmp_path / "scores"
        run(evaluate, tmp_path, sets[0], "--out", out, "--short-side", 96, "--allow-partial")
        assert 0 <= json.loads((out / "summary.json").read_text())[name] <= 100
