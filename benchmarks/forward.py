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
from collections.abc import Callable, Iterator, Mapping
from unittest.mock import patch

import torch
import tyro
from einops import rearrange
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from sgmg import SgMg, SgMgConfig, best_query, every_query
from sgmg.network import deformable_attention, deformable_transformer
from sgmg.network.backbones.video_swin import WindowAttention
from sgmg.network.spectral_filter import SpectralFilter
from sgmg.network.tokenizer import Tokens

ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
TOKEN_IDS = [0, 10, 205, 3124, 77, 2]  # RoBERTa's start, four words, end
UNLIMITED_TOKENS = 10**9

Seconds = dict[str, float]  # by part of the network


def full_convolution(self: SpectralFilter, x: Tensor) -> Tensor:
    """The damping as it is written in the paper."""
    edges = self.laplace(x).mean((2, 3))
    return rearrange(self.fc(edges).sigmoid(), "n 1 -> n 1 1 1")


# What makes ours fast, by owner and name, and the plain way that stands in for it.
PLAIN_WAYS = (
    (WindowAttention, "forward", ShiftedWindowAttention3d.forward),
    (deformable_attention, "sample_by_bag", deformable_attention.sample_by_grid),
    (SpectralFilter, "damping", full_convolution),
)


@contextlib.contextmanager
def straightforward() -> Iterator[set[str]]:
    """Undo what makes ours fast.

    Yields:
        Names of the fast ways in whose place the network has called a plain one.
    """
    called: set[str] = set()

    def noting(name: str, plain_way: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*arguments: object) -> Tensor:
            called.add(name)
            return plain_way(*arguments)

        return run

    with contextlib.ExitStack() as stack:
        for owner, name, plain_way in PLAIN_WAYS:
            noting_way = noting(f"{owner.__name__}.{name}", plain_way)
            stack.enter_context(patch.object(owner, name, noting_way))
        tokens_at_once = patch.dict(deformable_transformer.TOKENS_AT_ONCE, cpu=UNLIMITED_TOKENS)
        stack.enter_context(tokens_at_once)
        yield called


def parts_of(model: SgMg) -> dict[str, list[tuple[nn.Module, str]]]:
    """Functions whose time counts for each part, by owner and name."""
    filters = [*model.filters_before, *model.filters_after]
    fusion = [*model.projections, *filters, model.fusion]
    return {
        "backbone": [(model.backbone, "forward")],
        "text": [(model.text_encoder, "forward")],
        "projections and fusion": [(module, "forward") for module in fusion],
        "encoder": [(model.transformer, "encode")],
        "decoder": [(model.transformer, "decode")],
        "heads and masks": [
            (model, "mask_features"),
            (model, "layer_output"),
            (model.mask_optimizer, "prepare"),
        ],
    }


def watch(model: SgMg) -> Seconds:
    """Seconds spent in each part since the dictionary was cleared."""
    spent_s: Seconds = defaultdict(float)

    def timed(function: Callable[..., object], part: str) -> Callable[..., object]:
        def run(*arguments: object, **settings: object) -> object:
            start = time.perf_counter()
            result = function(*arguments, **settings)
            spent_s[part] += time.perf_counter() - start
            return result

        return run

    for part, functions in parts_of(model).items():
        for owner, name in functions:
            setattr(owner, name, timed(getattr(owner, name), part))
    return spent_s


def time_parts(run: Callable[[], object], spent_s: Seconds) -> Seconds:
    """Seconds of one run by part, with what is in no part and the total."""
    spent_s.clear()
    start = time.perf_counter()
    run()
    total = time.perf_counter() - start
    remaining_s = total - sum(spent_s.values())
    return {**spent_s, "other": remaining_s, "total": total}


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
        backbone: of the network.
        frames: of the clip.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        threads: of PyTorch.
        rounds: runs of each way after one to warm up.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SgMg(SgMgConfig(backbone=backbone, text_config=ROBERTA)).eval()
    spent_s = watch(model)
    clip = torch.randn(1, frames, 3, height, width)
    padding = torch.zeros(1, height, width, dtype=torch.bool)
    token_ids = torch.tensor([TOKEN_IDS])
    tokens = Tokens(token_ids, torch.ones_like(token_ids, dtype=torch.bool))

    def run_ours() -> Tensor:
        return model(clip, padding, tokens, best_query).mask_logits

    def run_port() -> Tensor:
        with straightforward() as called:
            output = model(clip, padding, tokens, every_query, every_layer=True)
        missing = {f"{owner.__name__}.{name}" for owner, name, _ in PLAIN_WAYS} - called
        # What the network never calls cannot make it fast. Other backbones have other attention.
        if backbone.startswith("video_swin") and missing:
            raise RuntimeError(f"{backbone} never calls {sorted(missing)}: nothing is compared")
        query = best_query(output.queries)
        return output.mask_logits[torch.arange(1), :, query]

    difference = float((run_ours() - run_port()).abs().max())
    ours = []
    port = []
    for _ in range(rounds):
        ours.append(time_parts(run_ours, spent_s))
        port.append(time_parts(run_port, spent_s))
    best_ours = min(ours, key=total_of)
    best_port = min(port, key=total_of)
    print_table(best_ours, best_port)
    figures = {
        "benchmark": "forward",
        "backbone": backbone,
        "clip": [frames, height, width],
        "threads": threads,
        "ours_s": round(best_ours["total"], 3),
        "straightforward_s": round(best_port["total"], 3),
        "faster": round(best_port["total"] / best_ours["total"], 2),
        "largest_difference_in_logits": difference,
        "parts_s": {part: round(seconds, 3) for part, seconds in best_ours.items()},
    }
    print(json.dumps(figures))


def total_of(seconds: Mapping[str, float]) -> float:
    """Seconds of a whole run."""
    return seconds["total"]


def print_table(ours: Seconds, port: Seconds) -> None:
    """Print a row a part."""
    print("| part | ours, s | straightforward, s |\n|---|---|---|")
    for part in ours:
        print(f"| {part} | {ours[part]:.2f} | {port[part]:.2f} |")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
