"""Everything that was drawn for one clip, as a small frozen record.

What follows from a `ClipTransform` is free of randomness: frames, masks, boxes and expressions
follow the same change, on the CPU as on a GPU, and a clip can be replayed from it.
"""

from dataclasses import dataclass, replace

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Resize:
    """Resize to `height` x `width` pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Crop:
    """Keep `height` x `width` pixels from row `top` and column `left`."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Mirror:
    """Swap left and right."""


Step = Resize | Crop | Mirror


@dataclass(frozen=True)
class Colour:
    """Colour change of one frame; 0 and 1 change nothing.

    Attributes:
        brightness: Grey levels that are added.
        contrast: Factor of all channels.
        saturation: Factor of the HSV saturation.
        channels: Old channel that becomes red, green and blue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    channels: tuple[int, int, int] = (0, 1, 2)


@dataclass(frozen=True)
class Shake:
    """How a frame of a clip made of an image differs from the image; by default not at all.

    It happens before the steps of geometry.

    Attributes:
        angle: Turn of the camera, in radians.
        shift: Movement of the image to the right and down, as shares of its sides.
        corners: How far each corner of the view moves (x, y; clockwise from the upper left), as
            shares of the sides.
        brightness: Grey levels that are added.
        hue: Turn of the hue, where 255 is the whole circle.
        saturation: Saturation that is added, where 255 is full.
        blur: Length of the motion blur, in pixels; 0 for none.
        blur_angle: Direction of the motion blur, in radians.
    """

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    corners: tuple[float, ...] = (0.0,) * 8
    brightness: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    blur: int = 0
    blur_angle: float = 0.0


@dataclass(frozen=True)
class ClipTransform:
    """All that was drawn for one clip.

    Attributes:
        source: Height and width of the frames before.
        steps: Changes of geometry, in order, the same for all frames.
        colours: Colour changes, one a frame; empty for none.
        published: Whether to repeat the oversights that `Augmentation` names.
        shakes: Camera shakes, one a frame, where an image makes a clip; else empty.
    """

    source: Size
    steps: tuple[Step, ...]
    colours: tuple[Colour, ...] = ()
    published: bool = False
    shakes: tuple[Shake, ...] = ()

    def of_frame(self, index: int) -> "ClipTransform":
        """Return what happens to the geometry of one frame: of all shakes, its own."""
        if not self.shakes:
            return self
        return replace(self, shakes=(self.shakes[index],))

    @property
    def mirrored(self) -> bool:
        """Whether left and right changed places."""
        return any(isinstance(step, Mirror) for step in self.steps)

    @property
    def size(self) -> Size:
        """Height and width of the frames after."""
        size = self.source
        for step in self.steps:
            if not isinstance(step, Mirror):
                size = (step.height, step.width)
        return size
