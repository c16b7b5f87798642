"""Windows, streams, ranked queries: what the predictor answers is what the network says."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from sgmg import SgMg, SgMgConfig, every_query
from sgmg.inference.network_input import NetworkInput, make_network_input, scale_frame
from sgmg.inference.postprocess import restore, to_xyxy_px
from sgmg.inference.predictor import Predictor, PreviousFrame, choose_queries
from sgmg.network.outputs import QueryOutput
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from tests.sgmg.inference.videos import random_video, randomise_heads

EXPRESSIONS = ["the red circle", "a small blue square on the left", "green"]
FRAME_SIZE = (100, 150)  # of `random_video`

small_predictor = partial(Predictor, short_side=144, long_side=208)


@pytest.fixture(scope="module")
def model() -> SgMg:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(EXPRESSIONS)
    config = SgMgConfig(
        backbone="motion_convnet",
        text_model=None,
        text_config=tiny_text_config(len(tokenizer)),
        hidden=32,
        heads=4,
        encoder_layers=1,
        decoder_layers=2,
        feedforward=32,
        queries=3,
    )
    model = SgMg(config, tokenizer=tokenizer).eval()
    randomise_heads(model)
    return model


def network_input(predictor: Predictor, frames: Tensor) -> NetworkInput:
    """What the network sees of frames [T, 3, H, W]."""
    scaled_frames = [
        scale_frame(frame, predictor.short_side, predictor.long_side) for frame in frames
    ]
    return make_network_input(scaled_frames, predictor.pad_to)


@pytest.mark.parametrize(("at_once", "atol"), [(None, 0), (1, 0), (2, 1e-3), (8, 1e-3)])
def test_expressions_together_are_expressions_one_by_one(
    model: SgMg, at_once: int | None, atol: float
) -> None:
    frames = random_video(2)
    predictor = small_predictor(model, expressions_at_once=at_once)
    together = predictor.predict(frames, EXPRESSIONS)
    assert together.masks.shape == (3, 2, *FRAME_SIZE)
    assert together.masks.dtype == torch.bool
    assert not together.masks.all()
    assert together.masks.any()
    for e, expression in enumerate(EXPRESSIONS):
        alone = small_predictor(model).predict(frames, [expression])
        for name, tensor in vars(alone).items():
            shared = getattr(together, name)[e : e + 1]
            torch.testing.assert_close(shared.float(), tensor.float(), atol=atol, rtol=0)


def test_windows_are_the_videos_cut_there(model: SgMg) -> None:
    frames = random_video(5)
    whole = small_predictor(model, window=2).predict(frames, EXPRESSIONS)
    for start in (0, 2, 4):
        part = small_predictor(model).predict(frames[start : start + 2], EXPRESSIONS)
        for name, tensor in vars(part).items():
            assert torch.equal(getattr(whole, name)[:, start : start + 2], tensor)


def test_stream_answers_as_frames_come(model: SgMg) -> None:
    frames_taken = []

    def camera() -> Iterator[Tensor]:
        for index, frame in enumerate(random_video(3)):
            frames_taken.append(index)
            yield frame

    stream = small_predictor(model, window=2).stream(camera(), EXPRESSIONS)
    first = next(stream)
    assert (first.start, first.end, first.mask_logits.shape[1]) == (0, 2, 2)
    assert frames_taken == [0, 1]
    second = next(stream)
    assert (second.start, second.end) == (2, 3)
    assert second.masks().shape == (3, 1, *FRAME_SIZE)
    assert list(stream) == []


def test_the_query_of_highest_mean_score_is_shown(model: SgMg) -> None:
    predictor = small_predictor(model)
    frames = random_video(2)
    prediction = predictor.predict(frames, EXPRESSIONS)
    clip = network_input(predictor, frames)
    height, width = clip.inner_size
    for e, expression in enumerate(EXPRESSIONS):
        with torch.no_grad():
            output = model(clip.frames, clip.padding, [expression], every_query)
        scores = output.queries.class_logits[0].sigmoid()
        best = int(scores.mean(0).argmax())
        mask_logits = output.mask_logits[0, :, :, :height, :width]
        boxes = to_xyxy_px(output.queries.boxes_cxcywh[0, :, best], FRAME_SIZE)
        torch.testing.assert_close(prediction.scores[e], scores[:, best], atol=1e-5, rtol=0)
        torch.testing.assert_close(prediction.boxes_xyxy_px[e], boxes, atol=1e-3, rtol=0)
        masks = restore(mask_logits[:, best], FRAME_SIZE) > 0
        assert (prediction.masks[e] == masks).float().mean() > 0.999
        for t in (0, 1):
            candidates = predictor.rank(frames, [expression], target_frame=t)[0]
            ranking = scores[t].sort(descending=True)
            torch.testing.assert_close(candidates.scores, ranking.values, atol=1e-5, rtol=0)
            masks = restore(mask_logits[t, ranking.indices], FRAME_SIZE) > 0
            assert (candidates.masks == masks).float().mean() > 0.999


@pytest.mark.parametrize(("height", "width"), [(400, 30), (30, 400), (1, 9), (37, 37)])
def test_frames_of_any_shape_are_answered(model: SgMg, height: int, width: int) -> None:
    prediction = small_predictor(model).predict(random_video(1, height, width), ["green"])
    assert prediction.masks.shape == (1, 1, height, width)
    assert torch.isfinite(prediction.boxes_xyxy_px).all()


def test_bad_input_is_refused(model: SgMg) -> None:
    predictor = small_predictor(model)
    with pytest.raises(ValueError, match="no frames"):
        predictor.predict(random_video(0), EXPRESSIONS)
    with pytest.raises(ValueError, match="no expressions"):
        predictor.predict(random_video(1), [])
    with pytest.raises(ValueError, match="uint8"):
        predictor.predict(random_video(1).float(), EXPRESSIONS)
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        list(predictor.stream([random_video(1)[0], random_video(1, 50, 60)[0]], EXPRESSIONS))
    with pytest.raises(ValueError, match="window=0"):
        Predictor(model, window=0)


def queries_of(scores: list[list[float]], boxes_cxcywh: list[list[float]]) -> QueryOutput:
    """Queries of one expression: scores by frame and query, one box a query in every frame."""
    num_frames = len(scores)
    return QueryOutput(
        torch.tensor(scores).logit()[None],
        torch.tensor(boxes_cxcywh).expand(1, num_frames, -1, -1),
        lambda: pytest.fail("no masks are needed to choose"),
    )


def test_continuity_weighs_overlap_with_the_frame_before() -> None:
    left, right = [0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]
    queries = queries_of([[0.6, 0.5], [0.7, 0.6]], [left, right])  # mean scores 0.65 and 0.55
    right_px = torch.tensor([[10.0, 0.0, 20.0, 10.0]])
    previous = PreviousFrame(torch.tensor([0.5]), right_px, (10, 20))
    assert choose_queries(queries).tolist() == [0]
    assert choose_queries(queries, previous, continuity=0).tolist() == [0]
    # The right one overlaps whole, the left one not at all: 0.55 + c * 0.5 * 1 against 0.65.
    assert choose_queries(queries, previous, continuity=0.18).tolist() == [0]
    assert choose_queries(queries, previous, continuity=0.22).tolist() == [1]
    # An object hardly believed in before holds nothing.
    doubtful = PreviousFrame(torch.tensor([0.01]), right_px, (10, 20))
    assert choose_queries(queries, doubtful, continuity=0.22).tolist() == [0]


def test_overlap_is_that_of_the_first_frame_of_the_window() -> None:
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]])
    moved = torch.stack([boxes, boxes.flip(1)], 1)  # the two objects change places
    queries = QueryOutput(torch.zeros(1, 2, 2), moved, lambda: torch.empty(0))
    left_px = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    previous = PreviousFrame(torch.tensor([0.5]), left_px, (10, 20))
    assert choose_queries(queries, previous, continuity=0.1).tolist() == [0]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_window_holds_on_to_the_object_before(model: SgMg, at_once: int) -> None:
    frames = random_video(4, seed=3)
    predictor = small_predictor(model, window=2, expressions_at_once=at_once, continuity=5.0)
    first, second = predictor.stream(frames, EXPRESSIONS)
    clip = network_input(predictor, frames[2:])
    chosen, best = [], []
    for e, expression in enumerate(EXPRESSIONS):
        previous = PreviousFrame(
            first.scores[e : e + 1, -1], first.boxes_xyxy_px[e : e + 1, -1], FRAME_SIZE
        )
        with torch.no_grad():
            output = model(clip.frames, clip.padding, [expression], every_query)
        query = int(choose_queries(output.queries, previous, continuity=5.0))
        chosen.append(query)
        best.append(int(choose_queries(output.queries)))
        scores = output.queries.class_logits[0, :, query].sigmoid()
        torch.testing.assert_close(second.scores[e], scores, atol=1e-4, rtol=0)
    assert second.start == 2
    assert chosen != best, "else this test would show nothing"
