"""Cross-attention of pixels with words against the published implementation."""

import torch
from einops import rearrange

from sgmg.network.cross_attention import CrossAttention
from tests.golden.fixtures import compare, hold, randn, seed_module


@torch.no_grad()
def test_cross_attention(cases, golden):
    case = cases["modules"]["mod_fusion"]
    t, h, w, b, length = (case[name] for name in ("t", "h", "w", "b", "L"))
    seeds = case["seeds"]
    fusion = seed_module(CrossAttention(256), "fusion_module.")
    padding = torch.zeros(b, length, dtype=torch.bool)
    padding[1, -case["masked_tail_of_item_1"] :] = True
    fused = fusion(
        rearrange(randn(seeds["visual"], t, h, w, b, 256), "t h w b c -> b t c h w"),
        rearrange(randn(seeds["text"], length, b, 256), "l b c -> b l c"),
        padding,
        rearrange(randn(seeds["text_pos"], length, b, 256), "l b c -> b l c"),
    )
    hold(
        "cross-attention with words",
        2e-5,
        compare(golden("mod_fusion")["out"], rearrange(fused, "b t c h w -> (t h w) b c")),
    )
