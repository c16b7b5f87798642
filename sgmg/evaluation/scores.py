"""The scores of one expression, as they go from a benchmark to the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgmg.evaluation.ranked_metrics import RankedMasks


@dataclass(frozen=True, kw_only=True)
class RankedBoxes:
    """Boxes of the candidates of one expression in one frame, for the precision of RefCOCO.

    Attributes:
        candidates_xyxy_px: [Q, 4], in the order of the candidates' scores.
        truth_xyxy_px: [4], around the mask of the object.
    """

    candidates_xyxy_px: list[list[float]]
    truth_xyxy_px: list[float]


@dataclass(frozen=True, kw_only=True)
class ExpressionScore:
    """Scores of one expression, or of one in one frame where single frames count.

    Attributes:
        video: The data set's name of the video.
        expression: Id within the video; empty for an object that no expression names.
        text: The expression itself.
        kind: Tag, such as the annotator.
        frame: Name of the frame where single frames count, else empty.
        area: Share of the frame that the object takes, 0 to 1, on average where it is visible.
        folder: Of its masks, within the folder of all masks.
        label: Value of its pixels in a label map, 0 where masks are binary.
        scores: `j`, `f` (0 to 1) and others of them, or `intersections` and `unions` in pixels.
        ranked_masks: Where candidates are ranked.
        ranked_boxes: Where candidates are ranked and have boxes.
    """

    video: str
    expression: str
    text: str
    kind: str
    frame: str = ""
    area: float
    folder: str
    label: int = 0
    scores: Mapping[str, float]
    ranked_masks: RankedMasks | None = field(default=None, repr=False)
    ranked_boxes: RankedBoxes | None = field(default=None, repr=False)

    @property
    def quality(self) -> float:
        """Mean of J and F, or IoU; 0 to 1."""
        if "j" in self.scores:  # a whole clip
            return (self.scores["j"] + self.scores["f"]) / 2
        return self.scores["intersections"] / self.scores["unions"]

    # JSON has no types of its own: what is in a dictionary of it, only the reader knows
    def to_json(self) -> dict[str, Any]:
        """The record as plain values; NaN stays NaN."""
        ranked: dict[str, Any] = {}
        if self.ranked_boxes is not None:
            ranked["boxes"] = self.ranked_boxes.candidates_xyxy_px
            ranked["truth_box"] = self.ranked_boxes.truth_xyxy_px
        if self.ranked_masks is not None:
            ranked["rles"] = self.ranked_masks.rles
            ranked["scores"] = self.ranked_masks.scores
            ranked["truth"] = self.ranked_masks.truth
        return {
            "video": self.video,
            "expression": self.expression,
            "text": self.text,
            "kind": self.kind,
            "frame": self.frame,
            "area": self.area,
            "folder": self.folder,
            "label": self.label,
            "scores": dict(self.scores),
            "ranked": ranked,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ExpressionScore":
        """Invert `to_json`."""
        ranked = content["ranked"]
        ranked_masks = None
        if "rles" in ranked:
            ranked_masks = RankedMasks(
                rles=tuple(ranked["rles"]),
                scores=tuple(ranked["scores"]),
                truth=ranked["truth"],
            )
        ranked_boxes = None
        if "boxes" in ranked:
            ranked_boxes = RankedBoxes(
                candidates_xyxy_px=ranked["boxes"],
                truth_xyxy_px=ranked["truth_box"],
            )
        return cls(
            video=content["video"],
            expression=content["expression"],
            text=content["text"],
            kind=content["kind"],
            frame=content["frame"],
            area=content["area"],
            folder=content["folder"],
            label=content["label"],
            scores=content["scores"],
            ranked_masks=ranked_masks,
            ranked_boxes=ranked_boxes,
        )
