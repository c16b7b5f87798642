"""Every command of the README: run here in its order, on less data, or one of CI's own targets."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from sgmg import Prediction

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEW = "--synthetic.train-videos 4 --synthetic.valid-videos 2 --synthetic.images 10"
FEW += " --synthetic.valid-images 2 --synthetic.num-frames 5 --synthetic.valid-frames 3"
SHORT = "--optim.steps 2 --optim.warmup 1 --data.batch-size 2"
LESS = {("preprocess/build_shards.py", "synthetic"): FEW, ("train.py", "synthetic"): SHORT}
LESS["train.py", "synthetic-pretrain"] = SHORT
PROGRAMS = ("make", "python", "accelerate")


def commands() -> list[str]:
    """Lines of shell blocks, then what tables put in backticks, as they stand in the text."""
    lines: list[str] = []
    for block, row in re.findall(r"```sh\n([^`]*)```|^\|([^\n]*)\|$", README, re.MULTILINE):
        if block:
            lines += block.replace("\\\n", " ").splitlines()
        else:
            quoted = re.findall(r"`([^`]+)`", row)
            lines += [text for text in quoted if text.split()[0] in PROGRAMS]
    return [" ".join(line.split()) for line in lines]


def call(command: str) -> object:
    """Run a Python command of the README as its own main program; what it exits with."""
    words = shlex.split(command)
    words = words[2:] if words[0] == "accelerate" else words[1:]
    words += shlex.split(LESS.get((words[0], words[1]), ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[words[0] == "-m" :])
        patch.syspath_prepend(str(ROOT))
        try:
            if words[0] == "-m":
                # a program imported before by another test would run a second time with a warning
                sys.modules.pop(f"{words[1]}.__main__", None)
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as exit_:
            return exit_.code
    return None


def test_make_targets_of_the_readme_are_those_of_ci() -> None:
    targets = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert targets
    assert set(targets) <= set(re.findall(r"^make (\w+)$", (ROOT / ".ci/run").read_text(), re.M))


def test_the_demo_block_is_what_make_demo_runs() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    recipe = makefile.split("\ndemo:")[-1].split("\n\n")[0]
    for macro in ("$(BIN)/", "$(LAUNCH) "):
        recipe = recipe.replace(macro, "")
    recipe_lines = [" ".join(line.split()) for line in recipe.splitlines()]
    block = README.split("```sh\n")[2].split("```")[0].replace("\\\n", " ")
    for line in block.strip().splitlines():
        assert " ".join(line.split()) in recipe_lines


def test_the_commands_work_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    programs = [command for command in commands() if not command.startswith("make ")]
    assert len(programs) >= 8
    for command in programs:
        assert not call(command), command
    assert "J&F" in capsys.readouterr().out
    assert (tmp_path / "demo/evaluation/sheet.png").exists()

    # The Python example works on what the commands have left, as it stands.
    example = README.split("```python\n")[1].split("```")[0]
    variables: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), variables)
    prediction = variables["prediction"]
    assert isinstance(prediction, Prediction)
    num_expressions, num_frames = prediction.scores.shape
    assert num_expressions == 2
    assert prediction.masks.shape[:2] == (num_expressions, num_frames)
    assert prediction.masks.dtype == torch.bool
