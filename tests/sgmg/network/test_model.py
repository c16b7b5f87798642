from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network.outputs import QueryOutput
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_config, tiny_model


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    """Equal but for rounding, of the largest value.

    Matrix products of other shapes sum in another order: 5e-7 in the words, and as much of the
    masks, whose logits reach 40 because patch kernels see coordinates in pixels.
    """
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.fixture(scope="module")
def model() -> SgMg:
    return tiny_model()


def first(queries: QueryOutput) -> Tensor:
    return torch.zeros(len(queries.class_logits), dtype=torch.long)


@torch.no_grad()
@pytest.mark.parametrize("size", [(136, 160), (129, 131), (135, 150)])
def test_shapes_follow_the_frames(model: SgMg, size: tuple[int, int]) -> None:
    frames, padding = clips(2, 2, *size)
    output = model(frames, padding, EXPRESSIONS[:2], best_query)
    (layer,) = output.layers
    height, width = size
    assert output.queries.class_logits.shape == (2, 2, 3)
    assert output.queries.boxes_cxcywh.shape == (2, 2, 3, 4)
    assert output.queries.low_mask_logits.shape == (2, 2, 3, height // 2, width // 2)
    assert output.query_index.shape == (2,)
    assert layer.low_mask_logits.shape == (2, 2, height // 2, width // 2)
    assert output.mask_logits.shape == (2, 2, height, width)


@torch.no_grad()
def test_several_expressions_share_one_look_exactly(model: SgMg) -> None:
    frames, padding = clips(2, 3)
    visual = model.encode_video(frames, padding)
    joint = model.segment(visual, model.tokenize(EXPRESSIONS), every_query, torch.tensor([1, 0, 1]))
    for i, clip in enumerate((1, 0, 1)):
        single = model(frames[[clip]], padding[[clip]], [EXPRESSIONS[i]], every_query)
        assert close(joint.mask_logits[i], single.mask_logits[0])
        assert close(joint.queries.class_logits[i], single.queries.class_logits[0])
        assert close(joint.queries.boxes_cxcywh[i], single.queries.boxes_cxcywh[0])
    assert not close(joint.mask_logits[0], joint.mask_logits[2], 1e-2)  # words matter


@torch.no_grad()
def test_annotated_frame_is_that_frame_of_the_whole_clip(model: SgMg) -> None:
    frames, padding = clips(2, 3)
    target_frame = torch.tensor([2, 0])
    whole = model(frames, padding, EXPRESSIONS[:2], every_query)
    single = model(frames, padding, EXPRESSIONS[:2], every_query, target_frame=target_frame)
    rows = torch.arange(2)
    assert single.mask_logits.shape[1] == 1
    assert close(single.mask_logits[:, 0], whole.mask_logits[rows, target_frame])
    assert close(single.queries.class_logits[:, 0], whole.queries.class_logits[rows, target_frame])


@torch.no_grad()
def test_padding_is_known_and_concerns_only_its_clip(model: SgMg) -> None:
    frames, padding = clips(2, 1)
    output = model(frames, padding, EXPRESSIONS[:2], every_query)
    unmasked = model(frames, torch.zeros_like(padding), EXPRESSIONS[:2], every_query)
    assert close(output.mask_logits[0], unmasked.mask_logits[0])  # clip 0 has no padding
    assert not close(output.mask_logits[1], unmasked.mask_logits[1], 1e-3)


@torch.no_grad()
def test_selected_masks_are_those_of_the_queries_chosen(model: SgMg) -> None:
    frames, padding = clips(2, 2)
    complete = model(frames, padding, EXPRESSIONS[:2], every_query)
    selected = model(frames, padding, EXPRESSIONS[:2], lambda q: torch.tensor([2, 1]))
    assert close(selected.mask_logits[0], complete.mask_logits[0, :, 2])
    assert close(selected.mask_logits[1], complete.mask_logits[1, :, 1])
    low = selected.queries.low_mask_logits
    assert close(selected.layers[0].low_mask_logits[0], low[0, :, 2])
    assert close(selected.layers[0].low_mask_logits[1], low[1, :, 1])


def test_best_query_is_of_the_mean_score_not_of_the_mean_logit() -> None:
    logits = torch.tensor([[[9.0, 1.0], [-9.0, 1.0], [-9.0, 1.0]], [[4.0, 0.0]] * 3])
    queries = QueryOutput(logits, torch.zeros(2, 3, 2, 4), lambda: pytest.fail("drew masks"))
    assert best_query(queries).tolist() == [1, 0]
    assert every_query(queries).tolist() == [[0, 1], [0, 1]]


def test_masks_of_all_queries_only_where_select_looks(
    model: SgMg, monkeypatch: pytest.MonkeyPatch
) -> None:
    query_counts = []
    convolve = model.kernels.convolve

    def count_queries(kernels: Tensor, features: Tensor, centres_px: Tensor) -> Tensor:
        query_counts.append(kernels.shape[1])
        return convolve(kernels, features, centres_px)

    monkeypatch.setattr(model.kernels, "convolve", count_queries)
    frames, padding = clips(1, 1)
    model(frames, padding, EXPRESSIONS[:1], best_query)
    assert query_counts == [1]  # the one selected, of the last layer
    query_counts.clear()
    model(frames, padding, EXPRESSIONS[:1], lambda q: first(q) + 0 * q.low_mask_logits.sum().long())
    assert query_counts == [3, 1]


def test_training_gives_every_layer_and_reaches_every_parameter() -> None:
    model = tiny_model(dropout=0.0).train()
    frames, padding = clips(2, 2)
    output = model(frames, padding, EXPRESSIONS[:2], first)
    assert len(output.layers) == 2
    assert len(model(frames, padding, EXPRESSIONS[:2], first, every_layer=False).layers) == 1
    loss = sum(
        layer.mask_logits.square().mean()
        + layer.low_mask_logits.square().mean()
        + layer.queries.class_logits.mean()
        + layer.queries.boxes_cxcywh.square().mean()
        for layer in output.layers
    )
    loss.backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert not output.queries.low_mask_logits.requires_grad


def test_frozen_text_trains_its_projections_only() -> None:
    model = tiny_model(freeze_text=True)
    trained = {n for n, p in model.text_encoder.named_parameters() if p.requires_grad}
    assert trained
    assert {name.split(".")[0] for name in trained} == {"words", "sentence"}


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 64, 65, 100, 127, 128, 200])
def test_clips_of_any_length(model: SgMg, frames: int) -> None:
    images, padding = clips(1, 1, 129, 129)
    images = images.expand(-1, frames, -1, -1, -1)
    output = model(images, padding, EXPRESSIONS[:1], best_query)
    assert output.mask_logits.shape == (1, frames, 129, 129)
    # a still clip is the same in every frame, whatever is computed together
    assert close(output.mask_logits, output.mask_logits[:, :1].expand(-1, frames, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width", "fits"), [(129, 129, True), (128, 200, False)])
def test_least_size_is_three_cells_at_stride_64(
    model: SgMg, height: int, width: int, fits: bool
) -> None:
    frames, padding = clips(1, 1, height, width)
    if fits:
        assert min(model.encode_video(frames, padding).levels[-1].shape[-2:]) == 3
    else:
        with pytest.raises(ValueError, match="enlarge or pad"):
            model.encode_video(frames, padding)


def test_first_guess_is_no_object() -> None:
    model = tiny_model()
    frames, padding = clips(1, 1)
    with torch.no_grad():
        for head in model.class_heads:
            head.get_parameter("weight").zero_()
        score = model(frames, padding, EXPRESSIONS[:1], best_query).queries.class_logits.sigmoid()
    assert close(score, torch.full_like(score, 0.01))


@torch.no_grad()
def test_identity_start_passes_features_through() -> None:
    frames, padding = clips(1, 1)
    changes = []
    for identity in (True, False):
        model = tiny_model(identity_start=identity)
        visual = model.encode_video(frames, padding)
        words, word_padding, _ = model.text_encoder(model.tokenize(EXPRESSIONS[:1]))
        fused = model.fuse(visual, words, word_padding)
        projected = [
            p(x) for p, x in zip(model.projections, model.backbone(frames)[1:], strict=False)
        ]
        for before, filtered in zip(projected, visual.levels, strict=False):
            assert close(filtered[0], before) == identity
        changes.append(
            [
                float((a / b).sub(1).abs().median())
                for a, b in zip(fused, visual.levels, strict=True)
            ]
        )
    assert max(changes[0]) < 0.5 < min(changes[1])


def test_parameter_count_of_the_published_size() -> None:
    roberta = {
        "model_type": "roberta",
        "vocab_size": 50265,
        "type_vocab_size": 1,
        "max_position_embeddings": 514,
    }
    with torch.device("meta"):
        model = SgMg(SgMgConfig(backbone="video_swin_t", text_config=roberta))
    assert sum(p.numel() for p in model.parameters()) == 177_877_628


@pytest.mark.parametrize(
    ("frames", "padding", "words", "message"),
    [
        ((1, 2, 3, 128, 200), (1, 128, 200), 1, "128x200 pixels: at least 129"),
        ((2, 3, 136, 136), (2, 136, 136), 2, r"must be \[B, T, 3, H, W\]"),
        ((1, 2, 3, 136, 136), (1, 136, 130), 1, r"padding \[1, 136, 130\]"),
        ((2, 1, 3, 136, 136), (2, 136, 136), 3, "3 expressions for 2 clips"),
    ],
)
def test_inputs_that_do_not_fit(
    model: SgMg, frames: tuple[int, ...], padding: tuple[int, ...], words: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(
            torch.zeros(frames),
            torch.zeros(padding, dtype=torch.bool),
            EXPRESSIONS[:words],
            best_query,
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": 40}, "hidden=40"),
        ({"hidden": 64, "heads": 6}, "hidden=64"),
        ({"queries": 0}, "queries=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"mask_channels": 8}, "mask_channels=8"),
    ],
)
def test_settings_that_cannot_be_built(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changed)


def test_a_text_model_is_needed() -> None:
    with pytest.raises(ValueError, match="name a text_model"):
        SgMg(tiny_config(text_config=None))


def test_settings_survive_a_dictionary() -> None:
    config = tiny_config()
    assert SgMgConfig.from_dict(asdict(config)) == config
    with pytest.raises(ValueError, match=r"unknown network settings.*hiden"):
        SgMgConfig.from_dict({"hiden": 64})
