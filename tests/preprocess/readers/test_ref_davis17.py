"""Ref-DAVIS17 in every layout: genuine files, and hand-made ones for the traps."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess.dataset import PublishedCounts
from preprocess.readers.ref_davis17 import ANNOTATORS, open_ref_davis17
from shards.errors import ShardError
from shards.format.schema import prepare_video
from tests.preprocess.conftest import check_round_trip, jpeg, masks_of, write

VAL = ["blackswan", "car-shadow", "dance-twirl", "dog"]


@pytest.fixture(scope="session")
def genuine(shared: Path) -> Path:
    return shared / "realdata/refer_davis"


def repack(genuine: Path, root: Path, level: str, masks: str) -> Path:
    """Lay out the genuine files as converters do, with links instead of copies."""
    for split, name in (("train", "train"), ("val", "valid")):
        for video in (genuine / f"DAVIS/ImageSets/2017/{split}.txt").read_text().split():
            for tree, of in (("JPEGImages", "JPEGImages"), ("Annotations_unsupervised", masks)):
                link = root / name / of / level / video
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(genuine / "DAVIS" / tree / "480p" / video)
        shutil.copy(genuine / name / "meta.json", root / name)
    if masks != "Annotations":  # what the published scorer wants there
        palette = root / "valid/Annotations/blackswan/00000.png"
        palette.parent.mkdir(parents=True)
        shutil.copy(genuine / "DAVIS/Annotations_unsupervised/480p/blackswan/00000.png", palette)
    shutil.copytree(genuine / "meta_expressions", root / "meta_expressions")
    return root


def test_genuine_files_come_through_unchanged(genuine: Path) -> None:
    source = open_ref_davis17(genuine, "val")
    assert [plan.key for plan in source.plans] == VAL
    assert source.num_expressions == 16
    assert source.published == PublishedCounts(videos=30, expressions=244)
    for video, frames in zip(VAL, (50, 40, 90, 60), strict=True):
        read = source.read(video)
        assert (len(read.frames), read.height, read.width) == (frames, 480, 854)
        folders = (genuine / "DAVIS" / tree for tree in ("JPEGImages", "Annotations_unsupervised"))
        check_round_trip(read, *(folder / "480p" / video for folder in folders))
        assert Counter(row.kind for row in read.expressions) == dict.fromkeys(ANNOTATORS, 1)
    dog = source.read("dog").expressions
    assert dog[3].text == "a dog looking for something "  # as the annotator left it
    assert source.read("car-shadow").objects == {"1": "car"}


def test_void_pixels_are_an_object_of_their_own(genuine: Path) -> None:
    source = open_ref_davis17(genuine, "train")
    tennis = source.read("tennis")
    assert dict(tennis.objects) == {"1": "person", "2": "tennis racket", "255": "void"}
    assert [row.objects[0] for row in tennis.expressions] == ["1"] * 4 + ["2"] * 4
    tree = genuine / "DAVIS/Annotations_unsupervised/480p/tennis"
    check_round_trip(tennis, genuine / "DAVIS/JPEGImages/480p/tennis", tree)
    assert "255" not in source.read("bear").objects


@pytest.mark.parametrize("masks", ["Annotations", "Annotations_unsupervised"])
@pytest.mark.parametrize("level", ["", "480p"])
def test_repacked_forms_give_the_same_videos(
    genuine: Path, tmp_path: Path, level: str, masks: str
) -> None:
    root = repack(genuine, tmp_path / "refer_davis", level, masks)
    for split, video in (("val", "blackswan"), ("train", "tennis")):
        official, repacked = open_ref_davis17(genuine, split), open_ref_davis17(root, split)
        assert repacked.plans == official.plans
        assert repacked.read(video) == official.read(video)
    assert open_ref_davis17(tmp_path, "val").plans == open_ref_davis17(root, "val").plans


def test_all_30_videos_have_244_expressions_in_both_forms(genuine: Path, tmp_path: Path) -> None:
    path = genuine / "meta_expressions/valid/meta_expressions_all30.json"
    listed = json.loads(path.read_text())["videos"]
    image = jpeg(32, 48)
    for video in listed:
        for tree, content in (
            ("JPEGImages", image),
            ("Annotations_unsupervised", np.ones((32, 48))),
        ):
            suffix = "jpg" if tree == "JPEGImages" else "png"
            write(tmp_path / f"DAVIS/{tree}/480p/{video}/00000.{suffix}", content)
    write(tmp_path / "DAVIS/ImageSets/2017/val.txt", "\n".join(listed) + "\n")
    shutil.copytree(genuine / "davis_text_annotations", tmp_path / "davis_text_annotations")
    source = open_ref_davis17(tmp_path, "val")
    source.check_complete()
    assert (len(source.plans), source.num_expressions) == (30, 244)
    read = {plan.key: source.read(plan.key) for plan in source.plans}
    referred = set()
    for key, video in read.items():
        referred |= {(key, expression.objects) for expression in video.expressions}
    assert len(referred) == 61
    for name, content in listed.items():
        rows = [(key, row["exp"], row["obj_id"]) for key, row in content["expressions"].items()]
        expressions = read[name].expressions
        assert [(row.id, row.text, row.objects[0]) for row in expressions] == rows


def official_tree(root: Path, lines: dict[str, bytes], video: str = "dogs-scale") -> Path:
    labels = np.zeros((16, 24), np.uint8)
    labels[2:5, 3:9], labels[8:12, 3:9], labels[14, 20] = 1, 2, 255
    for name in ("00000", "00001"):
        write(root / f"DAVIS/JPEGImages/{video}/{name}.jpg", jpeg(16, 24))
    write(root / f"DAVIS/Annotations_unsupervised/{video}/00000.png", labels)
    write(root / "DAVIS/ImageSets/2017/val.txt", f"{video}\n")
    for annotator in ANNOTATORS:
        path = root / f"davis_text_annotations/Davis17_{annotator}.txt"
        write(path, lines.get(annotator, b""))
    return root


def test_misspelt_names_encodings_and_odd_counts(tmp_path: Path) -> None:
    lines = {
        "annot1": 'dogs-scale 2 "a caf\u00e9 "quoted" dog"\ndogs-scale 1 "a dog"\n'.encode(),
        "annot2": b'dog-scale 1 "a caf\xe9 dog"\r\n\r\n',
        "annot2_full_video": b'clasic-car 1 "a car"',
    }
    source = open_ref_davis17(official_tree(tmp_path, lines), "val")
    assert "dog-scale is misspelt, read as dogs-scale" in source.notes
    video = source.read("dogs-scale")
    assert [(row.id, row.text, row.objects, row.kind) for row in video.expressions] == [
        ("0", "a dog", ("1",), "annot1"),
        ("1", "a caf\u00e9 dog", ("1",), "annot2"),
        ("2", 'a caf\u00e9 "quoted" dog', ("2",), "annot1"),
    ]
    assert dict(video.objects) == {"1": "", "2": "", "255": "void"}
    first, second = masks_of(source, "dogs-scale")
    assert second is None  # nobody annotated that frame
    assert first is not None
    assert {name: mask.sum() for name, mask in first.items()} == {"1": 18, "2": 24, "255": 1}


def test_repacked_objects_without_four_expressions_have_no_annotator(tmp_path: Path) -> None:
    rows = {"0": "1", "1": "2", "2": "2", "3": "2", "4": "2", "5": "2", "6": "3"} | {
        str(number): "4" for number in range(7, 11)
    }
    expressions = {
        key: {"exp": f"text {key}", "obj_id": object_id} for key, object_id in rows.items()
    }
    listed = {"videos": {"cat-girl": {"expressions": expressions, "frames": ["00000"]}}}
    objects = {str(number): {"category": "cat"} for number in range(1, 5)}
    write(tmp_path / "meta_expressions/train/meta_expressions.json", listed)
    write(tmp_path / "train/meta.json", {"videos": {"cat-girl": {"objects": objects}}})
    write(tmp_path / "train/JPEGImages/cat-girl/00000.jpg", jpeg(16, 24))
    write(tmp_path / "train/Annotations/cat-girl/00000.png", np.ones((16, 24)))
    source = open_ref_davis17(tmp_path, "train")
    assert len(source.notes) == 3
    assert source.notes[1] == "cat-girl: object 2 has 5 expressions, not four"
    kinds = [row.kind for row in source.read("cat-girl").expressions]
    assert kinds == [""] * 7 + list(ANNOTATORS)


def break_text(root: Path) -> None:
    write(root / "davis_text_annotations/Davis17_annot1.txt", "dogs-scale one dog\n")


def break_encoding(root: Path) -> None:
    write(root / "davis_text_annotations/Davis17_annot1.txt", b'dogs-scale 1 "caf\xe9"\n')


def break_mask(root: Path) -> None:
    write(root / "DAVIS/Annotations_unsupervised/dogs-scale/00000.png", np.ones((16, 25)))


def break_png(root: Path) -> None:
    write(root / "DAVIS/Annotations_unsupervised/dogs-scale/00000.png", b"\x89PNG\r\n")


def colour_mask(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (24, 16)).save(root / "DAVIS/Annotations_unsupervised/dogs-scale/00000.png")


def shorten_frame(root: Path) -> None:
    path = root / "DAVIS/JPEGImages/dogs-scale/00001.jpg"
    write(path, path.read_bytes()[:-200])


def resize_frame(root: Path) -> None:
    write(root / "DAVIS/JPEGImages/dogs-scale/00001.jpg", jpeg(16, 25))


def no_frame(root: Path) -> None:
    for path in (root / "DAVIS/JPEGImages/dogs-scale").iterdir():
        path.unlink()


def remove(name: str) -> Callable[[Path], None]:
    def broken(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return broken


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_text, r"Davis17_annot1.txt, line 1: expected <video>.*dogs-scale one dog"),
        (break_encoding, r"Davis17_annot1.txt is not utf-8"),
        (break_mask, r"frame '00000': mask of 16 x 25 pixels, the video has 16 x 24"),
        (break_png, r"00000.png is no readable PNG .*; download it again"),
        (colour_mask, r"00000.png is a PNG of mode RGB"),
        (shorten_frame, r"00001.jpg is cut short"),
        (resize_frame, r"frame '00001': 16 x 25 pixels, the video has 16 x 24"),
        (no_frame, r"dogs-scale has no frames"),
        (
            remove("DAVIS/JPEGImages/dogs-scale"),
            r"no frames of video dogs-scale: there",
        ),
        (
            remove("DAVIS/Annotations_unsupervised"),
            r"no masks of video dogs-scale.*_unsupervised",
        ),
        (remove("DAVIS/ImageSets/2017/val.txt"), r"val.txt: No such file.*; complete the download"),
        (remove("davis_text_annotations/Davis17_annot2.txt"), r"Davis17_annot2.txt: No such file"),
        (remove("davis_text_annotations"), r"no Ref-DAVIS17 val below .*check --root"),
    ],
)
def test_what_is_broken_is_named(
    tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    root = official_tree(tmp_path, {"annot1": b'dogs-scale 1 "a dog"\n'})
    assert open_ref_davis17(root, "val").read("dogs-scale")
    harm(root)
    with pytest.raises(ShardError, match=message):
        prepare_video(open_ref_davis17(root, "val").read("dogs-scale"))
