"""What may happen to a clip before it is learnt from, and the draws that decide it.

The draws are kept in a `ClipTransform`; what follows from it is free of randomness.
"""

from dataclasses import dataclass, replace

from shards.stream.camera_shake import draw_shakes
from shards.stream.order import Draws
from shards.stream.transform import (
    ClipTransform,
    Colour,
    Crop,
    Mirror,
    Resize,
    Size,
    Step,
)

# orders of red, green and blue, as published: the first is drawn as often as the others
PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class Distortion:
    """How far colours may be distorted, frame by frame.

    Attributes:
        brightness: Largest shift, in grey levels.
        contrast: Largest relative change.
        saturation: Largest relative change.
        permutation: Probability that the channels change places.
        probability: Probability of each of the first three.
        alike: All frames of a clip change alike; published: each frame by its own draws.
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

    Names of fields are part of the hash that ties a saved state of a loader to its settings.

    Attributes:
        short_sides: Lengths that the short side is resized to, one of them.
        max_side: The long side never exceeds this; None: no limit.
        crop: Probability of the way with a crop: resize to one of `crop_resize`, crop, resize to
            one of `crop_short_sides` and at most `crop_max_side`.
        crop_resize: Short sides before the crop.
        crop_sides: Smallest and largest side of the crop.
        crop_short_sides: Short sides after the crop.
        crop_max_side: Limit of the long side after the crop.
        mirror: Probability of mirroring left and right, in the expression as well.
        mirror_first: Mirror before the frame is resized and cropped, as published for A2D.
        distortion: How far colours change; None: not at all.
        lower: Lower-case the expression and squeeze its blanks.
        shake: Make clips of images by moving the camera, as published for joint training.
        published: Repeat what looks like oversights of the published code: left and right swap
            inside of other words ("bright" becomes "bleft"), colours beyond 0 to 255 wrap around,
            and a mirrored frame without the object has its empty box on the right.
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
        short_sides = (288, 320, 352, 392, 416, 448, 480, 512)
        return cls(
            short_sides=short_sides,
            max_side=640,
            crop=0.5,
            crop_short_sides=short_sides,
            crop_max_side=640,
            mirror=0.5,
            distortion=Distortion(),
            lower=True,
        )

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
            short_sides=tuple(range(480, 769, 32)),
            max_side=800,
            crop=0.5,
            crop_short_sides=(296, 328, 360, 392, 416, 448, 480, 512),
            crop_max_side=640,
            mirror=0.5,
        )

    @classmethod
    def none(cls) -> "Augmentation":
        """Frames as they are."""
        return cls()

    @classmethod
    def synthetic(cls) -> "Augmentation":
        """Light changes for small frames: colours stay nameable, sizes and sides what they are."""
        distortion = Distortion(
            brightness=16.0,
            contrast=0.1,
            saturation=0.1,
            permutation=0.0,
            alike=True,
        )
        return cls(mirror=0.5, distortion=distortion)


def size_after_resize(height: int, width: int, short_side: int, max_side: int | None) -> Size:
    """Compute a new size by the published rule, which rounds down the long side.

    Args:
        height: Old height in pixels.
        width: Old width in pixels.
        short_side: New length of the short side, less if the long side passed `max_side`.
        max_side: Limit of the long side; None: no limit.
    """
    low = min(height, width)
    high = max(height, width)
    if max_side is not None and high / low * short_side > max_side:
        short_side = round(max_side * low / high)
    if low == short_side:
        return height, width
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def draw_augmentation(
    augmentation: Augmentation, size: Size, num_frames: int, draws: Draws, *, image: bool = False
) -> ClipTransform:
    """Decide all that is to happen to one clip.

    Args:
        augmentation: What may happen.
        size: Height and width of its frames, in pixels.
        num_frames: T.
        draws: The random stream of this clip.
        image: Whether all frames are one image.
    """
    # The order of the draws decides clips: shakes, geometry, colours.
    shakes = draw_shakes(num_frames, draws) if image and augmentation.shake else ()
    steps = draw_steps(augmentation, size, draws)
    colours = draw_colours(augmentation, num_frames, draws)
    return ClipTransform(
        source=size,
        steps=steps,
        colours=colours,
        published=augmentation.published,
        shakes=shakes,
    )


def draw_steps(augmentation: Augmentation, size: Size, draws: Draws) -> tuple[Step, ...]:
    """Decide the changes of geometry, the same for all frames of size (height, width)."""
    if augmentation.mirror_first:
        mirror_steps = _draw_mirror(augmentation, draws)
        size_steps = _draw_size(augmentation, size, draws)
        return mirror_steps + size_steps
    size_steps = _draw_size(augmentation, size, draws)
    mirror_steps = _draw_mirror(augmentation, draws)
    return size_steps + mirror_steps


def draw_colours(augmentation: Augmentation, num_frames: int, draws: Draws) -> tuple[Colour, ...]:
    """Decide the colour changes, one a frame; empty for none."""
    distortion = augmentation.distortion
    if distortion is None:
        return ()
    if distortion.alike:
        return (_draw_colour(distortion, draws),) * num_frames
    return tuple(_draw_colour(distortion, draws) for _ in range(num_frames))


def _draw_mirror(augmentation: Augmentation, draws: Draws) -> tuple[Step, ...]:
    """Decide whether to mirror."""
    return (Mirror(),) if draws.chance(augmentation.mirror) else ()


def _draw_size(augmentation: Augmentation, size: Size, draws: Draws) -> tuple[Step, ...]:
    """Decide on a resize, or on a resize, a crop and another resize."""
    if not augmentation.short_sides:
        return ()
    if draws.chance(1.0 - augmentation.crop):
        short_side = draws.choice(augmentation.short_sides)
        return (Resize(*size_after_resize(*size, short_side, augmentation.max_side)),)
    first_resize = Resize(*size_after_resize(*size, draws.choice(augmentation.crop_resize), None))
    smallest, largest = augmentation.crop_sides
    # Published, width is drawn before height, but top before left.
    width = draws.integer(smallest, min(first_resize.width, largest))
    height = draws.integer(smallest, min(first_resize.height, largest))
    top = draws.integer(0, first_resize.height - height)
    left = draws.integer(0, first_resize.width - width)
    crop = Crop(top=top, left=left, height=height, width=width)
    short_side = draws.choice(augmentation.crop_short_sides)
    last_resize = Resize(*size_after_resize(height, width, short_side, augmentation.crop_max_side))
    return first_resize, crop, last_resize


def _draw_colour(distortion: Distortion, draws: Draws) -> Colour:
    """Decide the colour change of one frame.

    Published, contrast comes before or after saturation with equal chance. On real numbers both
    orders give the same colours, so only the order of the draws is kept.
    """

    def draw_change(amount: float, centre: float) -> float:
        if not draws.chance(distortion.probability):
            return centre
        return draws.uniform(centre - amount, centre + amount)

    brightness = draw_change(distortion.brightness, 0.0)
    if draws.chance(0.5):
        contrast = draw_change(distortion.contrast, 1.0)
        saturation = draw_change(distortion.saturation, 1.0)
    else:
        saturation = draw_change(distortion.saturation, 1.0)
        contrast = draw_change(distortion.contrast, 1.0)
    channels = (0, 1, 2)
    if draws.chance(distortion.permutation):
        channels = draws.choice(PERMUTATIONS)
    return Colour(
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        channels=channels,
    )
