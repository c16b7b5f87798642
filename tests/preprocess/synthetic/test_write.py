"""The synthetic files: official layouts, equal for any number of workers, read by the readers."""

from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.readers.ref_youtube_vos import open_ref_youtube_vos
from preprocess.readers.refcoco import open_refcoco
from preprocess.synthetic.expressions import draw_referred_scene
from preprocess.synthetic.render import render
from preprocess.synthetic.settings import SyntheticSettings
from preprocess.synthetic.write import SCENES_PER_TASK, write_synthetic
from tests.preprocess.conftest import check_round_trip, digest, masks_of

SMALL = SyntheticSettings(
    train_videos=6,
    valid_videos=2,
    images=32,
    valid_images=3,
    num_frames=4,
    valid_frames=3,
    side=96,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    done: list[int] = []
    write_synthetic(root, SMALL, progress=done.append)
    assert sum(done) == SMALL.total == 43
    return root


def test_workers_change_no_byte_and_a_second_run_nothing(root: Path, tmp_path: Path) -> None:
    # images come from several tasks, so that equal strings in their lists are several objects
    assert SMALL.images + SMALL.valid_images > SCENES_PER_TASK
    write_synthetic(tmp_path, SMALL, workers=2)
    files = digest(tmp_path)
    assert files == digest(root)
    assert len(files) == 1 + 6 * 8 + 2 * 6 + 35 + 5 + 2
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_synthetic(tmp_path, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_other_settings_or_strange_files_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"drawn with another seed, motion: .*delete"):
        write_synthetic(root, replace(SMALL, seed=1, motion=0.25))
    (tmp_path / "coco").mkdir()
    with pytest.raises(ValueError, match=r"coco exists but .*synthetic.json does not"):
        write_synthetic(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial/refer_youtube_vos/train/JPEGImages/shapest00000").mkdir(parents=True)
    write_synthetic(tmp_path, SyntheticSettings(1, 1, 1, 1, 2, 2, 64))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["coco", "refer_youtube_vos", "synthetic.json"]


@pytest.mark.parametrize(("split", "videos", "frames"), [("train", 6, 4), ("valid", 2, 3)])
def test_videos_come_back_through_the_reader(
    root: Path, split: str, videos: int, frames: int
) -> None:
    source = open_ref_youtube_vos(root, split, dataset="synthetic")
    assert len(source.plans) == videos
    for index, plan in enumerate(source.plans):
        base = root / "refer_youtube_vos" / split
        video = source.read(plan.key)
        check_round_trip(video, base / "JPEGImages" / plan.key, base / "Annotations" / plan.key)
        drawn = draw_referred_scene(split, index, SMALL)
        assert len(video.frames) == frames
        assert [frame.name for frame in video.frames[:2]] == ["00000", "00005"]
        expressions = [
            (expression.text, expression.kind, expression.objects)
            for expression in video.expressions
        ]
        assert expressions == [
            (referral.text, referral.kind, (str(referral.target + 1),))
            for referral in drawn.referrals
        ]
        assert list(video.objects.values()) == [shape.shape for shape in drawn.scene.shapes]


@pytest.mark.parametrize(
    ("split", "stream", "count"), [("train", "image", 32), ("val", "valid_image", 3)]
)
def test_images_come_back_through_the_reader(
    root: Path, split: str, stream: str, count: int
) -> None:
    source = open_refcoco(root, "refcoco", split, dataset="synthetic-image")
    assert len(source.plans) == count
    for number, plan in enumerate(source.plans):
        drawn = draw_referred_scene(stream, number, SMALL)
        video = source.read(plan.key)
        referrals = sorted(drawn.referrals, key=lambda referral: referral.target)
        assert [(expression.text, expression.kind) for expression in video.expressions] == [
            (referral.text, referral.kind) for referral in referrals
        ]
        _, labels = render(drawn.scene)
        (masks,) = masks_of(source, plan.key)
        assert masks is not None
        targets = sorted({referral.target for referral in referrals})
        assert [video.objects[name] for name in masks] == [
            drawn.scene.shapes[target].shape for target in targets
        ]
        for target, mask in zip(targets, masks.values(), strict=True):
            visible = labels[0] == target + 1
            overlap = (mask & visible).sum() / (mask | visible).sum()
            assert overlap > 0.85  # polygons, but for what is covered; small ones lose most
