import hashlib
import io
import tarfile

import pytest

from shards.format.tar import ShardTar


def test_spans_and_hash_are_those_of_the_tar() -> None:
    file = io.BytesIO()
    with ShardTar(file) as tar:
        first_spans = tar.write(
            "a",
            [("json", b"{}"), ("000000.jpg", b"x" * 512), ("000001.png", b"y" * 513)],
        )
        second_spans = tar.write("b", [("json", b"{}")])
    data = file.getvalue()
    assert tar.output.bytes == len(data)
    assert tar.output.sha256 == hashlib.sha256(data).hexdigest()
    assert list(first_spans) == ["json", "000000.jpg", "000001.png"]
    with tarfile.open(fileobj=io.BytesIO(data)) as whole:
        members = whole.getmembers()
    assert [member.name for member in members] == [
        "a.json",
        "a.000000.jpg",
        "a.000001.png",
        "b.json",
    ]
    spans = [*first_spans.values(), *second_spans.values()]
    assert [(member.offset_data, member.size) for member in members] == [
        (span.offset, span.size) for span in spans
    ]


def test_a_large_tar_is_hashed_whole() -> None:
    file = io.BytesIO()
    with ShardTar(file) as tar:
        for number in range(40):  # more pieces than may wait to be hashed
            tar.write(f"k{number}", [("json", b"{}"), ("000000.jpg", bytes([number]) * 2**20)])
    assert tar.output.sha256 == hashlib.sha256(file.getvalue()).hexdigest()


class FullDisk(io.BytesIO):
    """Refuses every write."""

    def __init__(self) -> None:
        super().__init__()
        self.num_refused = 0

    def write(self, data: object) -> int:
        self.num_refused += 1
        raise OSError(28, f"write {self.num_refused} found no space")


def write_sample(disk: io.BytesIO) -> None:
    with ShardTar(disk) as tar:
        tar.write("a", [("json", b"{}")])


def test_the_end_of_a_failed_tar_does_not_hide_its_error() -> None:
    disk = FullDisk()
    with pytest.raises(OSError, match="write 1 found no space"):
        write_sample(disk)
    assert disk.num_refused > 1, "the end was not written: the test proves nothing"
