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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network.outputs import VisualFeatures
from sgmg.network.tokenizer import train_tokenizer

HEIGHT_PX = 192
WIDTH_PX = 320
COUNTS = (1, 2, 4, 8, 16)  # numbers of expressions that are measured
EXPRESSIONS = [
    f"{size} {thing} on the {side}"
    for size in ("a small", "the large")
    for thing in ("dog", "cat", "red car", "person who is walking")
    for side in ("left", "right")
]
# RoBERTa-base; the vocabulary is of its size, though the tokens come from a small tokenizer.
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Figures:
    """What is measured of one network.

    Attributes:
        ratios: Time of the shared pass over that of the loop, by number of expressions.
        logit_difference: Largest difference of mask logits between the two.
        pixels_changed: Mask pixels that differ with the most expressions.
        bit_equal: Whether the last expression alone gives the bits of the shared pass; None where
            expressions share a step, which rounds differently.
    """

    ratios: dict[str, float]
    logit_difference: float
    pixels_changed: int
    bit_equal: bool | None


def build(size: str) -> SgMg:
    """A network of published size with random weights that answer differently to each query."""
    torch.manual_seed(0)
    config = SgMgConfig(backbone=f"video_swin_{size}", text_model=None, text_config=ROBERTA)
    model = SgMg(config, tokenizer=train_tokenizer(EXPRESSIONS)).eval()
    with torch.no_grad():
        for head in (*model.class_heads, *model.box_heads):
            for parameter in head.parameters():
                parameter.normal_(0, 0.05)
    return model


def segment_alone(model: SgMg, clip: Tensor, padding: Tensor, expression: str) -> Tensor:
    """Mask logits [T, H, W] by the published procedure."""
    output = model(clip, padding, [expression], every_query, every_layer=True)
    query = best_query(output.queries)[0]
    return output.mask_logits[0, :, query]


def segment_together(
    model: SgMg, clip: Tensor, padding: Tensor, expressions: Sequence[str], at_once: int
) -> Tensor:
    """Mask logits [E, T, H, W] from one visual pass."""
    visual = model.encode_video(clip, padding)
    mask_logits = [
        segment_step(model, visual, expressions[first : first + at_once])
        for first in range(0, len(expressions), at_once)
    ]
    return torch.cat(mask_logits)


def segment_step(model: SgMg, visual: VisualFeatures, expressions: Sequence[str]) -> Tensor:
    """Mask logits [E, T, H, W] of expressions that share a step."""
    clip_index = torch.zeros(len(expressions), dtype=torch.long)
    tokens = model.tokenize(expressions)
    output = model.segment(visual, tokens, best_query, clip_index, every_layer=False)
    return output.mask_logits


@torch.inference_mode()
def measure(size: str, num_frames: int, max_expressions: int, at_once: int) -> Figures:
    """Time the loop and the shared pass, and compare their masks."""
    model = build(size)
    clip = torch.randn(1, num_frames, 3, HEIGHT_PX, WIDTH_PX)
    padding = torch.zeros(1, HEIGHT_PX, WIDTH_PX, dtype=torch.bool)
    model(clip, padding, EXPRESSIONS[:1], best_query)  # what is built on first use
    loop_s = 0.0
    loop_logits: list[Tensor] = []
    ratios = {}
    difference = 0.0
    pixels_changed = 0
    counts = [count for count in COUNTS if count <= max_expressions]
    for expression in EXPRESSIONS[: counts[-1]]:
        start = time.perf_counter()
        loop_logits.append(segment_alone(model, clip, padding, expression))
        loop_s += time.perf_counter() - start
        count = len(loop_logits)
        if count not in counts:
            continue
        start = time.perf_counter()
        shared = segment_together(model, clip, padding, EXPRESSIONS[:count], at_once)
        shared_s = time.perf_counter() - start
        loop = torch.stack(loop_logits)
        difference = max(difference, float((shared - loop).abs().max()))
        pixels_changed = int(((shared > 0) != (loop > 0)).sum())
        ratio = shared_s / loop_s
        ratios[str(count)] = round(ratio, 3)
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux tells KiB
        print(
            f"{size}  N {count:2d}  loop {loop_s:7.2f} s  shared {shared_s:7.2f} s  ratio "
            f"{ratio:.3f}  peak {peak_gib:.2f} GiB",
            flush=True,
        )
    largest_logit = max(float(logits.abs().max()) for logits in loop_logits)
    print(
        f"{size}  logits up to {largest_logit:.1f} differ by {difference:.1e}, {pixels_changed} of "
        f"{shared.numel():,} mask pixels"
    )
    bit_equal = None
    if at_once == 1:
        alone = model(clip, padding, [expression], best_query, every_layer=False)
        bit_equal = torch.equal(shared[-1], alone.mask_logits[0])
    return Figures(ratios, difference, pixels_changed, bit_equal)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["t", "b"], choices=["t", "b"])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--most", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=1)
    settings = parser.parse_args()
    figures = {}
    for size in settings.sizes:
        figures[size] = measure(size, settings.frames, settings.most, settings.at_once)
    result: dict[str, object] = {size: row.ratios for size, row in figures.items()}
    result["max_abs_logit"] = max(row.logit_difference for row in figures.values())
    result["pixels_changed"] = {size: row.pixels_changed for size, row in figures.items()}
    result["bit_equal_to_one_by_one"] = all(row.bit_equal for row in figures.values())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
