"""What led to a number that is not finite: written down, and done again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sgmg.network.model import SgMg
from sgmg.training.losses import NonFiniteLossError, count_visible, normaliser
from sgmg.training.matcher import Targets
from sgmg.training.update import Share, answer

SHARES = "shares.pt"


def write_dump(
    folder: Path, network: SgMg, shares: Sequence[Share], *, keys: Sequence[str], precision: str
) -> None:
    """Write the weights and the clips of an update that failed, as a model folder.

    Args:
        folder: made if missing.
        network: before the update.
        shares: its clips, those of this process.
        keys: of their videos.
        precision: `no`, `bf16` or `fp16`.
    """
    network.save_pretrained(folder)
    plain = [vars(share) | {"targets": vars(share.to("cpu").targets)} for share in shares]
    torch.save({"shares": plain, "keys": list(keys), "precision": precision}, folder / SHARES)


def replay(folder: Path, device: torch.device) -> Iterator[str]:
    """Do a dumped update again, without the last step.

    Args:
        folder: written by `write_dump`.
        device: where.

    Yields:
        What each share gives, and the first part of the network whose output is not finite.

    Raises:
        ValueError: no dump is there.
    """
    if not (folder / SHARES).is_file():
        raise ValueError(f"{folder} has no {SHARES}: give a dump-step-NNNNNN folder of a run")
    saved = torch.load(folder / SHARES, map_location=device, weights_only=True)
    model = SgMg.from_pretrained(folder).to(device).train()
    shares = [Share(**it | {"targets": Targets(**it["targets"])}) for it in saved["shares"]]
    bad = watch(model)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(saved["precision"])
    visible = normaliser(count_visible([share.targets for share in shares]), len(shares))
    yield f"clips {', '.join(saved['keys'])}; precision {saved['precision']}"
    for share in shares:
        try:
            with torch.autocast(device.type, kind, enabled=kind is not None):
                _, terms = answer(model, share.to(device), visible)
            yield ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
            terms["total"].backward()
        except NonFiniteLossError as error:
            yield str(error)
    bad += [f"the gradient of {n}" for n, p in model.named_parameters() if not _finite(p.grad)]
    yield f"first not finite: {bad[0]}" if bad else "everything is finite here"


def watch(model: nn.Module) -> list[str]:
    """A list that fills with the modules whose output is not finite, in the order they ran."""
    bad: list[str] = []

    def hook(name: str) -> Any:
        def look(_module: nn.Module, _given: Any, made: Any) -> None:
            if not _finite(made):
                bad.append(f"the output of {name or 'the network'}")

        return look

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    return bad


def _finite(value: Any) -> bool:
    """Whether all tensors in a value are finite."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True
