import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from sgmg import SgMg, SgMgConfig, every_query
from sgmg.inference.predictor import (
    DEVIATION,
    MEAN,
    Predictor,
    boxes_px,
    candidates,
    merge_objects,
    resized,
    restore,
)
from sgmg.network.text_encoder import tiny_text_config, train_tokenizer

EXPRESSIONS = ["the red circle", "a small blue square on the left", "green"]
SIZES = {"short_side": 144, "long_side": 208}


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
    with torch.no_grad():  # fresh heads answer the same whatever the expression
        for head in (*model.class_heads, *model.box_heads):
            for parameter in head.parameters():
                parameter.normal_(0, 0.3)
    return model


def video(frames: int, height: int = 100, width: int = 150, seed: int = 0) -> Tensor:
    """Smooth uint8 frames [T, 3, H, W]."""
    coarse = torch.rand(frames, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def network_input(predictor: Predictor, frames: Tensor):
    return predictor._batch([predictor._shrink(frame) for frame in frames], torch.device("cpu"))


@pytest.mark.parametrize(("at_once", "atol"), [(None, 0), (1, 0), (2, 1e-3), (8, 1e-3)])
def test_expressions_together_are_expressions_one_by_one(
    model: SgMg, at_once: int | None, atol: float
) -> None:
    frames = video(2)
    together = Predictor(model, **SIZES, expressions_at_once=at_once).predict(frames, EXPRESSIONS)
    assert together.masks.shape == (3, 2, 100, 150)
    assert together.masks.dtype == torch.bool
    assert not together.masks.all()
    assert together.masks.any()
    for e, expression in enumerate(EXPRESSIONS):
        alone = Predictor(model, **SIZES).predict(frames, [expression])
        for name, tensor in vars(alone).items():
            torch.testing.assert_close(
                getattr(together, name)[e : e + 1].float(), tensor.float(), atol=atol, rtol=0
            )


def test_windows_are_the_videos_cut_there(model: SgMg) -> None:
    frames = video(5)
    whole = Predictor(model, **SIZES, window=2).predict(frames, EXPRESSIONS)
    for start in (0, 2, 4):
        part = Predictor(model, **SIZES).predict(frames[start : start + 2], EXPRESSIONS)
        for name, tensor in vars(part).items():
            assert torch.equal(getattr(whole, name)[:, start : start + 2], tensor)


def test_stream_answers_as_frames_come(model: SgMg) -> None:
    taken = []

    def camera():
        for i, frame in enumerate(video(3)):
            taken.append(i)
            yield frame

    stream = Predictor(model, **SIZES, window=2).stream(camera(), EXPRESSIONS)
    first = next(stream)
    assert (first.start, first.mask_logits.shape[1], taken) == (0, 2, [0, 1])
    second = next(stream)
    assert (second.start, second.masks().shape) == (2, (3, 1, 100, 150))
    assert list(stream) == []


def test_the_query_of_highest_mean_score_is_shown(model: SgMg) -> None:
    predictor, frames = Predictor(model, **SIZES), video(2)
    found = predictor.predict(frames, EXPRESSIONS)
    inputs, padding, (height, width) = network_input(predictor, frames)
    for e, expression in enumerate(EXPRESSIONS):
        with torch.no_grad():
            output = model(inputs, padding, [expression], every_query)
        scores = output.queries.class_logits[0].sigmoid()
        best = int(scores.mean(0).argmax())
        logits = output.mask_logits[0, :, best, :height, :width]
        boxes = boxes_px(output.queries.boxes_cxcywh[0, :, best], (100, 150))
        torch.testing.assert_close(found.scores[e], scores[:, best], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes_xyxy_px[e], boxes, atol=1e-3, rtol=0)
        assert (found.masks[e] == (restore(logits, (100, 150)) > 0)).float().mean() > 0.999
        for t in (0, 1):
            ranked = predictor.rank(frames, [expression], target_frame=t)[0]
            best_first = scores[t].sort(descending=True)
            torch.testing.assert_close(ranked.scores, best_first.values, atol=1e-5, rtol=0)
            logits = output.mask_logits[0, t, best_first.indices, :height, :width]
            assert (ranked.masks == (restore(logits, (100, 150)) > 0)).float().mean() > 0.999


@pytest.mark.parametrize(("height", "width"), [(400, 30), (30, 400), (1, 9), (37, 37)])
def test_frames_of_any_shape_are_answered(model: SgMg, height: int, width: int) -> None:
    found = Predictor(model, **SIZES).predict(video(1, height, width), ["green"])
    assert found.masks.shape == (1, 1, height, width)
    assert torch.isfinite(found.boxes_xyxy_px).all()


def test_bad_input_is_refused(model: SgMg) -> None:
    predictor = Predictor(model, **SIZES)
    with pytest.raises(ValueError, match="no frames"):
        predictor.predict(video(0), EXPRESSIONS)
    with pytest.raises(ValueError, match="no expressions"):
        predictor.predict(video(1), [])
    with pytest.raises(ValueError, match="uint8"):
        predictor.predict(video(1).float(), EXPRESSIONS)
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        predictor.predict([video(1)[0], video(1, 50, 60)[0]], EXPRESSIONS)
    with pytest.raises(ValueError, match="window=0"):
        Predictor(model, window=0)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 800), st.none() | st.integers(1, 999)
)
def test_resized_keeps_shape_and_limits(height, width, short_side, long_side) -> None:
    got = resized(height, width, short_side, long_side)
    assert min(got) >= 1
    assert min(got) <= short_side
    if long_side is None:
        assert min(got) == short_side
    else:
        short, long = sorted((height, width))
        assert max(got) <= max(long_side, long / short) + long / short
    assert (got[0] <= got[1]) == (height <= width) or got[0] == got[1]


