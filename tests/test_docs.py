"""What the documents name exists."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(
    r"\| `([\w/]+\.py)` \| `([\w.]+)` \| `(tests/[\w/]+\.py)::(\w+)` \|$", re.MULTILINE
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED_FILE = re.compile(r"`((?:preprocess|shards|sgmg|tests|benchmarks|docs)/[\w/.]+\.\w+)[`: ]")


@functools.cache
def definitions(path: str) -> set[str]:
    """Names a file defines: functions, classes, and `Class.method`."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            names |= {f"{node.name}.{name}" for name in inner}
    return names


def test_paper_names_functions_and_tests_that_exist() -> None:
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == text.count("| `sgmg/"), "a row is not of the form file, function, test"
    assert len(rows) > 20
    for file, function, test_file, test in rows:
        assert function in definitions(file), f"{file} has no {function}"
        assert test in definitions(test_file), f"{test_file} has no {test}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_documents_name_files_and_tests_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for file in NAMED_FILE.findall(text):
        assert (ROOT / file).is_file(), f"{path.name} names {file}"
    for file, test in NAMED_TEST.findall(text):
        assert test in definitions(file), f"{path.name} names {file}::{test}"


def test_every_difference_names_its_test() -> None:
    text = (ROOT / "docs/differences.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    heads = [line for line in rows if line.startswith(("| trap ", "| what "))]
    assert len(heads) >= 2
    for row in rows:
        if row not in heads:
            assert NAMED_TEST.search(row) or "not tested:" in row, row
