"""How each data set is predicted and scored, in a table by the data set's name.

`ClipBenchmark` scores whole clips by J and F, `MergedObjects` label maps of all objects at once,
`RankedQueries` all candidates in single frames. A benchmark knows masks, names and sizes; where
videos are stored it does not know.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch

from sgmg.evaluation.clip_metrics import (
    Scores,
    contour_accuracy,
    frame_statistics,
    region_similarity,
    score_best_assignment,
)
from sgmg.evaluation.ranked_metrics import RankedMasks
from sgmg.evaluation.scores import ExpressionScore, RankedBoxes
from sgmg.evaluation.video import EvaluationVideo, ListedVideo, Masks, annotated_frames
from sgmg.inference.postprocess import Candidates, merge_objects, restore
from sgmg.inference.predictor import Predictor
from sgmg.masks.png_masks import Labels, MaskFolder, Size
from sgmg.masks.rle import box_xyxy_px

OBJECT_VALUE = 255  # of a pixel of a binary mask
VOID_LABEL = 255  # of a pixel of Ref-DAVIS17 that counts neither as object nor as background
VOID_OBJECT = str(VOID_LABEL)  # the id under which such pixels are stored

# all candidates that `predict` found, by the name of the mask of the best one
CandidatesByMask = Mapping[str, Candidates]
NO_CANDIDATES: CandidatesByMask = {}


@dataclass(frozen=True)
class Sizes:
    """How large the network sees a video; in pixels, and the window in frames.

    Attributes:
        short_side: Frames are resized to this short side.
        long_side: Most pixels of the long side, at the cost of the short one; None for no limit.
        window: Frames seen at once; None for the whole video.
        pad_to: Frames are padded to a multiple of this.
    """

    short_side: int = 360
    long_side: int | None = None
    window: int | None = None
    pad_to: int = 16


class SplitSize(NamedTuple):
    """How much a split holds."""

    videos: int
    expressions: int


class Benchmark(Protocol):
    """How one data set is predicted and scored."""

    @property
    def sizes(self) -> Sizes:
        """Sizes of the published evaluation."""
        ...

    @property
    def headline(self) -> str:
        """Name of the number in the summary that picks the best checkpoint."""
        ...

    @property
    def published(self) -> Mapping[str, SplitSize]:
        """Size of each split whose size is known here."""
        ...

    def predict(
        self, predictor: Predictor, video: EvaluationVideo, masks: MaskFolder
    ) -> CandidatesByMask:
        """Write the masks of a video; return all candidates where they are ranked."""
        ...

    def score(
        self,
        video: EvaluationVideo,
        masks: MaskFolder,
        candidates: CandidatesByMask = NO_CANDIDATES,
    ) -> Iterator[ExpressionScore]:
        """Score the masks of a video, as far as it has ground truth.

        Args:
            video: Whose masks are read.
            masks: Where `predict`, or another system, has written them.
            candidates: What `predict` returned; another system has none.

        Raises:
            ValueError: A mask is missing or broken.
        """
        ...

    def submission(self, videos: Iterable[ListedVideo]) -> Iterator[tuple[str, Size]] | None:
        """Names and sizes of the masks that the benchmark's server takes; None without a server."""
        ...


