"""The synthetic files: official layouts, equal for any number of workers, read by the readers."""

import hashlib
from pathlib import Path

import pytest

from preprocess.readers.ref_youtube_vos import open_ref_youtube_vos
from preprocess.readers.refcoco import open_refcoco
from preprocess.synthetic.shapes import render
from preprocess.synthetic.write import SyntheticSettings, draw, write_synthetic
from tests.preprocess.conftest import check_round_trip, masks_of

SMALL = SyntheticSettings(
    train_videos=6, valid_videos=2, images=12, valid_images=3, num_frames=4, valid_frames=3, side=96
)


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    done: list[int] = []
    write_synthetic(root, SMALL, progress=done.append)
    assert sum(done) == SMALL.total == 23
    return root


def test_workers_change_no_byte_and_a_second_run_nothing(root: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL, workers=2)
    files = digest(tmp_path)
    assert files == digest(root)
    assert len(files) == 1 + 6 * 8 + 2 * 6 + 15 + 5 + 2
    (tmp_path / "synthetic.json").touch()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_synthetic(tmp_path, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_other_settings_or_strange_files_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"drawn with another seed, motion: .*delete"):
        write_synthetic(root, SyntheticSettings(**(vars(SMALL) | {"seed": 1, "motion": 0.25})))
    (tmp_path / "coco").mkdir()
    with pytest.raises(ValueError, match=r"coco exists but .*synthetic.json does not"):
        write_synthetic(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial/refer_youtube_vos/train/JPEGImages/shapest00000").mkdir(parents=True)
    write_synthetic(tmp_path, SyntheticSettings(1, 1, 1, 1, 2, 2, 64))
    assert sorted(it.name for it in tmp_path.iterdir()) == [
        "coco",
        "refer_youtube_vos",
        "synthetic.json",
    ]


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
        scene, referrals = draw(split, index, SMALL)
        assert len(video.frames) == frames
        assert [it.name for it in video.frames[:2]] == ["00000", "00005"]
        assert [(it.text, it.kind, it.objects) for it in video.expressions] == [
            (it.text, it.kind, (str(it.target + 1),)) for it in referrals
        ]
        assert list(video.objects.values()) == [shape.shape for shape in scene.shapes]


def test_images_come_back_through_the_reader(root: Path) -> None:
    counts = {}
    for split in ("train", "val"):
        source = open_refcoco(root, "refcoco", split, dataset="synthetic-image")
        counts[split] = len(source.plans)
        for number, plan in enumerate(source.plans):
            scene, referrals = draw({"train": "image", "val": "valid_image"}[split], number, SMALL)
            video = source.read(plan.key)
            assert [(it.text, it.kind) for it in video.expressions] == [
                (it.text, it.kind) for it in sorted(referrals, key=lambda it: it.target)
            ]
            labels = render(scene)[1][0]
            (masks,) = masks_of(source, plan.key)
            assert masks is not None
            targets = sorted({it.target for it in referrals})
            assert [video.objects[name] for name in masks] == [
                scene.shapes[t].shape for t in targets
            ]
            for target, mask in zip(targets, masks.values(), strict=True):
                mask_in_labels = labels == target + 1
                overlap = (mask & mask_in_labels).sum() / (mask | mask_in_labels).sum()
                assert overlap > 0.85  # polygons, but for what is covered; small ones lose most
    assert counts == {"train": 12, "val": 3}


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="side is 32 pixels"):
        SyntheticSettings(side=32)
    with pytest.raises(ValueError, match="at least one frame"):
        SyntheticSettings(num_frames=0)
