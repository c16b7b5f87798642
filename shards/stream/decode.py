"""Pixels: one DALI graph for the CPU and the GPU, and the colours in closed form behind it.

On a CPU the graph decodes what a record's crop keeps, and torch's resize of bytes does the steps
one by one: it takes less than half of the time of DALI's and is nearer to Pillow's. On a GPU the
graph makes all of the geometry in one resize from a region of interest. Colour, normalisation and
padding follow in torch, as DALI's own colour operators are slower on a CPU.
"""

import collections
import contextlib
import math
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import nvidia.dali as nvidia_dali
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_hue

from shards.stream.camera_shake import source_points
from shards.stream.transform import Colour, Crop, Mirror, Record, Resize, Shake, Size, image_region

dali: Any = nvidia_dali  # its stubs lag behind its options
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class DecodeError(RuntimeError):
    """DALI could not decode one of the images it was given."""


def _build_pipeline(device: str, **options: Any) -> Any:
    """The graph: encoded images and the part of them that is wanted -> uint8 `[h, w, 3]`."""
    fn, types = dali.fn, dali.types
    pipeline = dali.Pipeline(exec_dynamic=True, prefetch_queue_depth=1, **options)
    with pipeline:
        names = ("start", "end") if device == "cpu" else ("start", "end", "size")
        place = types.INT32 if device == "cpu" else types.FLOAT
        images = fn.external_source(name="images", dtype=types.UINT8, ndim=1)
        given = [fn.external_source(name=name, dtype=place, ndim=1) for name in names]
        form = {"device": device, "output_type": types.RGB, "adjust_orientation": False}
        if device == "cpu":
            part = {"start": given[0], "end": given[1], "axes": [0, 1]}
            decoded = fn.decoders.image_slice(images, **part, **form)
        else:
            part = {"roi_start": given[0], "roi_end": given[1], "size": given[2]}
            decoded = fn.decoders.image(images, **form)
            decoded = fn.resize(decoded, **part, interp_type=types.INTERP_LINEAR, antialias=True)
        pipeline.set_outputs(decoded)
    pipeline.build()
    return pipeline


def source_part(record: Record) -> tuple[tuple[float, float], tuple[float, float]]:
    """First and last corner (y, x) of what `reshape` needs: all, or what the first crop keeps."""
    height, width = record.source
    rows, columns, mirrored = slice(0, height), slice(0, width), False
    for step, after in pairwise((*record.steps, Mirror())):
        if not isinstance(step, Mirror):
            if isinstance(step, Resize) and isinstance(after, Crop) and not record.shakes:
                rows, _, _ = find_part(height, step.height, after.top, after.height)
                columns, _, _ = find_part(width, step.width, after.left, after.width)
            break
        mirrored = not mirrored
    if mirrored:
        columns = slice(width - columns.stop, width - columns.start)
    return (rows.start, columns.start), (rows.stop, columns.stop)


def reshape(image: Tensor, record: Record) -> Tensor:
    """Make a record's geometry step by step, as Pillow would.

    Args:
        image: `[H, W, 3]` uint8, or the `source_part` of it.
        record: What happens to it.

    Returns:
        `[h, w, 3]` uint8; may be a view of `image`.
    """
    if record.shakes:
        image = shake_image(image, record.shakes[0])
    size = record.source
    for step, after in pairwise((*record.steps, Mirror())):
        if isinstance(step, Mirror):
            image = image.flip(1)
            continue
        if isinstance(step, Resize):
            image = resize_part(image, size, step, after if isinstance(after, Crop) else None)
        elif image.shape[:2] != (step.height, step.width):  # else a resize has cropped, too
            image = image[step.top :, step.left :][: step.height, : step.width]
        size = (step.height, step.width)
    return image


def resize_part(image: Tensor, old: Size, resize: Resize, crop: Crop | None) -> Tensor:
    """Resize `[H, W, 3]` of this old size, or what is there of it, but make only what is kept."""
    size = (resize.height, resize.width)
    if crop is None and size == old:
        return image
    crop = crop or Crop(0, 0, *size)
    rows, new_height, kept_rows = find_part(old[0], size[0], crop.top, crop.height)
    columns, new_width, kept_columns = find_part(old[1], size[1], crop.left, crop.width)
    part = (image[rows, columns] if image.shape[:2] == old else image).contiguous()
    part = part[None].permute(0, 3, 1, 2)  # with these strides, not those of a [None] behind
    part = part.float() if part.is_cuda else part  # no resize of bytes there
    scales = (size[0] / old[0], size[1] / old[1])
    # what `interpolate` calls, which takes a size or scales, not both
    part = torch.ops.aten._upsample_bilinear2d_aa(part, (new_height, new_width), False, *scales)
    part = part[0, :, kept_rows, kept_columns].permute(1, 2, 0)
    return part.round().clamp(0, 255).byte() if part.is_cuda else part


