"""Decoding of frames: one DALI graph for the CPU and one for the GPU.

On a CPU the graph decodes what a transform's crop keeps, and `reshape` takes the steps one by one.
On a GPU the graph makes all of the geometry in one resize from a region of interest. Colour,
normalisation and padding follow in `collate.py`, as DALI's own colour operators are slower on a
CPU.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import nvidia.dali as nvidia_dali
import torch
from torch import Tensor

from shards.stream.geometry import image_region
from shards.stream.reshape import reshape, source_part
from shards.stream.transform import ClipTransform

Feeds = dict[str, list[npt.NDArray[np.generic]]]

# DALI's stubs lag behind its options (seen on 2.4.0), so it is untyped here.
dali: Any = nvidia_dali


class DecodeError(RuntimeError):
    """DALI could not decode one of the images it was given."""


class Decoder(Protocol):
    """What a loader asks of a decoder of frames."""

    def decode(self, images: Sequence[bytes], transforms: Sequence[ClipTransform]) -> list[Tensor]:
        """Decode frames, each with the geometry of its transform: uint8 `[h, w, 3]`.

        Raises:
            DecodeError: If any image is broken; the decoder stays usable.
        """
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...


def _build_cpu_pipeline(*, max_frames: int, num_threads: int) -> Any:
    """Build the graph: encoded images and the rows and columns to decode -> uint8 `[h, w, 3]`."""
    fn = dali.fn
    types = dali.types
    pipeline = dali.Pipeline(
        batch_size=max_frames,
        num_threads=num_threads,
        device_id=None,
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    with pipeline:
        decoded = fn.decoders.image_slice(
            fn.external_source(name="images", dtype=types.UINT8, ndim=1),
            start=fn.external_source(name="start", dtype=types.INT32, ndim=1),
            end=fn.external_source(name="end", dtype=types.INT32, ndim=1),
            axes=[0, 1],
            device="cpu",
            output_type=types.RGB,
            # Masks are drawn on the stored pixels, so tags that turn a photograph are not obeyed.
            adjust_orientation=False,
        )
        pipeline.set_outputs(decoded)
    pipeline.build()
    return pipeline


def _build_gpu_pipeline(*, max_frames: int, num_threads: int, device_id: int) -> Any:
    """Build the graph: encoded images, region of interest and new size -> uint8 `[h, w, 3]`."""
    fn = dali.fn
    types = dali.types
    pipeline = dali.Pipeline(
        batch_size=max_frames,
        num_threads=num_threads,
        device_id=device_id,
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    with pipeline:
        start = fn.external_source(name="start", dtype=types.FLOAT, ndim=1)
        end = fn.external_source(name="end", dtype=types.FLOAT, ndim=1)
        size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
        decoded = fn.decoders.image(
            fn.external_source(name="images", dtype=types.UINT8, ndim=1),
            device="mixed",
            output_type=types.RGB,
            adjust_orientation=False,  # as on the CPU
        )
        resized = fn.resize(
            decoded,
            roi_start=start,
            roi_end=end,
            size=size,
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        pipeline.set_outputs(resized)
    pipeline.build()
    return pipeline


class FrameDecoder:
    """Encoded frames to augmented pixels; safe for several threads on the CPU.

    Args:
        device: "cpu", or "mixed": read on the CPU, decode and go on on torch's current GPU.
        threads: Number of DALI's threads.
        max_frames: Most frames of one call.

    Raises:
        ValueError: If the device is unknown or there is no GPU.
    """

    def __init__(self, *, device: Literal["cpu", "mixed"], threads: int, max_frames: int) -> None:
        """Check the device; DALI starts with the first call."""
        if device not in ("cpu", "mixed"):
            raise ValueError(f'device must be "cpu" or "mixed", not {device!r}')
        if device == "mixed" and not torch.cuda.is_available():
            raise ValueError('device="mixed" needs a CUDA GPU and there is none; use device="cpu"')
        self._device = device
        self._device_id = torch.cuda.current_device() if device == "mixed" else None
        self._threads = threads
        self._max_frames = max_frames
        self._pipeline: Any = None  # of DALI, untyped
        # DALI's last output, untyped: a GPU may still read the tensors that were handed out of it.
        self._output: Any = None
        self._lock = threading.Lock()

    def decode(self, images: Sequence[bytes], transforms: Sequence[ClipTransform]) -> list[Tensor]:
        """Decode frames, each with the geometry of its transform.

        Args:
            images: Encoded JPEG or PNG.
            transforms: One a frame.

        Returns:
            uint8 `[h, w, 3]` tensors, on the GPU if decoded there; valid until the next call there.

        Raises:
            DecodeError: If any image is broken; the decoder stays usable.
        """
        if self._device == "cpu":
            pixels = self._run(_cpu_feeds(images, transforms))
            return [
                reshape(image, transform)
                for image, transform in zip(pixels, transforms, strict=True)
            ]
        # On a GPU the graph does the geometry. Only a shaken image comes as it is: its steps
        # follow in `reshape`, and the others need nothing more there.
        graph_transforms = []
        later_transforms = []
        for transform in transforms:
            without_steps = replace(transform, steps=())
            if transform.shakes:
                graph_transforms.append(without_steps)
                later_transforms.append(transform)
            else:
                graph_transforms.append(transform)
                later_transforms.append(without_steps)
        pixels = self._run(_gpu_feeds(images, graph_transforms))
        return [
            reshape(image, transform)
            for image, transform in zip(pixels, later_transforms, strict=True)
        ]

    def _run(self, feeds: Feeds) -> list[Tensor]:
        """Run the graph once; a graph that failed is built anew by the next call."""
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._build_pipeline()
            try:
                for name, arrays in feeds.items():
                    self._pipeline.feed_input(name, arrays)
                (self._output,) = self._pipeline.run()
            except RuntimeError as error:
                self.close()
                raise DecodeError(_reason(error)) from error
            return [torch.utils.dlpack.from_dlpack(frame) for frame in self._output]

    def _build_pipeline(self) -> Any:
        """Build the graph of this device."""
        if self._device_id is None:
            return _build_cpu_pipeline(max_frames=self._max_frames, num_threads=self._threads)
        return _build_gpu_pipeline(
            max_frames=self._max_frames,
            num_threads=self._threads,
            device_id=self._device_id,
        )

    def close(self) -> None:
        """Free DALI's threads and memory; the next call would start anew."""
        self._pipeline = None
        self._output = None


def _cpu_feeds(images: Sequence[bytes], transforms: Sequence[ClipTransform]) -> Feeds:
    """Make the inputs of the CPU's graph; rows and columns are whole numbers."""
    regions = [source_part(transform) for transform in transforms]
    return {
        "images": [np.frombuffer(image, np.uint8) for image in images],
        "start": [np.array(region.start, np.int32) for region in regions],
        "end": [np.array(region.end, np.int32) for region in regions],
    }


def _gpu_feeds(images: Sequence[bytes], transforms: Sequence[ClipTransform]) -> Feeds:
    """Make the inputs of the GPU's graph."""
    regions = [image_region(transform) for transform in transforms]
    return {
        "images": [np.frombuffer(image, np.uint8) for image in images],
        "size": [np.array(transform.size, np.float32) for transform in transforms],
        "start": [np.array(region.start, np.float32) for region in regions],
        "end": [np.array(region.end, np.float32) for region in regions],
    }


def _reason(error: RuntimeError) -> str:
    """Find the line of DALI's long message that says what failed."""
    lines = str(error).splitlines()
    # DALI 2.4.0 wraps the reason in lines about its operators.
    for line in lines:
        if "fail" in line.lower():
            return line
    return lines[0] if lines else "unknown"
