"""The whole network on its paths (video, annotated frame, image) against the published numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sgmg import best_query, every_query
from tests.golden.fixtures import case_clips, compare
from tests.golden.models import case_tokens, golden_model

TOLERANCE = 1e-4
MASKS = 1e-3  # absolute, in logits


@pytest.fixture(scope="module")
def networks(cases):
    """One network a backbone, made on first use."""
    made = {}

    def network(backbone: str):
        if backbone not in made:
            made.clear()
            made[backbone] = golden_model(cases, backbone)
        return made[backbone]

    return network


@torch.no_grad()
def test_model(model_case, cases, golden, networks):
    case, want = cases["models"][model_case], golden(model_case)
    model = networks(case["backbone"])
    video = case["path"] == "video"
    annotated = torch.tensor(case["annotated"]) if case["path"] == "annotated_frame" else None
    frames, padding = case_clips(case)

    stages = model.backbone(frames)
    visual = model.look(frames, padding, annotated)
    words, word_padding, sentence = model.text_encoder(case_tokens(cases, case))
    fused = model.fuse(visual, words, word_padding)
    memory = model.encode(visual, words, word_padding)
    decoded = model.decode(memory, sentence)
    output = model.refer(visual, case_tokens(cases, case), best_query if video else every_query)

    logits, boxes = output.queries.class_logits, output.queries.boxes_cxcywh
    masks = output.mask_logits
    if video:  # the published network returns the best query only
        query = output.selected
        logits, boxes = logits[..., query], boxes[:, :, query]
        masks = masks[:, :, None]
        references = decoded.boxes_cxcywh[-2][None, :, query, :2]  # the last layer's start
    got = {"pred_logits": logits[..., None], "pred_boxes": boxes, "pred_masks": masks}
    got = {f"{name.partition('/')[0]}/{n}": x for name in list(want)[-1:] for n, x in got.items()}
    frames_out = visual.levels[0].shape[1]
    middle = {
        "text_words": words,
        "text_sentence": sentence,
        "hs": torch.stack(decoded.states),
        "init_ref": decoded.first_references,
        "inter_refs": torch.stack(decoded.boxes_cxcywh),
        **{f"backbone{i}": x for i, x in enumerate(stages)},
        **{f"memory{i}": x for i, x in enumerate(memory.maps()[:3])},
        **{f"fft_pre{i}": x.flatten(0, 1) for i, x in enumerate(visual.levels)},
        **{f"fft_post{i}": x.flatten(0, 1) for i, x in enumerate(fused)},
        **{f"gauss{i}": x for i, x in enumerate(visual.gaussians)},
    }
    if video:
        middle["mso_out"] = F.pixel_unshuffle(output.mask_logits.flatten(0, 1)[:, None], 4)
        got[f"{next(iter(got)).partition('/')[0]}/reference_points"] = references
    got |= {f"mid/{name}": x for name, x in middle.items()}
    assert frames_out == (1 if annotated is not None else frames.shape[1])
    assert set(want) <= set(got)
    deviations = {name: compare(entry, got[name]) for name, entry in want.items()}
    assert max(deviations.values()) < TOLERANCE, deviations
    entry = want[next(name for name in want if name.endswith("pred_masks"))]
    found = got[next(name for name in want if name.endswith("pred_masks"))].flatten()
    assert np.abs(found.numpy()[:: entry.stride] - entry.values.flatten()).max() < MASKS
