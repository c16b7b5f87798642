"""Answers for a video as files: masks.json and a PNG an expression and frame."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgmg.inference.video_io import Pixels
from sgmg.masks.rle import CocoRle, encode_mask

MASKS_JSON = "masks.json"


@dataclass(frozen=True)
class FrameAnswer:
    """What the network answers for one frame.

    Attributes:
        index: Of the frame in its video.
        pixels: The frame itself, RGB [H, W, 3].
        masks: [E, H, W].
        scores: E scores, 0 to 1.
        boxes_xyxy_px: E boxes, corners in pixels of the frame.
    """

    index: int
    pixels: Pixels
    masks: NDArray[np.bool_]
    scores: list[float]
    boxes_xyxy_px: list[list[float]]


class FrameEntry(TypedDict):
    """A frame's entry in masks.json; lists have one element an expression."""

    frame: int
    scores: list[float]
    boxes_xyxy: list[list[float]]
    segmentations: list[CocoRle]


class MasksJsonWriter:
    """Writes masks.json a frame at a time.

    The document is ``{"expressions": [...], "frames": [...]}``, each frame on a line of its own.
    `json.dump` would need all frames at once; this writer needs one, so that memory does not grow
    with the video. The document is complete, and JSON, only after `close`.
    """

    def __init__(self, path: Path, expressions: Sequence[str]) -> None:
        """Create the file and write what stands before the frames."""
        self._file = path.open("w")
        self._num_frames = 0
        self._file.write('{"expressions": ')
        self._file.write(json.dumps(list(expressions)))
        self._file.write(', "frames": [')

    def add(self, entry: FrameEntry) -> None:
        """Append a frame."""
        # JSON allows no comma after the last element, and which is last is not known here.
        separator = ",\n" if self._num_frames else "\n"
        self._file.write(separator)
        self._file.write(json.dumps(entry))
        self._num_frames += 1

    def close(self) -> None:
        """End the document."""
        self._file.write("\n]}\n")
        self._file.close()


class MaskFolderWriter:
    """Writes masks.json and a PNG mask an expression and frame, `<expression>/<frame>.png`.

    Used as a context manager; the folder is complete after it.
    """

    def __init__(self, folder: Path, expressions: Sequence[str]) -> None:
        """Create the folder with a folder in it for each expression, named by its index."""
        self._png_folders = [folder / f"{index:02d}" for index in range(len(expressions))]
        for png_folder in self._png_folders:
            png_folder.mkdir(parents=True)
        self._json = MasksJsonWriter(folder / MASKS_JSON, expressions)

    def add(self, answer: FrameAnswer) -> None:
        """Write the masks of a frame."""
        entry = FrameEntry(
            frame=answer.index,
            scores=answer.scores,
            boxes_xyxy=answer.boxes_xyxy_px,
            segmentations=[encode_mask(mask) for mask in answer.masks],
        )
        self._json.add(entry)
        for png_folder, mask in zip(self._png_folders, answer.masks, strict=True):
            # A boolean array becomes a PNG of one bit a pixel.
            Image.fromarray(mask).save(png_folder / f"{answer.index:05d}.png")

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End masks.json."""
        self._json.close()
