"""What the documents name exists, and what they promise to list is listed."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from tests.test_house import ROOMS

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(
    r"\| `([\w/]+\.py)` \| `([\w.]+)` \| `(tests/[\w/]+\.py)::(\w+)` \|$", re.MULTILINE
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED_FILE = re.compile(r"`((?:preprocess|shards|sgmg|tests|benchmarks|docs)/[\w/.]+\.\w+)[`: ]")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SWITCH = re.compile(r"\bSGMG_[A-Z_]+")
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])


@functools.cache
def definitions(path: str) -> set[str]:
    """Names a file defines: functions, classes, and `Class.method`."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            names |= {f"{node.name}.{name}" for name in methods}
    return names


def test_paper_names_functions_and_tests_that_exist() -> None:
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == text.count("| `sgmg/"), "a row is not of the form file, function, test"
    assert len(rows) > 20
    for file, function, test_file, test in rows:
        assert function in definitions(file), f"{file} has no {function}"
        assert test in definitions(test_file), f"{test_file} has no {test}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_architecture_lists_every_module_and_no_other() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE))
    packages = ("preprocess", "shards", "sgmg")
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    modules |= {"train.py", "evaluate.py"}
    assert not modules - listed, "add these modules to docs/architecture.md"
    assert not listed - modules, "docs/architecture.md lists modules that do not exist"


def test_architecture_gives_each_room_the_doors_that_are_tested() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    listed = {(package, room): set(re.findall(r"`(\w+)`", doors)) for package, room, doors in rows}
    for package, rooms in ROOMS.items():
        for room, doors in rooms.items():
            assert listed.get((package, room)) == doors, f"{package}/{room}"


def test_every_switch_of_the_tests_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(SGMG_\w+)` \|", text, re.MULTILINE))
    programs = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    used = {
        switch for path in programs for switch in SWITCH.findall(path.read_text(encoding="utf-8"))
    }
    assert used - {"SGMG_"} == explained


def test_citation_names_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation


@pytest.mark.parametrize("page", ["architecture.md", "extending.md"])
def test_names_in_the_guides_are_those_of_the_code(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    # The tables of names and the rules of taste quote names that must not exist.
    text = text.split("## Names")[0]
    quoted = set(re.findall(r"`([A-Za-z_]\w+)(?:\.\w+)*`", text))
    constants_and_classes = {name for name in quoted if re.match(r"_?[A-Z]", name)}
    assert len(constants_and_classes) > 8
    programs = [*ROOT.glob("[!.]*/**/*.py"), *ROOT.glob("*.py")]
    words = {
        word for path in programs for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    }
    assert not constants_and_classes - words
