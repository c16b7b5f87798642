"""`python -m sgmg predict`: its flags, what it says, and errors of one line."""

import json
from pathlib import Path

import pytest

from sgmg.__main__ import main
from sgmg.inference.predictor import Predictor
from sgmg.inference.segment_video import mask_folder_of
from tests.sgmg.inference.videos import randomise_heads, write_video
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

TWO_EXPRESSIONS = EXPRESSIONS[:2]

Capture = pytest.CaptureFixture[str]


def test_flags_reach_the_predictor(tmp_path: Path, capsys: Capture) -> None:
    model = tiny_model()
    randomise_heads(model)
    checkpoint = tmp_path / "model"
    model.save_pretrained(checkpoint)
    video = write_video(tmp_path / "in.mp4", num_frames=5)
    out = tmp_path / "out.mp4"
    flags = ["--window", "2", "--continuity", "5", "--short-side", "144", "--device", "cpu"]
    for expression in TWO_EXPRESSIONS:
        flags += ["--text", expression]
    arguments = ["predict", str(video), "--checkpoint", str(checkpoint), "--out", str(out), *flags]
    assert main(arguments) == 0
    report = capsys.readouterr().out
    assert f"overlay: {out}\n" in report
    assert f"masks: {mask_folder_of(out)}\n" in report
    predictor = Predictor(model, short_side=144, window=2, continuity=5)
    prediction = predictor.predict(video, TWO_EXPRESSIONS)
    document = json.loads((mask_folder_of(out) / "masks.json").read_text())
    assert document["expressions"] == list(TWO_EXPRESSIONS)
    for t, entry in enumerate(document["frames"]):
        assert entry["scores"] == pytest.approx(prediction.scores[:, t].tolist())
    assert main(arguments) == 0, "an earlier result may be replaced"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "dog"], "name a checkpoint with --checkpoint"),
        (["--text", " "], "give 1 to 300 characters"),
        (["--text", "x" * 301], "give 1 to 300 characters"),
        ([], "no expressions"),
        (["--text", "dog", "--checkpoint", "nobody/nothing/there"], "nobody/nothing/there"),
    ],
)
def test_wrong_commands_are_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    video = write_video(tmp_path / "in.mp4", num_frames=2)
    assert main(["predict", str(video), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_the_demo_is_offered_where_it_is(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    video = write_video(tmp_path / "in.mp4", num_frames=2)
    advice = "demo/run is there: --checkpoint demo/run"
    assert main(["predict", str(video), "--text", "dog"]) == 1
    assert advice not in capsys.readouterr().err
    (tmp_path / "demo/run").mkdir(parents=True)
    assert main(["predict", str(video), "--text", "dog"]) == 1
    assert advice in capsys.readouterr().err
