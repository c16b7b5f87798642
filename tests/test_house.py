"""The doors, the sizes and the number of settings: limits that a redesign may meet, never raise."""

import ast
import dataclasses
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("preprocess", "shards", "sgmg")
ENTRIES = ("train.py", "evaluate.py")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CODE_LINES = 8_000  # of the product: docstrings, comments and blank lines do not count
MAX_SETTINGS = 45
# who may import whom; the entry points may import shards and sgmg
DOORS = {"preprocess": {"shards"}, "shards": set(), "sgmg": set(), "entry": {"shards", "sgmg"}}


def product_files() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return files + [ROOT / name for name in ENTRIES]


def python_files() -> list[Path]:
    folders = (*PACKAGES, "tests", "benchmarks")
    return product_files() + [p for f in folders[3:] for p in sorted((ROOT / f).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first if first in PACKAGES else "entry"


@pytest.mark.parametrize("path", product_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_through_the_doors(path: Path) -> None:
    allowed = DOORS[room(path)] | {room(path)}
    used = {name.split(".")[0] for name in imported_modules(path)} & set(PACKAGES)
    assert used <= allowed, f"{path.name} imports {used - allowed}"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_have_no_cycle(package: str) -> None:
    files = {f"{package}.{p.stem}": p for p in (ROOT / package).glob("*.py") if p.stem[0] != "_"}
    graph = {name: imported_modules(path) & set(files) for name, path in files.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert ready, f"cycle among {sorted(set(graph) - done)}"
        done |= ready


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path.name}:{node.name} has {lines} lines"


def code_lines(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and ast.get_docstring(node) is not None:
                documented |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return sum(bool(line) and line[0] != "#" and n not in documented for n, line in lines)


def test_product_stays_small() -> None:
    assert sum(map(code_lines, product_files())) <= MAX_CODE_LINES


def test_top_level_is_the_house() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/")[0] for name in listed}
    visible = {name for name in top if not name.startswith(".")}
    files = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"}
    expected = {*PACKAGES, *ENTRIES, *files, "requirements.lock", "benchmarks", "docs", "tests"}
    assert visible <= expected, visible - expected
    banned = {"utils", "common", "helpers", "scripts", "configs"}
    assert not {Path(name).stem for name in listed} & banned


def count_fields(kind: type) -> int:
    """Settings of a dataclass and of those in it; what the command line does not show is none."""
    found = 0
    for hint in typing.get_type_hints(kind, include_extras=True).values():
        if tyro.conf.Suppress not in getattr(hint, "__metadata__", ()):
            found += count_fields(hint) if dataclasses.is_dataclass(hint) else 1
    return found


def test_number_of_settings() -> None:
    sys.path.insert(0, str(ROOT))
    import evaluate
    import train

    assert 30 < count_fields(train.Recipe) + count_fields(evaluate.Settings) <= MAX_SETTINGS
