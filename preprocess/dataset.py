"""What every reader offers: a data set with its splits, and one split listed but not yet read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from shards.build.plan import Plan
from shards.errors import ShardError
from shards.format.schema import Video

# An official number; several where releases differ, None where nobody has published one.
Published = int | tuple[int, ...] | None


@dataclass(frozen=True)
class PublishedCounts:
    """The official size of a split, after what its reader leaves out."""

    videos: Published = None
    expressions: Published = None


class ListCount(NamedTuple):
    """How much one of the official lists holds, such as rows of a table."""

    name: str
    number: int
    published: int


@dataclass(frozen=True)
class LeftOut:
    """What the official lists have and a filter that was asked for has left out."""

    videos: int = 0
    expressions: int = 0


class _Mismatch(NamedTuple):
    """A number that is not the published one."""

    name: str
    number: int
    published: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One split of one data set.

    Attributes:
        dataset: name in manifests and file names.
        split: name of the split.
        plans: what there is to read, in the data set's own order.
        read: turns the key of a plan into a video; picklable.
        num_expressions: over all plans.
        published: official numbers of videos and of expressions.
        notes: known oddities met while listing, in plain words.
        lists: what else was counted.
        left_out: videos and expressions that are listed but filtered out.
    """

    dataset: str
    split: str
    plans: tuple[Plan, ...]
    read: Callable[[str], Video]
    num_expressions: int
    published: PublishedCounts = PublishedCounts()
    notes: tuple[str, ...] = ()
    lists: tuple[ListCount, ...] = ()
    left_out: LeftOut = LeftOut()

    @property
    def is_partial(self) -> bool:
        """Whether anything counted differs from the published number."""
        return next(self._mismatches(), None) is not None

    def check_complete(self) -> None:
        """Compare with the published counts.

        Raises:
            ShardError: the source has more or fewer videos or expressions.
        """
        for mismatch in self._mismatches():
            published = " or ".join(str(number) for number in mismatch.published)
            raise ShardError(
                f"{self.dataset} {self.split} has {mismatch.number} {mismatch.name}, published are "
                f"{published}: complete the download, or add --allow-partial to go on with these"
            )

    def _mismatches(self) -> Iterator[_Mismatch]:
        num_videos = len(self.plans) + self.left_out.videos
        num_expressions = self.num_expressions + self.left_out.expressions
        counts: list[tuple[str, int, Published]] = [
            *self.lists,
            ("videos", num_videos, self.published.videos),
            ("expressions", num_expressions, self.published.expressions),
        ]
        for name, number, published in counts:
            if published is None:
                continue
            allowed = published if isinstance(published, tuple) else (published,)
            if number not in allowed:
                yield _Mismatch(name, number, allowed)


@dataclass(frozen=True)
class ReadOptions:
    """What the builder was asked for; a reader takes what concerns it.

    Attributes:
        filter_leaks: leave out of train what a related data set holds out.
        quality: of the JPEG frames that a reader of videos encodes, 1 to 100.
    """

    filter_leaks: bool
    quality: int


class OpenSplit(Protocol):
    """Lists a split of a data set."""

    def __call__(self, root: Path, split: str, options: ReadOptions, /) -> Source:
        """List a split below a folder; raises ShardError if a file is missing or broken."""


@dataclass(frozen=True)
class DataSet:
    """A data set that can be built.

    Attributes:
        name: on the command line, and as "source" in the settings of a manifest.
        splits: names of the splits, and what is published about each.
        open: lists a split.
        filters_leaks: the reader heeds `ReadOptions.filter_leaks`.
        decodes_videos: frames come from video files and are encoded by the reader, which heeds
            `ReadOptions.quality`; the bytes then follow the version of the decoder.
    """

    name: str
    splits: Mapping[str, PublishedCounts]
    open: OpenSplit
    filters_leaks: bool = False
    decodes_videos: bool = False


def without_options(list_split: Callable[[Path, str], Source]) -> OpenSplit:
    """Return the opener of a reader that has no options."""

    def open_split(root: Path, split: str, options: ReadOptions, /) -> Source:
        return list_split(root, split)

    return open_split
