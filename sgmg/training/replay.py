"""What led to a number that is not finite: written down, and computed again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import torch
import tyro
from torch import Tensor, nn

from sgmg.network.model import SgMg
from sgmg.training.losses import NonFiniteLossError, count_visible, normaliser
from sgmg.training.targets import Targets
from sgmg.training.update import MicroBatch, forward_and_loss

MICRO_BATCHES = "micro_batches.pt"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # names of `accelerate launch`


class Dump(TypedDict):
    """Content of `micro_batches.pt`; `precision` is `no`, `bf16` or `fp16`."""

    micro_batches: list[MicroBatch]
    precision: str


def replay(
    dump: Annotated[Path, tyro.conf.Positional],
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Compute an update again that ended training, up to the gradients.

    Prints the loss terms of each micro batch, and the first part of the network whose output or
    gradient is not finite.

    Args:
        dump: folder dump-step-NNNNNN of a run.
        device: where the network runs.
    """
    for line in replay_lines(dump, torch.device(device)):
        print(line)  # noqa: T201


def write_dump(
    folder: Path, network: SgMg, micro_batches: Sequence[MicroBatch], *, precision: str
) -> None:
    """Write the weights and the clips of an update that failed, as a model folder.

    Args:
        folder: Made if missing.
        network: As it was before the update.
        micro_batches: The update's clips on this process.
        precision: `no`, `bf16` or `fp16`.
    """
    network.save_pretrained(folder)
    dump: Dump = {
        "micro_batches": [micro_batch.to("cpu") for micro_batch in micro_batches],
        "precision": precision,
    }
    torch.save(dump, folder / MICRO_BATCHES)


def replay_lines(folder: Path, device: torch.device) -> Iterator[str]:
    """Compute the gradients of a dumped update again.

    Args:
        folder: Written by `write_dump`.
        device: Where to compute.

    Yields:
        What each micro batch gives, and the first part of the network whose output is not finite.

    Raises:
        ValueError: No dump is there.
    """
    path = folder / MICRO_BATCHES
    if not path.is_file():
        raise ValueError(f"{folder} has no {path.name}: give a dump-step-NNNNNN folder of a run")
    # A dump may come from somebody else: nothing but tensors and these two records is loaded.
    with torch.serialization.safe_globals([MicroBatch, Targets]):
        dump: Dump = torch.load(path, map_location=device, weights_only=True)
    micro_batches = dump["micro_batches"]
    model = SgMg.from_pretrained(folder).to(device).train()
    non_finite = watch_outputs(model)
    dtype = PRECISIONS.get(dump["precision"])
    visible = count_visible([micro_batch.targets for micro_batch in micro_batches])
    num_visible = normaliser(visible, len(micro_batches))
    keys = [key for micro_batch in micro_batches for key in micro_batch.keys]
    yield f"clips {', '.join(keys)}; precision {dump['precision']}"
    for micro_batch in micro_batches:
        try:
            # As Accelerate does it in training: only the forward pass knows of the precision.
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                _, terms = forward_and_loss(model, micro_batch.to(device), num_visible)
            yield ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
            terms["total"].backward()
        except NonFiniteLossError as error:
            yield str(error)
    # Modules ran before gradients were computed: what they found comes first.
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter.grad):
            non_finite.append(f"the gradient of {name}")
    yield f"first not finite: {non_finite[0]}" if non_finite else "everything is finite here"


def watch_outputs(model: nn.Module) -> list[str]:
    """Return a list that fills with modules whose output is not finite, in the order they ran."""
    non_finite: list[str] = []

    def make_hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not _is_finite(output):
                non_finite.append(f"the output of {name or 'the network'}")

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(make_hook(name))
    return non_finite


def _is_finite(value: object) -> bool:
    """Whether all tensors in a value are finite; records of the network are not looked into."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, list | tuple):
        return all(_is_finite(entry) for entry in value)
    return True
