"""From a file to overlay, masks and codes; windows that hold on to their object."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sgmg.__main__ import main
from sgmg.inference.command import masks_of, segment
from sgmg.inference.predictor import Predictor
from sgmg.inference.video_io import open_frames
from tests.sgmg.inference.test_video_io import SIZE, picture, write_video
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

TEXTS = list(EXPRESSIONS[:2])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = tiny_model()
    with torch.no_grad():
        for head in (*model.class_heads, *model.box_heads):
            for parameter in head.parameters():
                parameter.normal_(0, 0.3)
    return Predictor(model, short_side=144, window=2)


@pytest.fixture(scope="module")
def checkpoint(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    predictor.model.save_pretrained(folder)
    return folder


def test_what_is_written_is_what_the_predictor_says(
    checkpoint: Path, predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "in.mp4", frames=5)
    out = tmp_path / "deep" / "out.mp4"
    flags = ["--window", "2", "--continuity", "0", "--short-side", "144", "--device", "cpu"]
    for text in TEXTS:
        flags += ["--text", text]
    arguments = ["predict", str(video), "--checkpoint", str(checkpoint), "--out", str(out), *flags]
    assert main(arguments) == 0
    assert str(out) in capsys.readouterr().out
    assert main(arguments) == 0  # ours may be replaced
    want = predictor.predict(video, TEXTS)
    told = json.loads((masks_of(out) / "masks.json").read_text())
    assert told["expressions"] == TEXTS
    assert [frame["frame"] for frame in told["frames"]] == list(range(5))
    for t, frame in enumerate(told["frames"]):
        assert frame["scores"] == pytest.approx(want.scores[:, t].tolist())
        for e, code in enumerate(frame["segmentations"]):
            mask = want.masks[e, t].numpy()
            assert np.array_equal(coco_mask.decode(code).astype(bool), mask)
            png = Image.open(masks_of(out) / f"{e:02d}/{t:05d}.png")
            assert np.array_equal(np.asarray(png).astype(bool), mask)
    shown = list(open_frames(out))
    assert [it.shape for it in shown] == [(*SIZE, 3)] * 5
    plain = list(open_frames(video))
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(shown, plain, strict=True)) > 60
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.mp4", "out_masks"]


def test_images_become_images(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(picture(4)).save(tmp_path / "a.png")
    overlay, scores = segment(
        predictor, open_frames(tmp_path / "a.png"), TEXTS, tmp_path / "out.mp4"
    )
    assert overlay == tmp_path / "out.png"
    assert Image.open(overlay).size == SIZE[::-1]
    assert np.shape(scores) == (1, 2)


def test_nothing_is_half_written_and_nothing_of_others_replaced(
    predictor: Predictor, tmp_path: Path
) -> None:
    for number in range(3):
        side = 40 if number < 2 else 50
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture(number, side, side)).save(tmp_path / f"in/{number}.png")
    out = tmp_path / "out" / "a.mp4"
    with pytest.raises(ValueError, match="frame 2 is 50x50"):
        segment(predictor, open_frames(tmp_path / "in"), TEXTS, out)
    assert list(out.parent.iterdir()) == []
    (out.parent / "a_masks").mkdir()
    (out.parent / "a_masks/diary.txt").write_text("dear diary")
    frames = open_frames(write_video(tmp_path / "video.mp4", frames=3))
    with pytest.raises(ValueError, match="would replace"):
        segment(predictor, frames, TEXTS, out)
    with pytest.raises(ValueError, match="would replace"):
        segment(predictor, frames, TEXTS, frames.path)
    with pytest.raises(ValueError, match="longer than 2 frames"):
        segment(predictor, frames, TEXTS, tmp_path / "b.mp4", most_frames=2)
    assert (out.parent / "a_masks/diary.txt").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--text", "dog"], "name a checkpoint with --checkpoint"),
        (["--text", " "], "give 1 to 300 characters"),
        ([], "no expressions"),
        (["--text", "dog", "--checkpoint", "nobody/nothing/there"], "nobody/nothing/there"),
    ],
)
def test_wrong_commands_are_one_line(
    flags: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    video = write_video(tmp_path / "in.mp4", frames=2)
    assert main(["predict", str(video), *flags]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_the_demo_is_offered_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo/run").mkdir(parents=True)
    main(["predict", str(write_video(tmp_path / "in.mp4", frames=2)), "--text", "dog"])
    assert "demo/run is there: --checkpoint demo/run" in capsys.readouterr().err
