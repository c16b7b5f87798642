"""A CUDA device that computes shapes, types and devices only, to prove the GPU path without a GPU.

PyTorch's `FakeTensorMode` takes tensors of device "cuda" on any machine and raises where one
operation mixes devices. Values do not exist: reading one (`item`, `tolist`, `bool`) would stop the
device, so `ScalarReads` answers 1 and counts the readings. A backward pass needs a real GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class ScalarReads(TorchDispatchMode):
    """Answers each reading of a number with 1 or True, and counts it.

    Attributes:
        count: Readings so far; each waits for all kernels before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
            return args[0].dtype == torch.bool or 1
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_cuda() -> Iterator[ScalarReads]:
    """Tensors made inside hold no values; `torch.device("cuda")` exists, and so does autocast."""
    with ExitStack() as stack:
        # without a GPU autocast of "cuda" switches itself off (seen on torch 2.15)
        check = "torch.cuda.amp.common.amp_definitely_not_available"
        stack.enter_context(mock.patch(check, return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        # draws again while a value lies outside: without values, for ever
        drawing = "torch.nn.init._no_grad_trunc_normal_"
        stack.enter_context(mock.patch(drawing, lambda tensor, *_, **__: tensor))
        stack.enter_context(FakeTensorMode())
        yield stack.enter_context(ScalarReads())
