"""The doors between packages and rooms, and the top level."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("preprocess", "shards", "sgmg")
ENTRIES = ("train.py", "evaluate.py")
# who may import whom; the entry points may import shards and sgmg
DOORS = {"preprocess": {"shards"}, "shards": set(), "sgmg": set(), "entry": {"shards", "sgmg"}}
# what each room of a package may import besides itself; modules beside the rooms are not limited
ROOMS: dict[str, dict[str, set[str]]] = {
    "preprocess": {
        "dataset": set(),
        "official_files": set(),
        "reencode": {"official_files"},
        "reader": {"dataset", "official_files"},
        "readers": {"dataset", "official_files", "reader", "reencode"},
        "synthetic": {"dataset", "readers", "reencode"},
    },
    "shards": {
        "errors": set(),
        "storage": {"errors"},
        "format": {"errors", "storage"},
        "build": {"errors", "storage", "format"},
        "stream": {"errors", "storage", "format"},
        "commands": {"errors", "storage", "format", "build", "stream"},
    },
    "sgmg": {
        "masks": set(),
        "network": set(),
        "published": {"network"},
        "inference": {"network", "masks"},
        "evaluation": {"network", "masks", "inference"},
        "training": {"network", "masks"},
    },
}


def product_files() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return files + [ROOT / name for name in ENTRIES]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first if first in PACKAGES else "entry"


def room_of(module: str) -> str:
    """Second part of a module's name; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def doors_crossed(path: Path, names: set[str]) -> set[str]:
    """Packages that a file imports and may not."""
    package = package_of(path)
    used = {name.split(".")[0] for name in names} & set(PACKAGES)
    return used - DOORS[package] - {package}


def walls_crossed(module: str, names: set[str]) -> set[str]:
    """Rooms that a module imports and may not."""
    package, room = module.split(".")[0], room_of(module)
    limits = ROOMS.get(package, {})
    if room not in limits:
        return set()
    used = {room_of(name) for name in names if name.startswith(f"{package}.")}
    return (used & limits.keys()) - limits[room] - {room}


@pytest.mark.parametrize("path", product_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_through_the_doors(path: Path) -> None:
    names = imported_modules(path)
    assert not doors_crossed(path, names)
    assert not walls_crossed(module_name(path), names)


def test_a_crossed_door_is_noticed() -> None:
    assert doors_crossed(ROOT / "sgmg" / "network" / "model.py", {"shards.stream.batch"})
    assert walls_crossed("sgmg.network.model", {"sgmg.training.losses"}) == {"training"}
    assert walls_crossed("sgmg.training.run", {"sgmg.inference"}) == {"inference"}
    assert walls_crossed("shards.format.manifest", {"shards.stream.order.Draws"}) == {"stream"}


def test_every_room_is_listed() -> None:
    for package, rooms in ROOMS.items():
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert folders <= rooms.keys(), f"{package} has rooms without a rule"


def test_imports_have_no_cycle() -> None:
    files = {module_name(path): path for path in product_files()}
    modules = {name: path for name, path in files.items() if path.name != "__init__.py"}
    graph = {name: imported_modules(path) & modules.keys() for name, path in modules.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert ready, f"cycle among {sorted(set(graph) - done)}"
        done |= ready


def test_top_level_is_the_house() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/")[0] for name in listed}
    visible = {name for name in top if not name.startswith(".")}
    files = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
    lists = {"pyproject.toml", "requirements.lock"}
    expected = {*PACKAGES, *ENTRIES, *files, *lists, "benchmarks", "docs", "tests"}
    assert visible <= expected, visible - expected
    banned = {"utils", "common", "helpers", "scripts", "configs"}
    assert not {Path(name).stem for name in listed} & banned
