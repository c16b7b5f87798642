"""Where the first AdamW step hangs on rounding: elements whose gradient is near zero.

AdamW's first step is g / (|g| + 1e-8) of the rate. Published gradients are clipped to a norm of 0.1
(a factor of about 1e-4 here), which leaves some elements of every large tensor below 1e-8. There
the last digits of a sum decide the step, and the same network differs from itself by more than
`STEP` of the rate when another number of threads adds in another order. The test shows both halves:
such elements exist, and all others hold the bound.
"""

import copy
import os

import pytest
import torch
from torch import Tensor, nn

from sgmg.training.losses import Criterion, count_visible, normaliser
from sgmg.training.matcher import Matcher
from tests.golden.fixtures import case_clips
from tests.golden.models import case_tokens, golden_model
from tests.golden.test_training import FIRM_GRADIENT, STEP, case_targets, trainable

EPSILON = 1e-8  # AdamW's
SEED = 2300  # the public case has seed 1300; this one lets `level_embed` meet a near-zero sum


def clipped_gradients(cases, case, threads: int) -> dict[str, Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = golden_model(cases, case["backbone"], dropout=0.0, drop_path=0.0, freeze_text=True)
        for module in model.train().modules():
            if isinstance(module, nn.Dropout):  # those of the text model
                module.p = 0.0
        frames, padding = case_clips(case)
        targets = case_targets(case)
        matcher = Matcher()
        output = model(
            frames, padding, case_tokens(cases, case), lambda queries: matcher(queries, targets)
        )
        terms = Criterion()(output, targets, normaliser(count_visible([targets])))
        terms["total"].backward()
        parameters = trainable(model)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.1)
        return {
            name: parameter.grad.clone()
            for name, parameter in parameters.items()
            if parameter.grad is not None
        }
    finally:
        torch.set_num_threads(before)


def first_step(gradient: Tensor) -> Tensor:
    """AdamW's first step over its rate, without decay."""
    return gradient / (gradient.abs() + EPSILON)


@pytest.mark.skipif("SGMG_LONG" not in os.environ, reason="takes a minute: set SGMG_LONG=1")
def test_only_gradients_near_zero_make_the_step_hang_on_rounding(cases):
    case = copy.deepcopy(cases["training"]["train_video_swin_t"])
    case["seed"] = SEED
    for number, clip in enumerate(case["clips"]):
        clip["seed"] = SEED + number
    one_thread, two_threads = (clipped_gradients(cases, case, threads) for threads in (1, 2))
    deviations = {
        name: (first_step(one_thread[name]) - first_step(two_threads[name])).abs()
        for name in one_thread
    }
    embedding = "transformer.level_embed"
    assert deviations[embedding].max() > STEP, "else this case shows nothing"
    assert one_thread[embedding].abs().flatten()[deviations[embedding].argmax()] < EPSILON
    for name, deviation in deviations.items():
        firm = one_thread[name].abs() > 5 * FIRM_GRADIENT
        assert deviation[firm].max() < STEP if firm.any() else True, name