@dataclass(frozen=True)
class ClipBenchmark:
    """Binary masks of whole clips, `<video>/<expression>/<frame>.png`; the score is J&F.

    Attributes:
        sizes: As published.
        published: Size of each split whose size is known here.
        headline: Number that picks the best checkpoint.
    """

    sizes: Sizes = Sizes()
    published: Mapping[str, SplitSize] = field(default_factory=dict)
    headline: str = "J&F"

    def predict(
        self, predictor: Predictor, video: EvaluationVideo, masks: MaskFolder
    ) -> CandidatesByMask:
        """Write a mask of every expression and frame."""
        texts = [expression.text for expression in video.expressions]
        if not texts:
            return NO_CANDIDATES
        frames = video.frames(range(len(video.frame_names)))
        for window in predictor.stream(frames, texts):
            for expression, mask_logits in zip(video.expressions, window.mask_logits, strict=True):
                folder = expression_folder(video, expression.id)
                # the size of the video is restored for one expression at a time: memory
                logits = restore(mask_logits, window.size)
                binary = (logits > 0).to(torch.uint8) * OBJECT_VALUE
                write_clip(masks, folder, video.frame_names[window.start :], binary)
        return NO_CANDIDATES

    def score(
        self,
        video: EvaluationVideo,
        masks: MaskFolder,
        candidates: CandidatesByMask = NO_CANDIDATES,
    ) -> Iterator[ExpressionScore]:
        """J and F over the annotated frames.

        `control` is J&F of the same masks against other objects of the video that are referred to:
        what a network would get that ignores the expression.
        """
        if not annotated_frames(video):
            return
        # an expression without objects is one whose objects the data set keeps secret
        expressions = [expression for expression in video.expressions if expression.objects]
        truths = {expression.objects: video.truth(expression.objects) for expression in expressions}
        for expression in expressions:
            folder = expression_folder(video, expression.id)
            predicted = read_clip(masks, folder, video) > 0
            truth = truths[expression.objects]
            j, f = mean_j_and_f(predicted, truth)
            controls = [
                mean_j_and_f(predicted, other_truth)
                for other_objects, other_truth in truths.items()
                if not set(other_objects) & set(expression.objects)
            ]
            control = float(np.mean(controls)) if controls else float("nan")
            yield ExpressionScore(
                video=video.video_id,
                expression=expression.id,
                text=expression.text,
                kind=expression.kind,
                area=visible_area(truth),
                folder=folder,
                scores={"j": j, "f": f, "control": control},
            )

    def submission(self, videos: Iterable[ListedVideo]) -> Iterator[tuple[str, Size]]:
        """Every expression and frame."""
        for video in videos:
            size = (video.height, video.width)
            for expression in video.expressions:
                folder = expression_folder(video, expression.id)
                for frame in video.frame_names:
                    yield mask_name(folder, frame), size


@dataclass(frozen=True)
class MergedObjects:
    """Label maps of all objects, `<annotator>/<video>/<frame>.png`; the score is J&F.

    Each annotator counts by itself: the n-th expression of an annotator has the label n. Labels are
    matched to objects for the best J&F, as DAVIS does. Which objects count is the published rule,
    see `scored_objects`.

    Attributes:
        sizes: As published.
        published: Size of each split whose size is known here.
        headline: Number that picks the best checkpoint.
    """

    sizes: Sizes = Sizes(window=36)
    published: Mapping[str, SplitSize] = field(default_factory=dict)
    headline: str = "J&F"

    def predict(
        self, predictor: Predictor, video: EvaluationVideo, masks: MaskFolder
    ) -> CandidatesByMask:
        """Write a label map of every annotator and frame."""
        texts = [expression.text for expression in video.expressions]
        if not texts:
            return NO_CANDIDATES
        frames = video.frames(range(len(video.frame_names)))
        for window in predictor.stream(frames, texts):
            for annotator, indices in expressions_by_annotator(video).items():
                logits = restore(window.mask_logits[indices], window.size)
                labels = merge_objects(logits.sigmoid())
                folder = f"{annotator}/{video.video_id}"
                write_clip(masks, folder, video.frame_names[window.start :], labels)
        return NO_CANDIDATES

    def score(
        self,
        video: EvaluationVideo,
        masks: MaskFolder,
        candidates: CandidatesByMask = NO_CANDIDATES,
    ) -> Iterator[ExpressionScore]:
        """J, F and their statistics of every annotator and object."""
        if not annotated_frames(video):
            return
        objects = scored_objects(video)
        if not objects:
            return
        truths = np.stack([video.truth([name]) for name in objects])
        void = video.truth([VOID_OBJECT])
        for number, (annotator, indices) in enumerate(expressions_by_annotator(video).items()):
            folder = f"{annotator}/{video.video_id}"
            published_folder = f"anno_{number}/{video.video_id}"  # as the published scripts name it
            if masks.has_folder(published_folder):
                folder = published_folder
            labels = read_clip(masks, folder, video)
            # void pixels may be predicted as anything: no score counts them
            j, f = score_best_assignment(label_planes(labels), truths, void)

            label_of = {
                video.expressions[index].objects: label
                for label, index in enumerate(indices, start=1)
            }
            for row, name in enumerate(objects):
                # an object that this annotator left out is scored, too, without an expression
                label = label_of.get((name,), 0)
                expression = video.expressions[indices[label - 1]] if label else None
                yield ExpressionScore(
                    video=video.video_id,
                    expression=expression.id if expression else "",
                    text=expression.text if expression else "",
                    kind=annotator,
                    area=visible_area(truths[row]),
                    folder=folder,
                    label=label,
                    scores=davis_scores(j[row], f[row]),
                )

    def submission(self, videos: Iterable[ListedVideo]) -> None:
        """DAVIS has no server for expressions."""


