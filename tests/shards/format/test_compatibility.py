"""The shards are read by the tools strangers use."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import webdataset

from shards.build.plan import Plan
from shards.build.writer import build_set
from shards.format.schema import Video, decode_sample
from shards.format.shard_set import ShardSet, register_scheme
from tests.shards.sample_videos import build_toy, make_video, toy_keys, toy_video


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_toy(out)
    return out


def tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


@pytest.mark.skipif(shutil.which("tar") is None, reason="tar is not installed")
def test_gnu_tar_lists_and_extracts(built: Path, tmp_path: Path) -> None:
    for tar in tars(built):
        extract = ["tar", "--extract", "--verbose", "--file", tar, "--directory", str(tmp_path)]
        extracted = subprocess.run(extract, capture_output=True, text=True, check=True)
        assert extracted.stderr == ""
        listed = subprocess.run(["tar", "-tf", tar], capture_output=True, text=True, check=True)
        assert listed.stdout == extracted.stdout
    for key in toy_keys():
        video = toy_video(key)
        assert json.loads((tmp_path / f"{key}.json").read_text())["video_id"] == video.video_id
        for position, frame in enumerate(video.frames):
            image = tmp_path / f"{key}.{position:06d}.{frame.extension}"
            assert image.read_bytes() == frame.image
            masks = tmp_path / f"{key}.{position:06d}.rle.json"
            assert masks.exists() == (frame.masks is not None)


def test_a_strangers_webdataset_pipeline_gives_whole_videos(built: Path) -> None:
    pipeline = webdataset.WebDataset(tars(built), shardshuffle=False).map(decode_sample)
    videos = {video.key: video for video in pipeline}
    assert videos == {key: toy_video(key) for key in toy_keys()}


def test_webdataset_reads_our_addresses(built: Path) -> None:
    register_scheme()
    urls = [f"shards:{tar}" for tar in tars(built)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert sorted(sample["__key__"] for sample in samples) == toy_keys()


def test_the_documented_pipeline_gives_whole_videos(built: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "shard_format.md").read_text()
    (code,) = re.findall(r"```python\n(import webdataset\n.*?)```", text, re.DOTALL)
    assert "s3://bucket/set" in code
    code = code.replace("s3://bucket/set", str(built)) + "    decoded.append(video)\n"
    decoded: list[Video] = []
    exec(code, {"decoded": decoded})
    assert {video.key: video for video in decoded} == {key: toy_video(key) for key in toy_keys()}


def test_webdataset_decodes_images_and_json(built: Path) -> None:
    for sample in webdataset.WebDataset(tars(built), shardshuffle=False).decode("pil"):
        assert sample["json"]["width"] == 52
        assert sample["000000.jpg" if "000000.jpg" in sample else "000000.png"].size == (52, 36)
        assert sample["000000.rle.json"][-1]["id"] == "1"


def test_dalis_index_tool_agrees_with_ours(built: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("wds2idx") is None:
        pytest.skip("DALI's wds2idx is not installed")
    rows = list(ShardSet.open(str(built)).videos)
    for number, tar in enumerate(tars(built)):
        out = tmp_path / "shard.idx"
        subprocess.run(
            [sys.executable, "-m", "wds2idx", tar, str(out)], check=True, capture_output=True
        )
        head, *samples = out.read_text().splitlines()
        ours = [row for row in rows if row.shard == number]
        assert head.split()[1] == str(len(ours))
        for sample, row in zip(samples, ours, strict=True):
            cells = iter(sample.split())
            # four cells a member: its suffix, offset, size and name
            members = {
                name: (int(offset), int(size))
                for _, offset, size, name in zip(cells, cells, cells, cells, strict=True)
            }
            for suffix, span in row.members().items():
                assert members[f"{row.key}.{suffix}"] == (span.offset, span.size)


needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="Hugging Face datasets is not installed"
)


@needs_datasets
def test_hugging_face_datasets_reads_image_sets(tmp_path: Path) -> None:
    import datasets

    keys = [f"k{number}" for number in range(8)]
    build_set(
        [Plan(key, 1000) for key in keys],
        lambda key: make_video(key, num_frames=1, absent=[0] if key < "k3" else []),
        str(tmp_path / "set"),
        dataset="toy",
        split="train",
        settings={},
    )
    read = datasets.load_dataset(
        "webdataset", data_files=tars(tmp_path / "set"), cache_dir=str(tmp_path), split="train"
    )
    assert sorted(read["__key__"]) == keys
    for row in read:
        names = ["1"] if row["__key__"] < "k3" else ["2", "1"]
        assert [mask["id"] for mask in row["000000.rle.json"]] == names
        assert row["000000.jpg"].size == (52, 36)


@needs_datasets
def test_hugging_face_datasets_reads_videos_of_named_columns(built: Path, tmp_path: Path) -> None:
    from datasets import Features, Image, Value, load_dataset

    text = Value("string")
    expressions = [{"id": text, "text": text, "objects": [text], "kind": text}]
    columns = {"__key__": text, "json": {"video_id": text, "expressions": expressions}}
    for position in range(6):
        columns[f"{position:06d}.jpg"] = Image()
        columns[f"{position:06d}.rle.json"] = [{"id": text, "counts": text}]
    read = load_dataset(
        "webdataset",
        data_files=tars(built),
        features=Features(columns),
        cache_dir=str(tmp_path),
        split="train",
    )
    assert sorted(read["__key__"]) == toy_keys()
    for row in read:
        video = toy_video(row["__key__"])
        texts = [expression["text"] for expression in row["json"]["expressions"]]
        assert texts == [expression.text for expression in video.expressions]
        if video.frames[0].extension == "jpg":
            images = [row[f"{position:06d}.jpg"] for position in range(6)]
            assert sum(image is not None for image in images) == len(video.frames)


@pytest.mark.skipif(
    shutil.which("energon") is None,
    reason="Megatron-Energon is not installed (pip install megatron-energon)",
)
def test_energon_prepares_a_copy(built: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built, tmp_path / "copy"))
    line = ["energon", "prepare", str(copy), "--non-interactive", "--num-workers", "1"]
    line += ["--split-parts", r"train:toy-train-.*\.tar", "--sample-type", "CrudeWebdataset"]
    subprocess.run(line, check=True, capture_output=True, timeout=300)
    info = json.loads((copy / ".nv-meta/.info.json").read_text())
    shard_set = ShardSet.open(str(built))
    assert info["shard_counts"] == {
        shard.name: shard.counts.videos for shard in shard_set.manifest.shards
    }
    assert ShardSet.open(str(copy)).hash == shard_set.hash
