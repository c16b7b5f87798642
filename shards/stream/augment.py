"""What may happen to a clip before it is learnt from, and the draw that decides it.

The draw is kept in a `Record`; what follows from it is in `record.py` and free of randomness.
"""

from dataclasses import dataclass, replace

from shards.stream.camera_shake import draw_shakes
from shards.stream.order import Draws
from shards.stream.transform import Colour, Crop, Mirror, Record, Resize, Size, Step

PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class Distortion:
    """How far colours may be distorted, frame by frame.

    Attributes:
        brightness: Largest shift, in grey levels.
        contrast: Largest relative change.
        saturation: Largest relative change.
        permutation: Probability that the channels change places.
        probability: Of each of the first three.
        alike: The same for all frames of a clip; published: each frame its own.
    """

    brightness: float = 32.0
    contrast: float = 0.2
    saturation: float = 0.2
    permutation: float = 0.2
    probability: float = 0.5
    alike: bool = False


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a clip. Sides are in pixels; empty `short_sides` keep the size.

    Attributes:
        short_sides: Lengths that the short side is resized to, one of them.
        max_side: The long side never exceeds this; None: no limit.
        crop: Probability of the way with a crop: resize to one of `crop_resize`, crop, resize to
            one of `crop_short_sides` and at most `crop_max_side`.
        crop_resize: Short sides before the crop.
        crop_sides: Smallest and largest side of the crop.
        crop_short_sides: Short sides after the crop.
        crop_max_side: Limit of the long side after the crop.
        mirror: Probability of mirroring left and right, words included.
        mirror_first: Mirror before the frame is resized and cropped, as published for A2D.
        distortion: Of colours; None: none.
        lower: Lower-case the expression and squeeze its blanks.
        shake: Make clips of images by moving the camera, as published for joint training.
        published: With what looks like oversights of the published code: left and right swap inside
            of other words ("bright" becomes "bleft"), colours beyond 0 to 255 wrap around, and
            a mirrored frame without the object has its empty box on the right.
    """

    short_sides: tuple[int, ...] = ()
    max_side: int | None = None
    crop: float = 0.0
    crop_resize: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)
    crop_short_sides: tuple[int, ...] = ()
    crop_max_side: int | None = None
    mirror: float = 0.0
    mirror_first: bool = False
    distortion: Distortion | None = None
    lower: bool = False
    shake: bool = False
    published: bool = False

    @classmethod
    def video(cls) -> "Augmentation":
        """As published for Ref-YouTube-VOS and Ref-DAVIS17."""
        sides = (288, 320, 352, 392, 416, 448, 480, 512)
        return cls(
            short_sides=sides, max_side=640, crop=0.5, crop_short_sides=sides, crop_max_side=640,
            mirror=0.5, distortion=Distortion(), lower=True,
        )  # fmt: skip

    @classmethod
    def a2d(cls) -> "Augmentation":
        """As published for A2D-Sentences: as for other videos, mirrored before the crop."""
        return replace(cls.video(), mirror_first=True)

    @classmethod
    def joint(cls) -> "Augmentation":
        """As for other videos; images become clips."""
        return replace(cls.video(), shake=True)

    @classmethod
    def image(cls) -> "Augmentation":
        """As published for RefCOCO, RefCOCO+ and RefCOCOg."""
        return cls(
            short_sides=tuple(range(480, 769, 32)), max_side=800, crop=0.5,
            crop_short_sides=(296, 328, 360, 392, 416, 448, 480, 512), crop_max_side=640,
            mirror=0.5,
        )  # fmt: skip

    @classmethod
    def none(cls) -> "Augmentation":
        """Frames as they are."""
        return cls()

    @classmethod
    def synthetic(cls) -> "Augmentation":
        """Light changes for small frames: colours stay nameable, sizes and sides what they are."""
        return cls(mirror=0.5, distortion=Distortion(16.0, 0.1, 0.1, 0.0, alike=True))


def resized(height: int, width: int, short: int, longest: int | None) -> Size:
    """Size by the published rule: short side `short`, less if the long side passed `longest`."""
    low, high = min(height, width), max(height, width)
    if longest is not None and high / low * short > longest:
        short = round(longest * low / high)
    if low == short:
        return height, width
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def draw_augmentation(
    augmentation: Augmentation, size: Size, num_frames: int, draws: Draws, *, image: bool = False
) -> Record:
    """Decide all that is to happen to one clip.

    Args:
        augmentation: What may happen.
        size: Height and width of its frames, in pixels.
        num_frames: T.
        draws: Where randomness comes from.
        image: Whether all frames are one image.
    """
    shakes = draw_shakes(num_frames, draws) if image and augmentation.shake else ()
    steps = draw_steps(augmentation, size, draws)
    colours = draw_colours(augmentation, num_frames, draws)
    return Record(size, steps, colours, augmentation.published, shakes)


def draw_steps(augmentation: Augmentation, size: Size, draws: Draws) -> tuple[Step, ...]:
    """Decide the changes of geometry, the same for all frames of size (height, width)."""
    if augmentation.mirror_first:
        return _draw_mirror(augmentation, draws) + _draw_size(augmentation, size, draws)
    return _draw_size(augmentation, size, draws) + _draw_mirror(augmentation, draws)


def draw_colours(augmentation: Augmentation, num_frames: int, draws: Draws) -> tuple[Colour, ...]:
    """Decide the colour changes, one a frame; empty for none."""
    if augmentation.distortion is None:
        return ()
    if augmentation.distortion.alike:
        return (_draw_colour(augmentation.distortion, draws),) * num_frames
    return tuple(_draw_colour(augmentation.distortion, draws) for _ in range(num_frames))


def _draw_mirror(augmentation: Augmentation, draws: Draws) -> tuple[Step, ...]:
    """Mirror or not."""
    return (Mirror(),) if draws.chance(augmentation.mirror) else ()


def _draw_size(augmentation: Augmentation, size: Size, draws: Draws) -> tuple[Step, ...]:
    """Resize, or resize, crop and resize."""
    if not augmentation.short_sides:
        return ()
    if draws.chance(1.0 - augmentation.crop):
        short = draws.choice(augmentation.short_sides)
        return (Resize(*resized(*size, short, augmentation.max_side)),)
    before = Resize(*resized(*size, draws.choice(augmentation.crop_resize), None))
    smallest, largest = augmentation.crop_sides
    width = draws.integer(smallest, min(before.width, largest))
    height = draws.integer(smallest, min(before.height, largest))
    top, left = draws.integer(0, before.height - height), draws.integer(0, before.width - width)
    short = draws.choice(augmentation.crop_short_sides)
    after = Resize(*resized(height, width, short, augmentation.crop_max_side))
    return before, Crop(top, left, height, width), after


def _draw_colour(distortion: Distortion, draws: Draws) -> Colour:
    """Decide the colour change of one frame.

    Published, contrast comes before or after saturation with equal chance. On real numbers both
    orders give the same colours, so only the order of the draws is kept.
    """

    def change(amount: float, centre: float) -> float:
        if not draws.chance(distortion.probability):
            return centre
        return draws.uniform(centre - amount, centre + amount)

    brightness = change(distortion.brightness, 0.0)
    if draws.chance(0.5):
        contrast = change(distortion.contrast, 1.0)
        saturation = change(distortion.saturation, 1.0)
    else:
        saturation = change(distortion.saturation, 1.0)
        contrast = change(distortion.contrast, 1.0)
    permute = draws.chance(distortion.permutation)
    channels = draws.choice(PERMUTATIONS) if permute else (0, 1, 2)
    return Colour(brightness, contrast, saturation, channels)
