"""The golden tests follow a folder's cases.json: other seeds, sizes, paddings and backbones."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sgmg.network.deformable_transformer import DeformableTransformer
from tests.golden import test_backbones, test_fusion, test_modules, test_spectral
from tests.golden.fixtures import MEASURED, Cases, read_fixture, seed_module

CASES: Cases = {
    "modules": {
        "mod_spectral": {"seed": 77, "sizes": [[9, 14], [5, 7], [3, 4]]},
        "mod_fusion": {
            "seeds": {"visual": 81, "text": 82, "text_pos": 83},
            **{"t": 1, "h": 4, "w": 3, "b": 3, "L": 5, "masked_tail_of_item_1": 2},
        },
        "mod_mso": {
            "seeds": {"x": 84, "quarter": 85, "eighth": 86},
            "eighth": [5, 8],
            "quarter": [9, 16],
            "channels": {"quarter": 128, "eighth": 256},
        },
        "mod_transformer": {
            "levels": [[6, 8], [3, 4], [3, 3]],
            "valid_item_1": [[4, 5], [2, 3], [1, 2]],
            "seeds": {"enc_ref": 87, "enc_src": 88, "enc_pos": 89},
        },
    },
    "backbones": {
        "swin_t_p4w7": {"x": {"seed": 91, "b": 2, "t": 1, "h": 45, "w": 66, "valid": None}},
        "resnet50": {
            "y": {"seed": 92, "b": 2, "t": 1, "h": 50, "w": 64, "valid": [[50, 64], [33, 40]]}
        },
    },
}


class Blank:
    """An array yet to be recorded."""

    def __init__(self, sheet: dict[str, Any], key: str) -> None:
        self.sheet = sheet
        self.key = key

    def fill(self, array: Tensor) -> float:
        self.sheet[self.key] = array.detach().numpy()
        return 0.0


class Sheet(dict[str, Any]):
    """What one npz will hold."""

    def __missing__(self, key: str) -> Blank:
        return Blank(self, key)


class Masks:
    """Padding of every stage, by nearest pixel, as the container keeps it."""

    def __init__(self, case: dict, side: int) -> None:
        mask = np.ones((case["b"], case["h"], case["w"]), bool)
        for i, (height, width) in enumerate(case["valid"]):
            mask[i, :height, :width] = False
        rows, columns = (-(-case[name] // side) for name in "hw")
        y = np.arange(rows) * case["h"] // rows
        x = np.arange(columns) * case["w"] // columns
        self.array = mask[:, y][:, :, x].repeat(case["t"], 0)


def run_all(golden) -> None:
    """The tests that a folder with these cases has."""
    test_spectral.test_chain_over_levels(CASES["modules"]["mod_spectral"], golden)
    test_fusion.test_cross_attention(CASES, golden)
    test_modules.test_mask_optimizer(CASES, golden)
    transformer = DeformableTransformer(
        256, heads=8, levels=3, points=4, feedforward=64, encoder_layers=2, decoder_layers=1,
        dropout=0.0,
    )  # fmt: skip
    seed_module(transformer, "transformer.")
    test_modules.test_encoder_layer(CASES, golden, transformer)
    for name, tags in CASES["backbones"].items():
        for tag in tags:
            test_backbones.test_features((name, tag), CASES, golden)
    test_backbones.seeded.cache_clear()


MODULES: tuple[ModuleType, ...] = (test_spectral, test_fusion, test_modules, test_backbones)


def write(folder, sheets: dict[str, Sheet]) -> None:
    """Write arrays as the container has them: large ones as every 7th value, and statistics."""
    for name, sheet in sheets.items():
        stored: dict[str, np.ndarray] = {}
        for key, array in sheet.items():
            if isinstance(array, Masks):
                stored[key] = array.array
                continue
            large = array.size > 6000
            stored[f"{key}@7" if large else key] = array.reshape(-1)[::7] if large else array
            stored[f"{key}@shape#"] = np.array(array.shape)
            whole = array.astype(np.float64)
            stored[f"{key}@stat#"] = np.array([whole.mean(), whole.std(), np.abs(whole).max()])
        # numpy's stub takes the spread for its own `allow_pickle`
        np.savez(folder / f"{name}.npz", **stored)  # type: ignore[arg-type]


@pytest.fixture
def _table_kept():
    """What is held here is no deviation from the published network."""
    before = dict(MEASURED)
    yield
    MEASURED.clear()
    MEASURED.update(before)


@pytest.mark.usefixtures("_table_kept")
def test_another_folder_runs_and_its_numbers_count(tmp_path, monkeypatch):
    sheets: dict[str, Sheet] = {}
    case = CASES["backbones"]["resnet50"]["y"]
    sheets["backbone_resnet50"] = Sheet(
        {f"y/mask{i}": Masks(case, side) for i, side in enumerate((4, 8, 16, 32))}
    )
    with monkeypatch.context() as recording:
        for module in MODULES:
            recording.setattr(module, "compare", lambda blank, array: blank.fill(array))
        run_all(lambda name: sheets.setdefault(name, Sheet()))
    write(tmp_path, sheets)
    assert sum(map(len, sheets.values())) > 20
    run_all(lambda name: read_fixture(tmp_path / f"{name}.npz"))

    sheets["mod_fusion"]["out"] = sheets["mod_fusion"]["out"] + np.float32(1e-3)
    write(tmp_path, sheets)
    with pytest.raises(AssertionError, match="cross-attention"):
        test_fusion.test_cross_attention(CASES, lambda n: read_fixture(tmp_path / f"{n}.npz"))
