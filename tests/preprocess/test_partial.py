"""A set that is not as published says so in its manifest, and only such a set."""

import dataclasses
import json
from pathlib import Path

import pytest

from preprocess.build_shards import DATASETS, Build, build, build_settings, open_set
from preprocess.dataset import PublishedCounts, Source
from preprocess.readers import (
    a2d_sentences,
    jhmdb_sentences,
    mevis,
    ref_davis17,
    ref_youtube_vos,
    refcoco,
)
from shards.__main__ import main as shards_main
from shards.format.shard_set import ShardSet
from tests.preprocess.trees import TREES, draw

PUBLISHED = {
    "ref-davis17": ref_davis17.PUBLISHED,
    "ref-youtube-vos": ref_youtube_vos.PUBLISHED,
    "refcoco": refcoco.PUBLISHED["refcoco"],
    "mevis": mevis.PUBLISHED,
    "a2d-sentences": a2d_sentences.PUBLISHED,
    "jhmdb-sentences": jhmdb_sentences.PUBLISHED,
}


def build_one(
    source: str, root: Path, out: Path, split: str, *, allow_partial: bool = False
) -> Path:
    """Build a split; return the folder of its set."""
    build(Build(source, root, str(out), (split,), allow_partial=allow_partial))
    return out / split


def publish_counts_of_tree(monkeypatch: pytest.MonkeyPatch, name: str, listed: Source) -> None:
    """Let the published numbers be those of a small tree."""
    counts = PublishedCounts(videos=len(listed.plans), expressions=listed.num_expressions)
    monkeypatch.setitem(PUBLISHED[name], listed.split, counts)
    for module, constants in (
        (a2d_sentences, ["VIDEO_ROWS", "EXPRESSION_ROWS", "MISSED_VIDEOS"]),
        (jhmdb_sentences, ["METADATA_ROWS"]),
    ):
        if module.DATASET.name == name:
            for constant, counted in zip(constants, listed.lists, strict=True):
                monkeypatch.setattr(module, f"PUBLISHED_{constant}", counted.number)


def test_every_reader_with_published_counts_is_tried() -> None:
    names = set()
    for dataset in DATASETS.values():
        if any(counts != PublishedCounts() for counts in dataset.splits.values()):
            names.add(dataset.name)
    assert names - {"refcoco+", "refcocog"} == PUBLISHED.keys() == TREES.keys()
    assert all(DATASETS[name].splits is counts for name, counts in PUBLISHED.items())


@pytest.mark.parametrize("name", TREES)
def test_a_partial_set_says_so_and_a_complete_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "root"
    split, _ = draw(name, root)
    settings = build_settings(Build(name, root, ""), split)
    listed = open_set(settings, root)
    assert listed.is_partial
    folder = build_one(name, root, tmp_path / "partial", split, allow_partial=True)
    assert ShardSet.open(str(folder)).manifest.settings == {**settings, "partial": True}
    assert shards_main(["verify", str(folder), "--full", "--root", str(root)]) == 0

    publish_counts_of_tree(monkeypatch, name, listed)
    complete = build_one(name, root, tmp_path / "complete", split)
    assert ShardSet.open(str(complete)).manifest.settings == settings
    # the entry decides no byte of tars and indexes, and is all that the manifests differ in
    for path in complete.iterdir():
        partial_bytes = (folder / path.name).read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(partial_bytes)
            del manifest["settings"]["partial"]
            assert manifest == json.loads(path.read_bytes())
        else:
            assert path.read_bytes() == partial_bytes


def test_a_set_of_earlier_builds_is_marked_when_it_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    split, _ = draw("mevis", root)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "is_partial", False)
        folder = build_one("mevis", root, tmp_path / "out", split, allow_partial=True)
    assert "partial" not in ShardSet.open(str(folder)).manifest.settings
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    build_one("mevis", root, tmp_path / "out", split, allow_partial=True)
    assert ShardSet.open(str(folder)).manifest.settings["partial"] is True
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")} == times


def test_leaks_that_are_filtered_out_make_no_set_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, _ = draw("refcoco", tmp_path)
    whole = Build("refcoco", tmp_path, "")
    publish_counts_of_tree(monkeypatch, "refcoco", open_set(build_settings(whole, split), tmp_path))
    filtered = dataclasses.replace(whole, filter_leaks=True)
    source = open_set(build_settings(filtered, split), tmp_path)
    assert source.left_out.videos == 2
    assert not source.is_partial