def test_network_input_is_what_pil_would_make(model: SgMg) -> None:
    frames = video(2, 300, 400)
    predictor = Predictor(model, short_side=144)
    inputs, padding, size = network_input(predictor, frames)
    assert size == (144, 192)
    assert inputs.shape == (1, 2, 3, 144, 192)
    assert not padding.any()
    for frame, got in zip(frames, inputs[0], strict=True):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((192, 144), Image.BILINEAR)
        want = normalize(pil_to_tensor(image) / 255, list(MEAN), list(DEVIATION))
        assert (got - want).abs().max() < 1.01 / 255 / min(DEVIATION)


def test_padding_is_below_and_right(model: SgMg) -> None:
    predictor = Predictor(model, short_side=150)
    inputs, padding, size = network_input(predictor, video(1, 100, 111))
    assert size == (150, 166)
    assert padding.shape == (1, 160, 176)
    assert not padding[0, :150, :166].any()
    assert padding[0, 150:].all()
    assert padding[0, :, 166:].all()
    assert (inputs[0, 0, :, padding[0]] == 0).all()


def test_merged_objects_take_the_likelier_and_need_one_half() -> None:
    probabilities = torch.tensor([[0.4, 0.6, 0.9, 0.0], [0.3, 0.7, 0.8, 0.5]])[:, None, None]
    assert merge_objects(probabilities).tolist() == [[[0, 2, 1, 2]]]


def test_restore_is_identity_at_the_same_size_and_keeps_constants() -> None:
    logits = torch.randn(2, 3, 8, 9)
    assert torch.equal(restore(logits, (8, 9)), logits)
    constant = torch.full((1, 7, 13), 2.5)
    torch.testing.assert_close(restore(torch.full((1, 4, 4), 2.5), (7, 13)), constant)


def test_candidates_are_ranked_together() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0])
    masks = torch.arange(-1, 2).float()[:, None, None].expand(3, 4, 4)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]]) * torch.tensor([[1.0], [0.5], [0.1]])
    got = candidates(logits, masks, boxes, (10, 20))
    assert got.scores.tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (2, 0, -1)])
    assert [m.all().item() for m in got.masks] == [False, False, True]
    torch.testing.assert_close(got.boxes_xyxy_px[1], torch.tensor([8.0, 3.0, 12.0, 7.0]))
    torch.testing.assert_close(got.boxes_xyxy_px, boxes_px(boxes[[1, 0, 2]], (10, 20)))
