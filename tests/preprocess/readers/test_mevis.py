"""MeViS: expressions about several objects, and splits without masks."""

from pathlib import Path
from typing import Any

from preprocess.readers.mevis import open_mevis
from tests.preprocess.conftest import masks_of
from tests.preprocess.trees import change_json, draw


def test_mevis_without_masks_and_with_several_objects(tmp_path: Path) -> None:
    _, truth = draw("mevis", tmp_path / "mevis")
    source = open_mevis(tmp_path, "valid_u")
    assert source.read("cd34").expressions[0].objects == ("12", "3", "5")
    (tmp_path / "mevis/valid_u").rename(tmp_path / "mevis/valid")
    (tmp_path / "mevis/valid/mask_dict.json").unlink()

    def hide(content: Any) -> None:
        for video in content["videos"].values():
            for expression in video["expressions"].values():
                del expression["obj_id"], expression["anno_id"]

    change_json(tmp_path / "mevis/valid/meta_expressions.json", hide)
    source = open_mevis(tmp_path, "valid")
    assert "no masks" in source.notes[0]
    assert masks_of(source, "ab12") == [None] * len(truth["ab12"].images)
    assert source.read("ab12").expressions[0].objects == ()
