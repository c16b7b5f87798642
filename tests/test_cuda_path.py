"""Every network's forward pass and loss on a CUDA device without values: no mixed devices."""

from functools import partial

import pytest
import torch

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.losses import Criterion, normaliser
from sgmg.training.matcher import Matcher
from sgmg.training.targets import Targets
from tests.fake_cuda import fake_cuda
from tests.sgmg.tiny import EXPRESSIONS, tiny_config

BACKBONES = ("video_swin_t", "video_swin_b", "swin_t", "swin_l", "resnet50", "motion_convnet")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def cuda_model(config: SgMgConfig) -> SgMg:
    with torch.device("cuda"):
        return SgMg(config, tokenizer=train_tokenizer(EXPRESSIONS))


def cuda_targets(expressions: int, frames: int, height: int, width: int) -> Targets:
    with torch.device("cuda"):
        return Targets(
            masks=torch.zeros(expressions, frames, height, width, dtype=torch.bool),
            boxes_cxcywh=torch.rand(expressions, frames, 4),
            visible=torch.ones(expressions, frames, dtype=torch.bool),
        )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("target_frame", [False, True])
def test_forward_and_loss_stay_on_the_device(dtype: torch.dtype, target_frame: bool) -> None:
    with fake_cuda():
        model = cuda_model(tiny_config()).train()
        frames = torch.randn(2, 3, 3, 136, 160, device="cuda")
        padding = torch.zeros(2, 136, 160, dtype=torch.bool, device="cuda")
        supervised = torch.zeros(2, dtype=torch.long, device="cuda") if target_frame else None
        targets = cuda_targets(2, 1 if target_frame else 3, 136, 160)
        select = partial(Matcher(), targets=targets)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            half = model.backbone(frames)[0]
            outputs = model(frames, padding, EXPRESSIONS[:2], select, target_frame=supervised)
            terms = Criterion()(outputs, targets, normaliser(torch.tensor(6, device="cuda")))
        assert half.dtype == dtype, "else autocast was off and this case shows nothing"
        assert outputs.mask_logits.device.type == "cuda"
        for term in terms.values():
            assert term.device.type == "cuda"
            assert term.dtype == torch.float32
        assert terms["total"].requires_grad


def test_a_mixed_device_is_noticed() -> None:
    with fake_cuda():
        model = cuda_model(tiny_config()).eval()
        frames = torch.randn(1, 1, 3, 136, 160, device="cuda")
        padding = torch.zeros(1, 136, 160, dtype=torch.bool)
        with pytest.raises(RuntimeError, match="device"):
            model(frames, padding, EXPRESSIONS[:1], best_query)


@pytest.mark.parametrize("backbone", [*BACKBONES, "timm:convnext_atto"])
def test_every_backbone_evaluates_on_the_device(backbone: str) -> None:
    text_config = tiny_text_config(len(train_tokenizer(EXPRESSIONS)))
    config = SgMgConfig(backbone=backbone, text_model=None, text_config=text_config)
    with fake_cuda(), torch.no_grad():
        model = cuda_model(config).eval()
        frames = torch.randn(1, 2, 3, 160, 192, device="cuda")
        padding = torch.zeros(1, 160, 192, dtype=torch.bool, device="cuda")
        visual = model.encode_video(frames, padding)
        tokens = model.tokenize(EXPRESSIONS)
        clips = torch.zeros(len(EXPRESSIONS), dtype=torch.long, device="cuda")
        outputs = model.segment(visual, tokens, every_query, clips)
        assert outputs.mask_logits.device.type == "cuda"
        assert outputs.mask_logits.shape[-2:] == (160, 192)
