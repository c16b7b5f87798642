"""How much of the demo's data to draw, and of what kind."""

from dataclasses import dataclass

MIN_SIDE_PX = 64  # two large shapes find no room to move apart in less


@dataclass(frozen=True)
class SyntheticSettings:
    """What to draw; held-out videos and images come from random streams of their own.

    Args:
        train_videos: number of videos in the train split.
        valid_videos: number of videos in the valid split.
        images: number of still images in the train split.
        valid_images: number of still images in the val split.
        num_frames: frames of a train video.
        valid_frames: frames of a valid video.
        side: height and width in pixels.
        shapes: most shapes in a video or image, at least 2.
        seed: seed of everything.
        motion: share of the video expressions that need motion, about.
        twins: probability that a further shape looks like an earlier one.
        image_side: share of the still train images that may be referred to by side; the others
            teach looks.
    """

    train_videos: int = 1200
    valid_videos: int = 160
    images: int = 3000
    valid_images: int = 100
    num_frames: int = 8
    valid_frames: int = 8
    side: int = 144
    shapes: int = 3
    seed: int = 0
    motion: float = 0.4
    twins: float = 0.3
    image_side: float = 0.75

    def __post_init__(self) -> None:
        """Refuse sizes that leave no room to draw.

        Raises:
            ValueError: the side, the number of shapes or a number of frames is too small.
        """
        if self.side < MIN_SIDE_PX:
            raise ValueError(
                f"side is {self.side} pixels; shapes need at least {MIN_SIDE_PX}: raise it"
            )
        if self.shapes < 2:
            raise ValueError(f"shapes is {self.shapes}; one alone needs no words: raise it")
        if min(self.num_frames, self.valid_frames) < 1:
            raise ValueError("a video needs at least one frame: raise num_frames, valid_frames")

    @property
    def total(self) -> int:
        """Number of videos and images."""
        return self.train_videos + self.valid_videos + self.images + self.valid_images
