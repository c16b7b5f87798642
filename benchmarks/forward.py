"""How long the network takes for a clip and one expression on a CPU, and where the time goes.

python benchmarks/forward.py [--backbone video_swin_t] [--height 192] [--width 320] [--rounds 3]

Ours against a straightforward port of the same network, in one run, turn by turn: torchvision's
window attention, one `grid_sample` a level, the spectral filter's convolution in full, all frames
encoded at once, masks of every layer and query. Prints a table, and one JSON object last.
"""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import tyro
from einops import rearrange
from torch import Tensor
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network import deformable_attention as attention
from sgmg.network import deformable_transformer as transformer
from sgmg.network.backbones.video_swin import WindowAttention
from sgmg.network.spectral_filter import SpectralFilter
from sgmg.network.tokenizer import Tokens

ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}


def full_convolution(self: SpectralFilter, x: Tensor) -> Tensor:
    """The damping as it is written in the paper."""
    return rearrange(self.fc(self.laplace(x).mean((2, 3))).sigmoid(), "n 1 -> n 1 1 1")


@contextlib.contextmanager
def straightforward() -> Iterator[None]:
    """Undo what makes ours fast."""
    with (
        patch.object(WindowAttention, "forward", ShiftedWindowAttention3d.forward),
        patch.object(attention, "sample_by_bag", attention.sample_by_grid),
        patch.object(SpectralFilter, "damping", full_convolution),
        patch.dict(transformer.TOKENS_AT_ONCE, cpu=10**9),
    ):
        yield


def parts_of(model: SgMg) -> dict[str, list[tuple[Any, str]]]:
    """Functions whose time counts for each part, by owner and name."""
    filters = [*model.filters_before, *model.filters_after, model.fusion]
    heads = [(model, "mask_features"), (model, "layer_output"), (model.mask_optimizer, "prepare")]
    return {
        "backbone": [(model.backbone, "forward")],
        "text": [(model.text_encoder, "forward")],
        "projections and fusion": [(m, "forward") for m in (*model.projections, *filters)],
        "encoder": [(model.transformer, "encode")],
        "decoder": [(model.transformer, "decode")],
        "heads and masks": heads,
    }


def watch(model: SgMg) -> dict[str, float]:
    """Seconds spent in each part since the dictionary was cleared."""
    spent: dict[str, float] = defaultdict(float)

    def timed(function: Callable, part: str) -> Callable:
        def run(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **settings)
            spent[part] += time.perf_counter() - start
            return result

        return run

    for part, functions in parts_of(model).items():
        for owner, name in functions:
            setattr(owner, name, timed(getattr(owner, name), part))
    return spent


@torch.inference_mode()
def main(
    backbone: str = "video_swin_t",
    frames: int = 5,
    height: int = 192,
    width: int = 320,
    threads: int = 2,
    rounds: int = 3,
) -> None:
    """Time both, the fastest round of each.

    Args:
        backbone: Of the network.
        frames: Of the clip.
        height: Pixels.
        width: Pixels.
        threads: Of PyTorch.
        rounds: Runs of each way after one to warm up.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SgMg(SgMgConfig(backbone=backbone, text_config=ROBERTA)).eval()
    spent = watch(model)
    clip = torch.randn(1, frames, 3, height, width)
    padding = torch.zeros(1, height, width, dtype=torch.bool)
    ids = torch.tensor([[0, 10, 205, 3124, 77, 2]])
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def ours() -> Tensor:
        return model(clip, padding, tokens, best_query).mask_logits

    def port() -> Tensor:
        with straightforward():
            output = model(clip, padding, tokens, every_query, every_layer=True)
        best = best_query(output.queries)
        return output.mask_logits[torch.arange(1), :, best]

    best: dict[str, dict[str, float]] = {}
    difference = float((ours() - port()).abs().max())
    for _ in range(rounds):
        for name, way in (("ours", ours), ("port", port)):
            spent.clear()
            start = time.perf_counter()
            way()
            total = time.perf_counter() - start
            row = {**spent, "other": total - sum(spent.values()), "total": total}
            best[name] = min(best.get(name, row), row, key=lambda r: r["total"])
    report(best, backbone=backbone, clip=[frames, height, width], threads=threads, apart=difference)


def report(
    best: dict[str, dict[str, float]], *, backbone: str, clip: list[int], threads: int, apart: float
) -> None:
    """Print the table and the figures."""
    print("| part | ours, s | straightforward, s |\n|---|---|---|")
    for part in best["ours"]:
        print(f"| {part} | {best['ours'][part]:.2f} | {best['port'][part]:.2f} |")
    print(
        json.dumps(
            {
                "benchmark": "forward",
                "backbone": backbone,
                "clip": clip,
                "threads": threads,
                "ours_s": round(best["ours"]["total"], 3),
                "straightforward_s": round(best["port"]["total"], 3),
                "faster": round(best["port"]["total"] / best["ours"]["total"], 2),
                "largest_difference_in_logits": apart,
                "parts_s": {k: round(v, 3) for k, v in best["ours"].items()},
            }
        )
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
