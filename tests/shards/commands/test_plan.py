"""The plan of a rank: what its loader will read."""

import re
from pathlib import Path

import pytest

from shards import ClipLoader, ClipStyle
from shards.__main__ import main
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling


def test_a_plan_tells_what_a_loader_reads(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(built), "--num-frames", "2", "--steps", "1000"]) == 0
    *lines, total = capsys.readouterr().out.strip().splitlines()[1:]
    loader = ClipLoader(
        [str(built)],
        num_frames=2,
        batch_size=2,
        style=ClipStyle(
            sampling=ClipSampling.youtube_vos(),
            augmentation=Augmentation.none(),
        ),
    )
    keys = [key for batch in loader for key in batch.keys][: len(loader.source)]
    traffic = loader.sets[0].storage.traffic
    loader.close()
    assert [line.split()[4] for line in lines][: len(keys)] == keys
    planned_bytes = [
        int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= bytes)", total)
    ]
    manifest_bytes = (built / "manifest.json").stat().st_size
    assert sum(planned_bytes) == traffic.bytes - manifest_bytes


def test_a_batch_that_ranks_cannot_share_is_refused(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(built), "--batch-size", "3", "--world-size", "2"]) == 1
    assert "cannot be shared by 2" in capsys.readouterr().err
