"""Reference numbers of the published implementation: seeded weights, seeded inputs, stored arrays.

No weights are stored. Every floating tensor is a function of its published `state_dict` name, so a
module is seeded by `seed_module(module, published)` where `published` maps our names to those (or
is the published prefix, if they agree).

In tests, ask for the fixtures of `conftest.py`: `golden_dir`, `cases` (the folder's cases.json),
`golden` (reads one npz by name), `table` (one json), and the parametrised `backbone_case`,
`text_case`, `model_case`, `training_case`. Seeds, sizes and backbones come from `cases` only:
`pytest tests/golden --golden DIR` runs on any folder of this form.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Cases = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)

# Published names of one and the same tensor (box refinement shares the box heads).
_SAME_TENSOR = ("transformer.decoder.bbox_embed.", "bbox_embed.")
_FACTORS = {
    "query_embed.weight": 16.0,
    "controller.layers.2.weight": 0.25,
    "controller.layers.2.bias": 0.25,
}


def golden_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """Float32 values of the published `state_dict` entry `name`."""
    name = name.replace(*_SAME_TENSOR)
    x: np.ndarray = _generator(zlib.crc32(name.encode())).standard_normal(
        tuple(shape), dtype=np.float32
    )
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        x = 1 + 0.1 * np.abs(x)
    elif kind == "running_mean" or kind.endswith("bias"):
        x = 0.05 * x
    elif kind.endswith("weight") and len(shape) >= 2:
        x = x * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    elif kind == "weight":
        x = 1 + 0.1 * x
    else:
        x = 0.1 * x
    for ending, factor in _FACTORS.items():
        if name.endswith(ending):
            x = x * np.float32(factor)
    return x.astype(np.float32)


def seed_module(module: Module, published: str | Callable[[str], str] = "") -> Module:
    """Give every floating tensor of `module` its golden value; returns `module` in eval mode.

    Args:
        module: Changed in place.
        published: Our `state_dict` name -> published full name, or the prefix of our name.
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                full = published + name if isinstance(published, str) else published(name)
                tensor.copy_(torch.from_numpy(golden_array(full, tensor.shape)))
    return module.eval()


def randn(seed: int, *shape: int) -> Tensor:
    """Standard normal float32 input."""
    return torch.from_numpy(_generator(seed).standard_normal(shape, dtype=np.float32))


def rand(seed: int, *shape: int) -> Tensor:
    """Uniform [0, 1) float32 input."""
    return torch.from_numpy(_generator(seed).random(shape, dtype=np.float32))


def blob(seed: int, height: int, width: int, ellipses: int = 3) -> Tensor:
    """Bool mask [H, W]: union of seeded ellipses."""
    generator = _generator(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    mask = np.zeros((height, width), bool)
    for _ in range(ellipses):
        cy, cx, ry, rx = generator.random(4)
        dy = (y - cy * height) / ((0.08 + 0.22 * ry) * height)
        dx = (x - cx * width) / ((0.08 + 0.22 * rx) * width)
        mask |= dy**2 + dx**2 <= 1.0
    return torch.from_numpy(mask)


@dataclass(frozen=True)
class Entry:
    """One stored array: every `stride`-th element of its flattened form."""

    values: np.ndarray
    stride: int
    shape: tuple[int, ...]
    stats: tuple[float, float, float] | None  # mean, deviation, abs-max of the whole

    @property
    def array(self) -> np.ndarray:
        """The complete array, in its shape."""
        assert self.stride == 1, "only a sample of this array is stored"
        return self.values.reshape(self.shape)


def read_fixture(path: Path) -> dict[str, Entry]:
    """Entries of one npz by name."""
    entries = {}
    with np.load(path) as stored:
        for key in stored.files:
            if key.endswith("#"):
                continue
            name, _, stride = key.partition("@")
            shape = stored[f"{name}@shape#"] if stride else stored[key].shape
            stats = tuple(stored[f"{name}@stat#"].tolist()) if f"{name}@stat#" in stored else None
            entries[name] = Entry(stored[key], int(stride or 1), tuple(map(int, shape)), stats)
    return entries


def compare(entry: Entry, array: Tensor | np.ndarray) -> float:
    """Largest deviation of `array` and its statistics, relative to max(1, abs-max)."""
    actual = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    assert actual.shape == entry.shape, f"shape {actual.shape}, reference has {entry.shape}"
    actual = actual.astype(np.float64).reshape(-1)
    expected = entry.values.astype(np.float64).reshape(-1)
    deviations = list(np.abs(actual[:: entry.stride] - expected))
    if entry.stats is not None:
        whole = (actual.mean(), actual.std(), np.abs(actual).max(initial=0.0))
        deviations += [abs(a - b) for a, b in zip(whole, entry.stats, strict=True)]
    # a NaN must not pass for a small number
    worst = float(np.max(deviations, initial=0.0))
    return (
        math.inf
        if math.isnan(worst)
        else worst / max(1.0, float(np.abs(expected).max(initial=0.0)))
    )


MEASURED: dict[tuple[str, float], float] = {}  # (group, bound): largest deviation so far


def note(group: str, bound: float, deviation: float) -> None:
    """Keep the largest deviation of a group for the table of `--deviations`."""
    MEASURED[group, bound] = max(MEASURED.get((group, bound), 0.0), deviation)


def hold(group: str, bound: float, deviation: float, detail: str = "") -> None:
    """Note a deviation, and hold it to its bound (0 = equal)."""
    deviation = math.inf if math.isnan(deviation) else float(deviation)
    note(group, bound, deviation)
    assert deviation <= bound, f"{group} {detail}: {deviation:.3g} is more than {bound:g}"


def table_of_deviations() -> str:
    """Markdown table of everything `hold` has seen."""
    rows = [f"| {g} | {d:.1e} | {b:g} |" for (g, b), d in sorted(MEASURED.items()) if b]
    rows += [f"| {g} | {d:g} | equal |" for (g, b), d in sorted(MEASURED.items()) if not b]
    return "\n".join(["| group | largest deviation | bound |", "|---|---|---|", *rows])


def pad_clips(clips: Sequence[Tensor], multiple: int) -> tuple[Tensor, Tensor]:
    """Zero-pad clips at the bottom and right to one size, a multiple of `multiple`.

    Args:
        clips: Each [T, 3, h, w], one T.
        multiple: Pixels.

    Returns:
        Frames [B, T, 3, H, W] and padding [B, H, W], True = pad.
    """
    largest = (max(clip.shape[axis] for clip in clips) for axis in (-2, -1))
    height, width = (math.ceil(side / multiple) * multiple for side in largest)
    frames = torch.zeros(len(clips), *clips[0].shape[:2], height, width)
    padding = torch.ones(len(clips), height, width, dtype=torch.bool)
    for i, clip in enumerate(clips):
        frames[i, ..., : clip.shape[-2], : clip.shape[-1]] = clip
        padding[i, : clip.shape[-2], : clip.shape[-1]] = False
    return frames, padding


def case_clips(case: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Frames and padding of a case with `clips` and `pad_to` (whole model, training)."""
    clips = [randn(c["seed"], c["t"], 3, c["h"], c["w"]) for c in case["clips"]]
    return pad_clips(clips, case["pad_to"])


def pad_ids(expressions: Sequence[Sequence[int]], pad: int = 1) -> tuple[Tensor, Tensor]:
    """Token ids [E, L] padded with `pad` and attention [E, L], True on tokens."""
    length = max(map(len, expressions))
    ids = torch.tensor([[*e, *[pad] * (length - len(e))] for e in expressions])
    return ids, ids != pad


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))