@dataclass(frozen=True)
class RankedQueries:
    """All candidates of an expression in each annotated frame that shows its object.

    The best mask is written, `<video>/<expression>/<frame>.png`; all of them count for mAP.

    Attributes:
        sizes: As published.
        frames_around: So many frames before, and after, lend motion to the annotated frame; at the
            ends of a video its first or last frame is repeated.
        lower_case: Whether expressions are put into lower case and blanks squeezed.
        published: Size of each split whose size is known here.
        headline: Number that picks the best checkpoint.
    """

    sizes: Sizes = Sizes(long_side=640, pad_to=32)
    frames_around: int = 0
    lower_case: bool = False
    published: Mapping[str, SplitSize] = field(default_factory=dict)
    headline: str = "mAP"

    def predict(
        self, predictor: Predictor, video: EvaluationVideo, masks: MaskFolder
    ) -> CandidatesByMask:
        """Write the best mask of every expression and frame; return all candidates."""
        candidates_by_mask: dict[str, Candidates] = {}
        for index in annotated_frames(video):
            visible = set(video.visible_objects(index))
            expressions = [
                expression for expression in video.expressions if visible & set(expression.objects)
            ]
            if not expressions:
                continue
            texts = [self._text_to_read(expression.text) for expression in expressions]
            clip = self._clip_around(index, len(video.frame_names))
            frames = torch.stack(list(video.frames(clip)))
            # the first occurrence, as published: at the start of a video its frame is repeated
            target_frame = clip.index(index)
            ranked = predictor.rank(frames, texts, target_frame=target_frame)
            for expression, candidates in zip(expressions, ranked, strict=True):
                folder = expression_folder(video, expression.id)
                name = mask_name(folder, video.frame_names[index])
                best = candidates.masks[0].numpy().astype(np.uint8)
                masks.write(name, best * np.uint8(OBJECT_VALUE))
                candidates_by_mask[name] = candidates
        return candidates_by_mask

    def score(
        self,
        video: EvaluationVideo,
        masks: MaskFolder,
        candidates: CandidatesByMask = NO_CANDIDATES,
    ) -> Iterator[ExpressionScore]:
        """Overlap of the best mask in every annotated frame that shows the object, and all masks.

        Masks of another system have no candidates: the one mask is the only candidate.
        """
        indices = annotated_frames(video)
        size = (video.height, video.width)
        for expression in video.expressions:
            folder = expression_folder(video, expression.id)
            truths = video.truth(expression.objects)
            for index, truth in zip(indices, truths, strict=True):
                if not truth.any():
                    continue  # as published, a frame without the object is no sample
                frame = video.frame_names[index]
                name = mask_name(folder, frame)
                ranked_boxes = None
                if name in candidates:
                    ranked = candidates[name]
                    ranked_masks = RankedMasks.encode(ranked.masks, ranked.scores, truth)
                    ranked_boxes = RankedBoxes(
                        candidates_xyxy_px=ranked.boxes_xyxy_px.tolist(),
                        truth_xyxy_px=box_xyxy_px(ranked_masks.truth),
                    )
                else:
                    mask = masks.read(name, size) > 0
                    ranked_masks = RankedMasks.encode([mask], [1.0], truth)
                intersection, union = ranked_masks.best_overlap()
                yield ExpressionScore(
                    video=video.video_id,
                    expression=expression.id,
                    text=expression.text,
                    kind=expression.kind,
                    frame=frame,
                    area=visible_area(truth[None]),
                    folder=folder,
                    scores={"intersections": intersection, "unions": union},
                    ranked_masks=ranked_masks,
                    ranked_boxes=ranked_boxes,
                )

    def submission(self, videos: Iterable[ListedVideo]) -> None:
        """These data sets have no server."""

    def _text_to_read(self, text: str) -> str:
        """An expression as the network reads it."""
        return " ".join(text.lower().split()) if self.lower_case else text

    def _clip_around(self, index: int, num_frames: int) -> list[int]:
        """Indices of the frames that are seen together with an annotated one."""
        first = index - self.frames_around
        last = index + self.frames_around
        return [min(max(neighbour, 0), num_frames - 1) for neighbour in range(first, last + 1)]


# A2D and JHMDB: an annotated frame amid five, expressions in lower case, as published
VIDEO_FRAMES = RankedQueries(frames_around=2, lower_case=True)

