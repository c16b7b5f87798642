import pickle
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardError
from shards.format.manifest import MANIFEST
from shards.format.rle import decode_mask
from shards.format.schema import Video
from shards.format.shard_set import ShardSet
from tests.shards.sample_videos import build_toy, message, toy_keys, toy_video


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_toy(out)
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def test_rows_tell_what_was_written(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    assert sorted(row.key for row in shard_set.videos) == toy_keys()
    assert len(shard_set) == len(shard_set.videos) == 9
    for number, row in enumerate(shard_set.videos):
        video = toy_video(row.key)
        assert row.key == video.key
        assert row.video_id == video.video_id
        assert (row.height, row.width) == (video.height, video.width)
        assert row.expressions == video.expressions
        assert dict(row.objects) == video.objects
        assert list(row.objects) == list(video.objects)
        assert list(row.frame_names) == [frame.name for frame in video.frames]
        assert list(row.extensions) == [frame.extension for frame in video.frames]
        assert row.annotated.tolist() == [frame.masks is not None for frame in video.frames]
        for name, visible in row.visible.items():
            assert visible.dtype == bool
            assert visible.tolist() == [name in (frame.masks or {}) for frame in video.frames]
        assert shard_set.videos.num_frames[number] == len(video.frames)
        assert shard_set.videos.num_expressions[number] == 2
    assert (np.diff([row.shard for row in shard_set.videos]) >= 0).all()


def test_one_row_equals_that_of_the_walk(built: Path) -> None:
    videos = ShardSet.open(str(built)).videos
    for number, walked in enumerate(videos):
        for row in (videos[number], videos[number - len(videos)]):
            assert row.key == walked.key
            assert row.head == walked.head
            assert row.expressions == walked.expressions
            assert np.array_equal(row.images, walked.images)
            assert np.array_equal(row.masks, walked.masks)
    with pytest.raises(IndexError):
        videos[9]


def test_read_gives_the_frames_asked_for_in_their_order(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    for number, row in enumerate(shard_set.videos):
        video = toy_video(row.key)
        positions = [len(video.frames) - 1, 0, len(video.frames) // 2, 0]
        expected = [video.frames[position] for position in positions]
        assert shard_set.read(number, positions) == expected
        assert shard_set.video(number) == video
    assert shard_set.read(0, []) == []


def test_each_frame_is_fetched_by_its_range(built: Path) -> None:
    shard_set = ShardSet.open(str(built), gap=1024)
    longest = int(shard_set.videos.num_frames.argmax())
    traffic = shard_set.storage.traffic
    requests_before = traffic.requests
    bytes_before = traffic.bytes
    shard_set.read(longest, [0, 3, 3])
    spans = shard_set.spans(shard_set.videos[longest], [0, 3]).spans
    member_bytes = sum(span.size for span in spans)
    assert traffic.requests - requests_before == 2
    assert member_bytes <= traffic.bytes - bytes_before <= member_bytes + 2 * 1024


def test_threads_read_at_once(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    expected = [shard_set.video(number) for number in range(9)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shard_set.video, list(range(9)) * 10)) == expected * 10


def test_a_set_is_pickled_by_its_address(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    data = pickle.dumps(shard_set)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.hash == shard_set.hash
    assert again.read(2, [0]) == shard_set.read(2, [0])


def test_sequential_reading_gives_every_video_once(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    videos = list(shard_set.sequential())
    assert videos == [toy_video(row.key) for row in shard_set.videos]
    assert list(shard_set.sequential([2, 0])) == [
        video for video, row in zip(videos, shard_set.videos, strict=True) if row.shard in (0, 2)
    ]


def first_tar(folder: Path) -> Path:
    return sorted(folder.glob("*.tar"))[0]


def test_a_cut_tar_never_gives_a_shortened_video(copy: Path) -> None:
    tar = first_tar(copy)
    data = tar.read_bytes()
    shard_set = ShardSet.open(str(copy))
    keys = [row.key for row in shard_set.videos]
    record_bytes = 10_240  # zeros fill up the last one, which may be missing
    lengths = [*range(0, len(data) - record_bytes, 512), 700, len(data) - record_bytes - 1]
    for length in lengths:
        tar.write_bytes(data[:length])
        videos: list[Video] = []
        with pytest.raises(ShardError) as caught:
            videos.extend(shard_set.sequential([0]))
        assert tar.name in message(caught.value)
        assert videos == [toy_video(key) for key in keys[: len(videos)]]


def read_by_ranges(shard_set: ShardSet) -> list[Video]:
    return [shard_set.video(video) for video in range(len(shard_set))]


@pytest.mark.parametrize("read", [ShardSet.sequential, read_by_ranges])
def test_every_flipped_bit_is_caught(
    copy: Path, read: Callable[[ShardSet], Iterable[Video]]
) -> None:
    shard_set = ShardSet.open(str(copy))
    tar = first_tar(copy)
    data = tar.read_bytes()
    rows = [row for row in shard_set.videos if row.shard == 0]
    for row in rows:
        spans = row.members()
        if read is read_by_ranges:
            del spans["json"]  # the index stands for it
        for span in spans.values():
            changed = bytearray(data)
            changed[span.offset + span.size // 2] ^= 4
            tar.write_bytes(changed)
            with pytest.raises(ShardError, match=row.key):
                list(read(shard_set))
    tar.write_bytes(data)
    list(read(shard_set))


def remove(end: str) -> Callable[[Path], None]:
    return lambda folder: sorted(folder.glob(f"*{end}"))[0].unlink()


def cut(end: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = sorted(folder.glob(f"*{end}"))[0]
        path.write_bytes(path.read_bytes()[:-3])

    return apply


def other_version(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove(MANIFEST), "half-built one; check the address, or run its build again"),
        (other_version, "has shard format 7, this program reads 1"),
        (remove(".tar"), "000000-of-000003.tar: no such file"),
        (cut(".tar"), "000000-of-000003.tar: .* bytes, should be .*; copy it again"),
        (remove(".parquet"), "000000-of-000003.parquet: no such file"),
        (cut(".parquet"), "000000-of-000003.parquet: not the index the manifest tells of"),
        (shutil.rmtree, "half-built one; check the address"),
        (cut(MANIFEST), "is no manifest of a shard set"),
    ],
)
def test_open_refuses_what_is_not_whole(
    copy: Path, damage: Callable[[Path], None], problem: str
) -> None:
    damage(copy)
    with pytest.raises(ShardError, match=problem) as caught:
        ShardSet.open(str(copy))
    assert str(copy) in message(caught.value)


def test_a_lost_shard_need_not_stop_the_others(copy: Path) -> None:
    first_tar(copy).unlink()
    shard_set = ShardSet.open(str(copy), check_shards=False)
    for number, row in enumerate(shard_set.videos):
        if row.shard:
            assert shard_set.read(number, [0])[0] == toy_video(row.key).frames[0]
        else:
            with pytest.raises(ShardError, match=f"video {row.key}: .*tar: no such file"):
                shard_set.read(number, [0])


def test_masks_read_back_are_the_masks_written(built: Path) -> None:
    shard_set = ShardSet.open(str(built))
    num_compared = 0
    for video in shard_set.sequential():
        for frame, original in zip(video.frames, toy_video(video.key).frames, strict=True):
            if frame.masks is None or original.masks is None:
                assert frame.masks == original.masks
                continue
            assert frame.masks.keys() == original.masks.keys()
            for object_id, rle in frame.masks.items():
                expected = decode_mask(original.masks[object_id])
                assert np.array_equal(decode_mask(rle), expected)
                num_compared += 1
    assert num_compared > 10
