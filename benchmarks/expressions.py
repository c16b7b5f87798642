"""N expressions in one visual pass, against the published procedure: a full forward each.

    python benchmarks/expressions.py [--sizes t b] [--frames 5] [--most 16] [--at-once 1]

The published procedure computes the masks of all decoder layers and all queries; sampling is
ours in both; so sums are added up in another order, and a pixel whose logit is next to nothing may
change. The last expression is also asked by itself of our network: its bits must be those of the
shared pass. `--at-once` expressions share a step after the visual pass (`Predictor`'s default on
a CPU is 1). Random weights, one run: the loop goes over the most expressions once, its time for
fewer is that of the first ones; each shared pass follows the expressions it is compared with.
"""

import argparse
import json
import resource
import time
from typing import Any

import torch
from torch import Tensor

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network.outputs import VisualFeatures
from sgmg.network.tokenizer import train_tokenizer

TEXTS = [
    f"{size} {thing} on the {side}"
    for size in ("a small", "the large")
    for thing in ("dog", "cat", "red car", "person who is walking")
    for side in ("left", "right")
]
ROBERTA = {
    "model_type": "roberta",
    **{"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514},
    **{"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
}


def build(size: str) -> SgMg:
    """A network of published size with random weights that answer differently to each query."""
    torch.manual_seed(0)
    config = SgMgConfig(backbone=f"video_swin_{size}", text_model=None, text_config=ROBERTA)
    model = SgMg(config, tokenizer=train_tokenizer(TEXTS)).eval()
    with torch.no_grad():
        for head in (*model.class_heads, *model.box_heads):
            for parameter in head.parameters():
                parameter.normal_(0, 0.05)
    return model


def batched(texts: list[str], count: int) -> list[list[str]]:
    """As `itertools.batched` of Python 3.12."""
    return [texts[first : first + count] for first in range(0, len(texts), count)]


def refer(model: SgMg, visual: VisualFeatures, texts: list[str]) -> Tensor:
    """Mask logits [E, T, H, W] of expressions that share a step."""
    index = torch.zeros(len(texts), dtype=torch.long)
    tokens = model.tokenize(texts)
    return model.segment(visual, tokens, best_query, index, every_layer=False).mask_logits


@torch.inference_mode()
def measure(size: str, frames: int, most: int, at_once: int) -> dict[str, Any]:
    """Ratios by N, and the largest difference of logits."""
    model = build(size)
    clip = torch.randn(1, frames, 3, 192, 320)
    padding = torch.zeros(1, 192, 320, dtype=torch.bool)
    counts = [n for n in (1, 2, 4, 8, 16) if n <= most]
    spent, loop, difference, changed = 0.0, [], 0.0, 0
    ratios = {}
    model(clip, padding, TEXTS[:1], best_query)  # what is built on first use
    for number in range(counts[-1]):
        start = time.perf_counter()
        output = model(clip, padding, [TEXTS[number]], every_query, every_layer=True)
        spent += time.perf_counter() - start
        best = best_query(output.queries)
        loop.append(output.mask_logits[0, :, best[0]])
        if number + 1 not in counts:
            continue
        start = time.perf_counter()
        visual = model.encode_video(clip, padding)
        shared = torch.cat(
            [refer(model, visual, some) for some in batched(TEXTS[: number + 1], at_once)]
        )
        seconds = time.perf_counter() - start
        difference = max(difference, float((shared - torch.stack(loop)).abs().max()))
        changed = int(((shared > 0) != (torch.stack(loop) > 0)).sum())
        ratios[str(number + 1)] = round(seconds / spent, 3)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{size}  N {number + 1:2d}  loop {spent:7.2f} s  shared {seconds:7.2f} s  ratio "
            f"{seconds / spent:.3f}  peak {peak:.2f} GiB",
            flush=True,
        )
    scale = max(float(logits.abs().max()) for logits in loop)
    print(
        f"{size}  logits up to {scale:.1f} differ by {difference:.1e}, {changed} of "
        f"{shared.numel():,} mask pixels"
    )
    alone = model(clip, padding, TEXTS[number : number + 1], best_query, every_layer=False)
    same = torch.equal(shared[-1], alone.mask_logits[0]) if at_once == 1 else None
    return {"ratio": ratios, "logit": difference, "changed": changed, "same": same}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["t", "b"], choices=["t", "b"])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--most", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=1)
    settings = parser.parse_args()
    how = (settings.frames, settings.most, settings.at_once)
    found = {size: measure(size, *how) for size in settings.sizes}
    result: dict[str, Any] = {size: it["ratio"] for size, it in found.items()}
    result["max_abs_logit"] = max(it["logit"] for it in found.values())
    result["pixels_changed"] = {size: it["changed"] for size, it in found.items()}
    result["bit_equal_to_one_by_one"] = all(it["same"] for it in found.values())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
