"""Each kind of benchmark on a small video in memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmg.evaluation.benchmarks import (
    BENCHMARKS,
    ClipBenchmark,
    MergedObjects,
    RankedQueries,
    find_benchmark,
)
from sgmg.evaluation.scores import ExpressionScore
from sgmg.masks.png_masks import MaskFolder
from tests.sgmg.evaluation.videos import PlainExpression, PlainPredictor, PlainVideo, square

DOG = square(1, 1)
CAT = square(6, 9)
SIZE = DOG.shape


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_an_unknown_data_set_is_an_error_that_names_the_known() -> None:
    assert find_benchmark("mevis") is BENCHMARKS["mevis"]
    with pytest.raises(ValueError, match="'youtube'; known are ref-youtube-vos, mevis, synthetic"):
        find_benchmark("youtube")


def test_sizes_are_the_published() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.sizes.short_side == 360
        ranked = isinstance(benchmark, RankedQueries)
        assert benchmark.sizes.long_side == (640 if ranked else None)
        assert benchmark.sizes.window == (36 if name == "ref-davis17" else None)
        assert benchmark.headline == ("mAP" if ranked else "J&F")


def test_clips_write_every_frame_and_score_the_annotated(tmp_path: Path) -> None:
    video = PlainVideo(
        masks=[{"1": DOG, "2": CAT}, None, {"1": DOG}],
        expressions=[
            PlainExpression("0", "a dog", ("1",), "side"),
            PlainExpression("1", "a cat", ("2",)),
            PlainExpression("2", "both", ("1", "2")),
            PlainExpression("3", "a secret", ()),
        ],
    )
    benchmark = ClipBenchmark()
    masks = MaskFolder(tmp_path)
    answers = {"a dog": DOG, "a cat": CAT, "both": DOG, "a secret": CAT}
    assert not benchmark.predict(PlainPredictor(answers), video, masks)  # type: ignore[arg-type]
    expected = list(benchmark.submission([video]))
    assert len(expected) == 4 * 3
    assert all(masks.read(name, size).max() == 255 for name, size in expected)
    assert np.array_equal(masks.read("video/1/00002.png", SIZE), CAT * np.uint8(255))

    dog, cat, dog_and_cat = benchmark.score(video, masks)  # nothing is known of the secret
    assert (dog.text, dog.kind, dog.folder) == ("a dog", "side", "video/0")
    assert dog.scores["j"] == dog.scores["f"] == 1
    assert dog.scores["control"] == 0  # against the cat, the only object apart
    assert dog.area == 25 / 192
    assert cat.scores["j"] == 0.5  # in the last frame there is no cat
    assert cat.area == 25 / 192  # over the frames that show it
    assert dog_and_cat.scores["j"] == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(dog_and_cat.scores["control"])  # all objects are its own


def test_videos_without_ground_truth_are_predicted_and_not_scored(tmp_path: Path) -> None:
    video = PlainVideo(masks=[None], expressions=[PlainExpression("0", "a dog", ("1",))])
    predictor = PlainPredictor({"a dog": DOG})
    masks = MaskFolder(tmp_path)
    for benchmark in (ClipBenchmark(), MergedObjects(), RankedQueries()):
        benchmark.predict(predictor, video, masks)  # type: ignore[arg-type]
        assert list(benchmark.score(video, masks)) == []
    assert len(list(tmp_path.rglob("*.png"))) == 2
    unspoken = PlainVideo(masks=[{"1": DOG}], expressions=[])
    for benchmark in (ClipBenchmark(), MergedObjects(), RankedQueries()):
        benchmark.predict(predictor, unspoken, masks)  # type: ignore[arg-type]
        assert list(benchmark.score(unspoken, masks)) == []


@pytest.fixture
def annotators() -> PlainVideo:
    """Two annotators; the second does not name the cat. Void pixels lie below."""
    void = np.zeros(SIZE, bool)
    void[-1] = True
    return PlainVideo(
        masks=[{"1": DOG, "2": CAT, "255": void}] * 3,
        expressions=[
            PlainExpression("0", "the dog", ("1",), "b"),
            PlainExpression("1", "a cat", ("2",), "a"),
            PlainExpression("2", "a dog", ("1",), "a"),
        ],
    )


def by_annotator(scores: list[ExpressionScore]) -> dict[tuple[str, float], ExpressionScore]:
    return {(score.kind, score.label): score for score in scores}


def test_merged_objects_have_the_labels_of_their_annotator(
    annotators: PlainVideo, tmp_path: Path
) -> None:
    masks = MaskFolder(tmp_path)
    answers = {"the dog": DOG, "a cat": CAT, "a dog": DOG}
    benchmark = MergedObjects()
    benchmark.predict(PlainPredictor(answers), annotators, masks)  # type: ignore[arg-type]
    assert np.array_equal(read(tmp_path / "a/video/00002.png"), CAT + 2 * DOG)
    assert np.array_equal(read(tmp_path / "b/video/00000.png"), DOG)
    scores = by_annotator(list(benchmark.score(annotators, masks)))
    assert len(scores) == 4
    assert scores["a", 1].text == "a cat"
    assert scores["a", 2].text == "a dog"
    assert scores["b", 1].text == "the dog"
    assert all(scores[key].scores["j"] == 1 for key in (("a", 1), ("a", 2), ("b", 1)))
    unnamed = scores["b", 0]  # an object without expression counts as missed
    assert (unnamed.expression, unnamed.text, unnamed.scores["j"]) == ("", "", 0)
    assert scores["a", 1].scores == {
        "j": 1,
        "f": 1,
        "J recall": 1,
        "J decay": 0,
        "F recall": 1,
        "F decay": 0,
    }


def test_merged_objects_are_read_as_the_published_scripts_name_them(
    annotators: PlainVideo, tmp_path: Path
) -> None:
    masks = MaskFolder(tmp_path)
    for frame in annotators.frame_names:
        # annotator "a" is the first: the order of labels does not matter, nor what lies on void
        labels = DOG + 2 * CAT.astype(np.uint8)
        labels[-1] = 1
        masks.write(f"anno_0/video/{frame}.png", labels)
        masks.write(f"b/video/{frame}.png", np.zeros(SIZE, np.uint8))
    scores = by_annotator(list(MergedObjects().score(annotators, masks)))
    assert scores["a", 1].folder == "anno_0/video"
    assert scores["a", 1].scores["j"] == scores["a", 2].scores["j"] == 1
    assert scores["b", 1].scores["j"] == 0


def test_ranked_queries_see_an_annotated_frame_amid_five(tmp_path: Path) -> None:
    video = PlainVideo(
        masks=[{"1": DOG}, None, {"2": CAT}, {}, None, {"1": DOG, "2": CAT}],
        expressions=[
            PlainExpression("0", "A  Dog", ("1",)),
            PlainExpression("1", "the cat", ("2",)),
        ],
    )
    predictor = PlainPredictor({"a dog": DOG, "the cat": DOG})
    masks = MaskFolder(tmp_path)
    benchmark = BENCHMARKS["a2d-sentences"]
    candidates = benchmark.predict(predictor, video, masks)  # type: ignore[arg-type]
    assert predictor.ranked == [
        # the first occurrence of the frame counts, as published
        ([0, 0, 0, 1, 2], ["a dog"], 0),
        ([0, 1, 2, 3, 4], ["the cat"], 2),
        ([3, 4, 5, 5, 5], ["a dog", "the cat"], 2),
    ]
    names = {"video/0/00000.png", "video/1/00002.png", "video/0/00005.png", "video/1/00005.png"}
    assert candidates.keys() == names
    scores = list(benchmark.score(video, masks, candidates))
    assert {f"{score.folder}/{score.frame}.png" for score in scores} == names
    for score in scores:
        dog = score.expression == "0"
        assert score.scores == {"intersections": 25 if dog else 0, "unions": 25 if dog else 50}
        assert score.ranked_masks is not None
        assert score.ranked_masks.scores == (0.75, 0.25)
        assert score.ranked_boxes is not None
        assert score.ranked_boxes.truth_xyxy_px == ([1, 1, 6, 6] if dog else [9, 6, 14, 11])


def test_images_are_seen_alone_and_expressions_as_they_are(tmp_path: Path) -> None:
    video = PlainVideo(masks=[{"1": DOG}], expressions=[PlainExpression("0", "A  Dog", ("1",))])
    predictor = PlainPredictor({"A  Dog": DOG})
    BENCHMARKS["refcoco"].predict(predictor, video, MaskFolder(tmp_path))  # type: ignore[arg-type]
    assert predictor.ranked == [([0], ["A  Dog"], 0)]


def test_a_mask_of_another_system_is_the_only_candidate(tmp_path: Path) -> None:
    video = PlainVideo(masks=[{"1": DOG}], expressions=[PlainExpression("0", "a dog", ("1",))])
    masks = MaskFolder(tmp_path)
    masks.write("video/0/00000.png", DOG.astype(np.uint8))  # any value but 0 is the object
    (score,) = BENCHMARKS["refcocog"].score(video, masks)
    assert score.scores == {"intersections": 25, "unions": 25}
    assert score.ranked_masks is not None
    assert score.ranked_masks.scores == (1.0,)
    assert score.ranked_boxes is None


def test_only_clips_have_a_server() -> None:
    for benchmark in BENCHMARKS.values():
        has_server = isinstance(benchmark, ClipBenchmark)
        assert (benchmark.submission([]) is not None) == has_server


def davis_video(*masks: dict[str, np.ndarray]) -> PlainVideo:
    """A sequence whose only annotator names objects 1 and 2."""
    expressions = [
        PlainExpression("0", "a dog", ("1",), "annot1"),
        PlainExpression("1", "a cat", ("2",), "annot1"),
    ]
    return PlainVideo(masks=masks, expressions=expressions)


def score_labels(video: PlainVideo, labels: np.ndarray, folder: Path) -> list[ExpressionScore]:
    """Score the same label map in every frame."""
    masks = MaskFolder(folder)
    for frame in video.frame_names:
        masks.write(f"annot1/video/{frame}.png", labels)
    return list(MergedObjects().score(video, masks))


def test_davis_scores_no_object_that_appears_after_the_first_frame(tmp_path: Path) -> None:
    late = square(0, 0, side=1)
    video = davis_video({"1": DOG, "2": CAT}, {"1": DOG, "2": CAT, "3": late})
    labels = (DOG + 2 * CAT).astype(np.uint8)
    scores = score_labels(video, labels, tmp_path)
    assert [score.label for score in scores] == [1, 2]
    assert all(score.scores["j"] == score.scores["f"] == 1 for score in scores)


def test_davis_scores_no_object_that_is_listed_and_never_seen(tmp_path: Path) -> None:
    video = davis_video({"1": DOG}, {"1": DOG})
    (dog,) = score_labels(video, DOG.astype(np.uint8), tmp_path)
    assert (dog.text, dog.scores["j"]) == ("a dog", 1)


def test_davis_scores_an_id_that_the_first_frame_skips(tmp_path: Path) -> None:
    """Ids 1 and 3 are seen: 2 counts, and is right where nothing is predicted for it."""
    video = davis_video({"1": DOG, "3": CAT}, {"1": DOG, "2": square(0, 12, side=3), "3": CAT})
    labels = (DOG + 2 * CAT).astype(np.uint8)  # labels are matched: their order is free
    dog, skipped, cat = score_labels(video, labels, tmp_path)
    assert (dog.text, dog.scores["j"]) == ("a dog", 1)
    assert skipped.scores["j"] == 0.5  # the second frame shows the object
    assert (cat.text, cat.scores["j"]) == ("", 1)  # the annotator has not named it


def test_davis_refuses_ids_that_are_no_numbers(tmp_path: Path) -> None:
    video = davis_video({"dog": DOG})
    with pytest.raises(ValueError, match="video video: object id 'dog' is no number of DAVIS"):
        score_labels(video, DOG.astype(np.uint8), tmp_path)


def test_davis_scores_nothing_of_a_sequence_whose_first_frame_is_empty(tmp_path: Path) -> None:
    video = davis_video({"255": CAT}, {"1": DOG, "255": CAT})
    assert score_labels(video, DOG.astype(np.uint8), tmp_path) == []
