"""The contact sheet."""

from pathlib import Path

from PIL import Image

from shards.__main__ import main
from shards.commands.contact_sheet import OBJECT_COLOURS


def test_preview_draws_masks_in_colour(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", str(built), "--out", str(out), "--videos", "3", "--frames", "4"]) == 0
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 240
        colours = {pixel for _, pixel in sheet.getcolors(maxcolors=2**24) or []}
    assert set(OBJECT_COLOURS[:2]) <= colours