def find_part(old: int, new: int, start: int, length: int) -> tuple[slice, int, slice]:
    """What of one axis to read, what to make of it, what of that to keep.

    Reading begins where a new pixel begins with an old one, to 0.02 of an old pixel, and so far
    before the start that no kept pixel misses a part of its filter.

    Args:
        old: Pixels of the axis.
        new: Pixels after a resize of the whole axis.
        start: First new pixel that is wanted.
        length: Number of new pixels that are wanted.
    """
    scale = old / new
    reach = max(scale, 1.0)  # of the filter, in old pixels
    latest = max(start - math.ceil(reach / scale), 0)
    begin = next(i for i in range(latest, -1, -1) if abs(i * scale - round(i * scale)) < 0.02)
    first, last = round(begin * scale), min(math.ceil((start + length) * scale + reach), old)
    made = start + length - begin
    made += made == last - first  # equal sizes would not be resized at all
    return slice(first, last), made, slice(start - begin, start - begin + length)


def shake_image(image: Tensor, shake: Shake) -> Tensor:
    """Make a frame of a clip out of an image: uint8 `[H, W, 3]`, black beyond the image."""
    if shake == Shake():
        return image
    height, width = image.shape[:2]
    u, v = source_points(shake, (height, width))
    grid = torch.from_numpy(np.stack([2 * u / width - 1, 2 * v / height - 1], -1))
    frame = image.permute(2, 0, 1)[None].float()
    frame = F.grid_sample(frame, grid[None].to(frame), align_corners=False)[0]
    frame = (frame + shake.brightness).clamp(0, 255)
    if shake.hue or shake.saturation:
        frame = adjust_hue(frame / 255, shake.hue / 255) * 255
        high, low = frame.amax(0), frame.amin(0)
        saturation = ((high - low) / high.clamp(min=1)).clamp(min=1e-3)
        factor = (saturation + shake.saturation / 255).clamp(0, 1) / saturation
        frame = high - (high - frame) * factor
    if shake.blur:
        reach = shake.blur // 2
        line = torch.linspace(-reach, reach, 4 * shake.blur, dtype=torch.float64)
        along = (line * math.sin(shake.blur_angle), line * math.cos(shake.blur_angle))
        kernel = torch.zeros(shake.blur, shake.blur)
        cells = [it.round().long() + reach for it in along]
        kernel.index_put_(tuple(cells), torch.tensor(1 / len(line)), accumulate=True)
        padded = F.pad(frame[:, None], [reach] * 4, mode="replicate")
        frame = F.conv2d(padded, kernel.to(frame)[None, None])[:, 0]
    return frame.round().clamp(0, 255).byte().permute(1, 2, 0)


def make_team(threads: int) -> ThreadPoolExecutor:
    """Threads for torch's work on frames, each with a torch of one thread, all started."""
    before, meet = torch.get_num_threads(), threading.Barrier(threads)
    team = ThreadPoolExecutor(threads, "shards-frames", initializer=work_alone)
    list(team.map(lambda _: meet.wait(), range(threads)))
    torch.set_num_threads(before)
    return team


def work_alone() -> None:
    """Give this thread a torch of one thread.

    An OpenMP team of its own would make libgomp's other threads sleep instead of spin: training
    takes twice as long. Asking first makes torch set up this thread, which would undo the 1 later.
    It becomes the default of threads that start later: set that back from another thread.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


class FrameDecoder:
    """Encoded frames to augmented pixels; safe for several threads on the CPU.

    Args:
        device: "cpu", or "mixed": read on the CPU, decode and go on on torch's current GPU.
        threads: Of DALI.
        max_frames: Most frames of one call.
    """

    def __init__(self, *, device: Literal["cpu", "mixed"], threads: int, max_frames: int) -> None:
        """Check; DALI starts with the first call."""
        if device not in ("cpu", "mixed"):
            raise ValueError(f'device must be "cpu" or "mixed", not {device!r}')
        if device == "mixed" and not torch.cuda.is_available():
            raise ValueError('device="mixed" needs a CUDA GPU and there is none; use device="cpu"')
        self._options = {
            "batch_size": max_frames,
            "num_threads": threads,
            "device_id": torch.cuda.current_device() if device == "mixed" else None,
        }
        self._device = device
        self._pipeline: Any = None
        self._output: Any = None  # a GPU may still read what was handed out last
        self._alone = threading.Lock()

    def decode(self, images: Sequence[bytes], records: Sequence[Record]) -> list[Tensor]:
        """Decode frames, each with its record's geometry.

        Args:
            images: Encoded JPEG or PNG.
            records: One a frame.

        Returns:
            uint8 `[h, w, 3]` tensors, on the GPU if decoded there; valid until the next call there.

        Raises:
            DecodeError: If any image is broken; the decoder stays usable.
        """
        feeds: dict[str, list[Any]] = {"images": [np.frombuffer(it, np.uint8) for it in images]}
        if self._device == "cpu":
            regions, dtype = list(map(source_part, records)), "int32"
        else:
            # a shaken image comes as it is, the others need nothing more
            first = [replace(it, steps=()) if it.shakes else it for it in records]
            regions, dtype = list(map(image_region, first)), "float32"
            feeds["size"] = [np.array(record.size, np.float32) for record in first]
            records = [it if it.shakes else replace(it, steps=()) for it in records]
        for corner, name in enumerate(("start", "end")):
            feeds[name] = [np.array(region[corner], dtype) for region in regions]
        with self._alone:
            self._pipeline = self._pipeline or _build_pipeline(self._device, **self._options)
            try:
                for name, values in feeds.items():
                    self._pipeline.feed_input(name, values)
                (self._output,) = self._pipeline.run()
            except RuntimeError as error:
                self.close()
                reasons = [line for line in str(error).splitlines() if "fail" in line.lower()]
                raise DecodeError((reasons or str(error).splitlines() or ["unknown"])[0]) from error
            found = [torch.utils.dlpack.from_dlpack(it) for it in self._output]
        return list(map(reshape, found, records))

    def close(self) -> None:
        """Free DALI's threads and memory; the next call would start anew."""
        self._pipeline = self._output = None