# by the name that a reader of `preprocess` gives its data set; "+" is no letter of a file name
BENCHMARKS: Mapping[str, Benchmark] = {
    # those of the 507 videos listed that the server scores
    "ref-youtube-vos": ClipBenchmark(published={"valid": SplitSize(202, 834)}),
    "mevis": ClipBenchmark(),
    "synthetic": ClipBenchmark(),
    "synthetic-image": ClipBenchmark(),
    # four expressions for each of 61 objects
    "ref-davis17": MergedObjects(published={"val": SplitSize(30, 244)}),
    "a2d-sentences": VIDEO_FRAMES,
    "jhmdb-sentences": VIDEO_FRAMES,
    "refcoco": RankedQueries(),
    "refcoco-plus": RankedQueries(),
    "refcocog": RankedQueries(),
}


def find_benchmark(dataset: str) -> Benchmark:
    """The benchmark of a data set.

    Raises:
        ValueError: There is none of this name.
    """
    if dataset not in BENCHMARKS:
        raise ValueError(
            f"no benchmark for the data set {dataset!r}; known are {', '.join(BENCHMARKS)}: "
            "add it to BENCHMARKS in sgmg/evaluation/benchmarks.py"
        )
    return BENCHMARKS[dataset]


def expression_folder(video: ListedVideo, expression_id: str) -> str:
    """Folder of the masks of one expression."""
    return f"{video.video_id}/{expression_id}"


def mask_name(folder: str, frame: str) -> str:
    """Name of the mask of a frame."""
    return f"{folder}/{frame}.png"


def expressions_by_annotator(video: EvaluationVideo) -> dict[str, list[int]]:
    """Indices of the expressions of each annotator, annotators in alphabetical order."""
    indices = defaultdict(list)
    for index, expression in enumerate(video.expressions):
        indices[expression.kind or "unnamed"].append(index)
    return dict(sorted(indices.items()))


def scored_objects(video: EvaluationVideo) -> list[str]:
    """Ids that DAVIS scores: 1 to the largest id of the first annotated frame, void apart.

    An object that appears later has no row, and neither has one that the data set lists but no
    mask of the first frame shows. An id below the largest that the first frame skips has a row.

    Raises:
        ValueError: An id is no number, as those of DAVIS are.
    """
    first = annotated_frames(video)[0]
    names = [name for name in video.visible_objects(first) if name != VOID_OBJECT]
    for name in names:
        if not name.isdecimal():
            raise ValueError(f"video {video.video_id}: object id {name!r} is no number of DAVIS")
    num_objects = max((int(name) for name in names), default=0)
    return [str(number) for number in range(1, num_objects + 1)]


def write_clip(
    masks: MaskFolder, folder: str, frame_names: Sequence[str], labels: torch.Tensor
) -> None:
    """Write the masks of consecutive frames.

    Args:
        masks: Where to.
        folder: Within `masks`.
        frame_names: From the first frame on; there may be more than masks.
        labels: uint8 [T, H, W].
    """
    for frame, values in zip(frame_names, labels.cpu().numpy(), strict=False):
        masks.write(mask_name(folder, frame), values)


def read_clip(masks: MaskFolder, folder: str, video: EvaluationVideo) -> Labels:
    """Values of the masks of the annotated frames, [A, H, W].

    Raises:
        ValueError: A mask is missing or broken.
    """
    size = (video.height, video.width)
    names = [mask_name(folder, video.frame_names[index]) for index in annotated_frames(video)]
    return np.stack([masks.read(name, size) for name in names])


def label_planes(labels: Labels) -> Masks:
    """A mask of each label from 1 to the largest, [L, A, H, W]; at least one, void apart."""
    num_labels = int(labels.max(initial=1, where=labels < VOID_LABEL))
    return np.stack([labels == label for label in range(1, num_labels + 1)])


def mean_j_and_f(predicted: Masks, truth: Masks) -> tuple[float, float]:
    """J and F, each the mean over the frames."""
    j = region_similarity(predicted, truth)
    f = contour_accuracy(predicted, truth)
    return float(np.mean(j)), float(np.mean(f))


def davis_scores(j: Scores, f: Scores) -> dict[str, float]:
    """Means of J and F over the frames of an object, and their recall and decay."""
    j_statistics = frame_statistics(j)
    f_statistics = frame_statistics(f)
    return {
        "j": float(np.mean(j)),
        "f": float(np.mean(f)),
        "J recall": j_statistics.recall,
        "J decay": j_statistics.decay,
        "F recall": f_statistics.recall,
        "F decay": f_statistics.decay,
    }


def visible_area(truth: Masks) -> float:
    """Share of the frame that an object takes, 0 to 1, on average where it is visible.

    Args:
        truth: [A, H, W].
    """
    areas = truth.mean((1, 2))
    num_visible = np.count_nonzero(areas)
    return float(areas.sum() / max(num_visible, 1))
