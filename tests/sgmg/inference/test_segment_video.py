"""From a file to overlay, masks and codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sgmg.inference.predictor import Predictor
from sgmg.inference.segment_video import mask_folder_of, segment_video
from sgmg.inference.video_io import open_frames
from tests.sgmg.inference.videos import SIZE, grey_frame, randomise_heads, write_video
from tests.sgmg.tiny import EXPRESSIONS, tiny_model

TWO_EXPRESSIONS = EXPRESSIONS[:2]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = tiny_model()
    randomise_heads(model)
    return Predictor(model, short_side=144, window=2)


def test_what_is_written_is_what_the_predictor_says(predictor: Predictor, tmp_path: Path) -> None:
    path = write_video(tmp_path / "in.mp4", num_frames=5)
    out = tmp_path / "deep" / "out.mp4"
    finished: list[int] = []
    video = segment_video(
        predictor, open_frames(path), TWO_EXPRESSIONS, out, progress=finished.append
    )
    assert finished == list(range(5))
    assert (video.overlay, video.masks) == (out, mask_folder_of(out))
    prediction = predictor.predict(path, TWO_EXPRESSIONS)
    document = json.loads((video.masks / "masks.json").read_text())
    assert document["expressions"] == list(TWO_EXPRESSIONS)
    assert [entry["frame"] for entry in document["frames"]] == list(range(5))
    for t, entry in enumerate(document["frames"]):
        assert entry["scores"] == video.scores[t]
        assert entry["scores"] == pytest.approx(prediction.scores[:, t].tolist())
        boxes = prediction.boxes_xyxy_px[:, t].numpy()
        assert np.array(entry["boxes_xyxy"]) == pytest.approx(boxes, abs=1e-3)
        for e, rle in enumerate(entry["segmentations"]):
            mask = prediction.masks[e, t].numpy()
            assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
            png = Image.open(video.masks / f"{e:02d}/{t:05d}.png")
            assert np.array_equal(np.asarray(png).astype(bool), mask)
    overlay_frames = list(open_frames(out))
    assert [frame.shape for frame in overlay_frames] == [(*SIZE, 3)] * 5
    differences = [
        np.abs(overlay_frame.astype(int) - frame).max()
        for overlay_frame, frame in zip(overlay_frames, open_frames(path), strict=True)
    ]
    assert min(differences) > 60, "nothing was drawn"
    assert sorted(file.name for file in out.parent.iterdir()) == ["out.mp4", "out_masks"]


def test_images_become_images(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(grey_frame(4)).save(path)
    video = segment_video(predictor, open_frames(path), TWO_EXPRESSIONS, tmp_path / "out.mp4")
    assert video.overlay == tmp_path / "out.png"
    with Image.open(video.overlay) as overlay:
        assert overlay.size == SIZE[::-1]
    assert np.shape(video.scores) == (1, 2)


def test_nothing_is_half_written(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, side in enumerate((40, 40, 50)):
        Image.fromarray(grey_frame(number, side, side)).save(folder / f"{number}.png")
    out = tmp_path / "out" / "a.mp4"
    with pytest.raises(ValueError, match="frame 2 is 50x50"):
        segment_video(predictor, open_frames(folder), TWO_EXPRESSIONS, out)
    assert list(out.parent.iterdir()) == []


def test_nothing_of_others_is_replaced(predictor: Predictor, tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.mp4"
    diary = out.parent / "a_masks/diary.txt"
    diary.parent.mkdir(parents=True)
    diary.write_text("dear diary")
    frames = open_frames(write_video(tmp_path / "video.mp4", num_frames=3))
    content = frames.path.read_bytes()
    for taken in (out, frames.path):
        with pytest.raises(ValueError, match="would replace"):
            segment_video(predictor, frames, TWO_EXPRESSIONS, taken)
    assert diary.is_file()
    assert frames.path.read_bytes() == content


def test_an_earlier_result_is_replaced(predictor: Predictor, tmp_path: Path) -> None:
    frames = open_frames(write_video(tmp_path / "video.mp4", num_frames=1))
    for expressions in (TWO_EXPRESSIONS, TWO_EXPRESSIONS[:1]):
        video = segment_video(predictor, frames, expressions, tmp_path / "out.mp4")
    assert not (video.masks / "01").exists()
    assert json.loads((video.masks / "masks.json").read_text())["expressions"] == [EXPRESSIONS[0]]


def test_a_longer_video_than_allowed_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    frames = open_frames(write_video(tmp_path / "video.mp4", num_frames=3))
    with pytest.raises(ValueError, match="longer than 2 frames"):
        segment_video(predictor, frames, TWO_EXPRESSIONS, tmp_path / "b.mp4", max_frames=2)