def recolour(frame: Tensor, colour: Colour, *, wrap: bool = False) -> Tensor:
    """Distort one frame's colours, in place; its channels must be in their new order already.

    Contrast c and saturation s in HSV are together `c s x + c (1 - s) max(x)` with the maximum over
    the channels, as saturation keeps the maximum V and moves a channel x to V - s (V - x).

    Args:
        frame: `[3, h, w]` float32, grey levels 0 to 255.
        colour: What to do.
        wrap: Let contrast and saturation wrap around, in whole grey levels, as published.

    Returns:
        The frame, clipped to 0 to 255 and not rounded, unless it wraps.
    """
    channels = frame.unbind()
    for channel in channels if colour.brightness else ():  # one by one stays in the caches
        channel.add_(colour.brightness).clamp_(0.0, 255.0)
    changed = not colour.contrast == colour.saturation == 1.0
    scale = colour.contrast * colour.saturation
    if colour.saturation != 1.0:
        highest = torch.maximum(channels[0], channels[1])
        highest = torch.maximum(highest, channels[2], out=highest)
        highest.mul_(colour.contrast * (1.0 - colour.saturation))
    for channel in channels if changed else ():
        if colour.saturation != 1.0:
            torch.add(highest, channel, alpha=scale, out=channel)
        else:
            channel.mul_(scale)
        if not wrap:
            channel.clamp_(0.0, 255.0)
    return frame.trunc_().remainder_(256.0) if wrap else frame


class Collator:
    """Colours, normalises and pads.

    Memory of batches on the CPU is used again once nobody holds it: the operating system takes
    longer to hand out fresh pages than all the arithmetic here.
    """

    def __init__(self) -> None:
        """Start without memory."""
        self._free: collections.deque[npt.NDArray[np.float32]] = collections.deque()

    def __call__(
        self, pixels: Sequence[Tensor], records: Sequence[Record], num_frames: int, pad_to: int
    ) -> Tensor:
        """Make the frames of a batch.

        Args:
            pixels: B*T frames `[h, w, 3]` uint8.
            records: One a clip.
            num_frames: T.
            pad_to: Height and width become multiples of this, in pixels.

        Returns:
            `[B, T, 3, H, W]` float32, zero on padding.
        """
        height, width = (-(-max(r.size[i] for r in records) // pad_to) * pad_to for i in (0, 1))
        device = pixels[0].device
        frames = self._take((len(records), num_frames, 3, height, width), device)
        shifts = [torch.tensor(-mean / scale) for mean, scale in zip(MEAN, DEVIATION, strict=True)]
        for number, (b, t) in enumerate(np.ndindex(frames.shape[:2])):
            record = records[b]
            h, w = record.size
            frames[b, t, :, h:] = 0.0
            frames[b, t, :, :h, w:] = 0.0
            frame = frames[b, t, :, :h, :w]
            colour = record.colours[t] if record.colours else Colour()
            planes, channels = pixels[number].unbind(-1), frame.unbind()
            for channel, source in zip(channels, colour.channels, strict=True):
                channel.copy_(planes[source])
            recolour(frame, colour, wrap=record.published)
            for channel, scale, shift in zip(channels, DEVIATION, shifts, strict=True):
                torch.add(shift, channel, alpha=1 / (255 * scale), out=channel)
        return frames

    def _take(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Memory with anything in it; comes back by itself when its last tensor is gone."""
        if device.type != "cpu":
            return torch.empty(shape, device=device)
        size = math.prod(shape)
        memory = np.empty(size, np.float32)  # costs nothing before it is written to
        with contextlib.suppress(IndexError):  # another thread may take the last
            memory = max(self._free.popleft(), memory, key=len)
        lent = memory[:size]
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)
