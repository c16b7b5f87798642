"""JHMDB-Sentences: the genuine metadata over blank frames."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.io import savemat

from preprocess.readers.jhmdb_sentences import open_jhmdb_sentences
from tests.preprocess.conftest import write
from tests.preprocess.trees import png


def test_all_genuine_jhmdb_rows_are_read(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "jhmdb_sentences"
    shutil.copytree(shared / "realdata/jhmdb_sentences", root)
    image = png(np.random.default_rng(0), (24, 32))
    for number in range(1, 41):
        write(tmp_path / f"blank/{number:05d}.png", image)
    savemat(tmp_path / "blank/puppet_mask.mat", {"part_mask": np.ones((24, 32, 40), np.uint8)})
    rows = json.loads((root / "jhmdb_sentences_samples_metadata.json").read_text())
    for folder in {str(Path(path).parent) for row in rows for path in row[1:3]}:
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(tmp_path / "blank")
    source = open_jhmdb_sentences(tmp_path)
    source.check_complete()
    assert (len(source.plans), source.num_expressions) == (928, 928)
    assert source.lists == (("rows in the metadata", 2784, 2784),)
    drawn = Counter({row[0]: 0 for row in rows})
    for plan in source.plans[::100]:
        video = source.read(plan.key)
        scored = [frame.name for frame in video.frames if frame.masks is not None]
        assert scored == sorted(Path(row[1]).stem for row in rows if row[0] == video.video_id)
        drawn[video.video_id] += len(scored)
    assert sum(drawn.values()) == 30
