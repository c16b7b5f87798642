"""Train SgMg on shard sets.

    accelerate launch train.py synthetic-pretrain --data.shards demo/shards/images-train
    accelerate launch train.py synthetic --data.shards demo/shards/videos-train --init demo/pretrain
    accelerate launch train.py ref-youtube-vos --data.shards s3://bucket/ref-youtube-vos-train

A run folder holds `losses.csv`, `pictures/`, the tracker's files and `step-NNNNNN/` checkpoints; each of
these is a model folder for `evaluate.py` and holds what `--resume auto` needs to go on exactly.
"""

import contextlib
import csv
import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from sgmg.optim import parameter_groups
from sgmg.text_encoder import tiny_text_config, train_tokenizer
from shards.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from torch import Tensor
from tqdm import tqdm

from sgmg import SgMg, SgMgConfig
from sgmg.losses import Criterion, NonFiniteLossError, normaliser
from sgmg.matcher import Matcher, Targets
from sgmg.outputs import QueryOutput
from sgmg.overlay import draw_masks, sheet
from shards import Batch, ClipLoader, ShardError, ShardSet
from shards.clips import ClipSampling


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a step sees."""

    shards: tuple[str, ...] = ()
    """Shard sets: folders or URLs; several are mixed by size."""
    vocabulary: tuple[str, ...] = ()
    """More shard sets whose words the tokenizer of a small text encoder should know."""
    style: Literal["image", "youtube-vos", "davis", "synthetic-image", "synthetic"] = "youtube-vos"
    """Clip sampling and augmentation, as published or as the synthetic data wants it."""
    num_frames: int = 5
    """Frames T of a clip."""
    batch_size: int = 2
    """Clips of one update over all processes."""
    decoder: Literal["cpu", "mixed"] = "cpu"
    """Where DALI decodes; `mixed` needs a GPU."""
    threads: int = 2
    """DALI's threads on each process."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How weights move."""

    lr: float = 1e-4
    """AdamW rate of everything but backbone and text encoder, at `reference_batch`."""
    backbone_lr: float = 5e-5
    text_lr: float = 1e-5
    weight_decay: float = 5e-4
    clip_norm: float = 0.1
    epochs: int = 6
    steps: int | None = None
    """Length of the run in updates; overrides `epochs`."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    drops: tuple[int, ...] = ()
    """Epochs after which the rate falls tenfold (`step`)."""
    warmup: int = 0
    """Updates of linear warm-up."""
    reference_batch: int = 8
    """Rates are scaled by batch_size / reference_batch."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage of training."""

    model: SgMgConfig = field(default_factory=SgMgConfig)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    out: Path = Path("runs/run")
    """Run folder."""
    init: Path | None = None
    """Model folder, checkpoint or run to start from; its network settings are used."""
    resume: str | None = None
    """`auto` for the newest checkpoint of `out`, or a checkpoint folder."""
    seed: int = 0
    save_every: int = 1000
    """Updates between checkpoints; the last update is always saved."""
    keep: int = 2
    """Checkpoints kept."""
    picture_every: int = 500
    """Updates between pictures of predictions; 0 for none."""
    tracker: str = "tensorboard"
    """Name of an Accelerate tracker, or `none`."""


TINY = SgMgConfig(
    backbone="motion_convnet",
    text_model=None,
    hidden=64,
    heads=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward=128,
    queries=1,
    dropout=0.0,
    drop_path=0.0,
)
TINY_OPTIM = Optim(
    lr=1e-3,
    backbone_lr=1e-3,
    text_lr=1e-3,
    weight_decay=1e-4,
    clip_norm=1.0,
    warmup=100,
    reference_batch=8,
)
RECIPES: dict[str, tuple[str, Recipe]] = {
    "synthetic-pretrain": (
        "moving shapes, single images: a model of demo size from nothing, on a CPU",
        Recipe(
            model=TINY,
            data=Data(style="synthetic-image", num_frames=1, batch_size=8, threads=1),
            optim=dataclasses.replace(TINY_OPTIM, steps=900, schedule="constant"),
        ),
    ),
    "synthetic": (
        "moving shapes, clips: fine-tunes the above",
        Recipe(
            model=TINY,
            data=Data(style="synthetic", num_frames=3, batch_size=4, threads=1),
            optim=dataclasses.replace(TINY_OPTIM, steps=900, schedule="cosine", reference_batch=4),
        ),
    ),
    "pretrain-refcoco": (
        "RefCOCO, RefCOCO+ and RefCOCOg as one-frame clips, published numbers",
        Recipe(
            data=Data(style="image", num_frames=1, batch_size=4),
            optim=Optim(epochs=11, drops=(8, 10), reference_batch=16),
        ),
    ),
    "ref-youtube-vos": (
        "Ref-YouTube-VOS from a pretrained checkpoint, text encoder frozen, published numbers",
        Recipe(
            model=SgMgConfig(freeze_text=True),
            data=Data(style="youtube-vos"),
            optim=Optim(epochs=6, drops=(3, 5)),
        ),
    ),
    "ref-davis17": (
        "fine-tune on Ref-DAVIS17 sequences",
        Recipe(
            model=SgMgConfig(freeze_text=True),
            data=Data(style="davis"),
            optim=Optim(epochs=6, drops=(3, 5)),
        ),
    ),
}


def main() -> None:
    """Parse, build, train, save."""
    recipe = parse_recipe(sys.argv[1:])
    accelerator = start(recipe)
    with open_loader(recipe, accelerator) as loader:
        run = Run(recipe, accelerator, loader)
        run.announce()
        for batch in run.batches():
            terms, mask_logits = train_step(run, batch)
            run.record(batch, terms, mask_logits)
            if run.step % recipe.save_every == 0 or run.step == run.total_steps:
                run.save()
        accelerator.end_training()


def parse_recipe(arguments: list[str]) -> Recipe:
    """The named recipe with the overrides of the command line."""
    name = next((a for a in arguments if not a.startswith("-")), None)
    asks_help = name is None and {"-h", "--help"} & set(arguments)
    if name not in RECIPES and not asks_help:
        stop(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    recipe = tyro.extras.overridable_config_cli(RECIPES, args=arguments)
    if not recipe.data.shards:
        stop("no data; name one or more shard sets with --data.shards FOLDER_OR_URL ...")
    return recipe


def stop(reason: str) -> NoReturn:
    """Leave with one line that says what is wrong and what to do."""
    sys.exit(f"train.py: {reason}")


def start(recipe: Recipe) -> Accelerator:
    """Seed everything, make the run folder, open the tracker."""
    set_seed(recipe.seed)
    tracker = None if recipe.tracker == "none" else recipe.tracker
    accelerator = Accelerator(log_with=tracker, project_dir=recipe.out)
    if recipe.data.batch_size % accelerator.num_processes:
        stop(
            f"--data.batch-size {recipe.data.batch_size} does not divide among "
            f"{accelerator.num_processes} processes; choose a multiple"
        )
    if accelerator.is_main_process:
        recipe.out.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("tracker")
    return accelerator


SAMPLING: dict[str, Callable[[], ClipSampling]] = {
    "image": ClipSampling.image,
    "youtube-vos": ClipSampling.youtube_vos,
    "davis": ClipSampling.davis,
    "synthetic-image": ClipSampling.image,
    "synthetic": ClipSampling.synthetic,
}
AUGMENTATION: dict[str, Callable[[], Augmentation]] = {
    "image": Augmentation.image,
    "youtube-vos": Augmentation.video,
    "davis": Augmentation.video,
    "synthetic-image": Augmentation.synthetic,
    "synthetic": Augmentation.synthetic,
}


@contextlib.contextmanager
def open_loader(recipe: Recipe, accelerator: Accelerator) -> Iterator[ClipLoader]:
    """This process's share of the clips."""
    data = recipe.data
    loader = ClipLoader(
        data.shards,
        num_frames=data.num_frames,
        batch_size=data.batch_size,
        seed=recipe.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        sampling=SAMPLING[data.style](),
        augmentation=AUGMENTATION[data.style](),
        device=data.decoder,
        threads=data.threads,
    )
    try:
        yield loader
    finally:
        loader.close()


def build_model(recipe: Recipe, sets: list[ShardSet]) -> SgMg:
    """The network of `init`, or a new one; without a text model, a small one for these words."""
    if recipe.init is not None:
        return SgMg.from_pretrained(newest_checkpoint(recipe.init))
    config = recipe.model
    if config.text_model is not None or config.text_config is not None:
        return SgMg(config)
    sets = [*sets, *(ShardSet.open(url) for url in recipe.data.vocabulary)]
    tokenizer = train_tokenizer(e.text for s in sets for v in s.videos for e in v.expressions)
    text_config = tiny_text_config(len(tokenizer))
    return SgMg(dataclasses.replace(config, text_config=text_config), tokenizer=tokenizer)


def newest_checkpoint(path: Path) -> Path:
    """`path` itself if it is a checkpoint, else the newest one of the run folder `path`."""
    if (path / "config.json").is_file():
        return path
    checkpoints = sorted(path.glob("step-*/config.json"))
    if not checkpoints:
        stop(f"no checkpoint in {path}; give a run folder, or a folder with config.json")
    return checkpoints[-1].parent


def match(queries: QueryOutput, *, matcher: Matcher, targets: Targets) -> Tensor:
    """Select the query of least cost: what training binds to the targets of its batch."""
    return matcher(queries, targets)


def train_step(run: "Run", batch: Batch) -> tuple[dict[str, float], Tensor]:
    """One update; loss terms and the predicted masks' logits [B, T, H, W]."""
    accelerator, device = run.accelerator, run.accelerator.device
    targets = Targets(
        batch.masks.to(device), batch.boxes_cxcywh.to(device), batch.visible.to(device)
    )
    visible = accelerator.reduce(targets.visible.sum(), "sum")
    select = partial(match, matcher=run.matcher, targets=targets)
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * run.factor(run.step)
    outputs = run.model(
        batch.frames.to(device),
        batch.padding.to(device),
        batch.expressions,
        select,
        all_layers=True,
    )
    try:
        terms = run.criterion(outputs, targets, normaliser(visible, accelerator.num_processes))
    except NonFiniteLossError as error:
        stop(f"update {run.step + 1}, clips {', '.join(batch.keys)}: {error}")
    accelerator.backward(terms["total"])
    norm = accelerator.clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    names = [*terms, "grad_norm"]
    values = accelerator.reduce(torch.stack([*terms.values(), torch.as_tensor(norm)]), "mean")
    return dict(zip(names, values.tolist(), strict=True)), outputs.mask_logits.detach()


class Run:
    """One run: what a step needs, and what it leaves behind."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, loader: ClipLoader) -> None:
        """Build the model and the optimizer.

        Args:
            recipe: settings.
            accelerator: devices and processes.
            loader: clips of this process.
        """
        self.recipe, self.accelerator, self.loader = recipe, accelerator, loader
        optim = recipe.optim
        self.total_steps = optim.steps or optim.epochs * len(loader)
        model = build_model(recipe, loader.sets)
        scale = recipe.data.batch_size / optim.reference_batch
        groups = parameter_groups(
            model,
            lr=optim.lr * scale,
            backbone_lr=optim.backbone_lr * scale,
            text_lr=optim.text_lr * scale,
            weight_decay=optim.weight_decay,
        )
        for group in groups:
            group["initial_lr"] = group["lr"]
        optimizer = torch.optim.AdamW(groups)
        self.model, self.optimizer = accelerator.prepare(model.train(), optimizer)
        self.matcher, self.criterion = Matcher(), Criterion()
        self.step, self.wait = 0, 0.0
        self.terms: dict[str, float] = {}
        if recipe.resume is not None:
            self.load(recipe.resume)

    def factor(self, step: int) -> float:
        """What multiplies every rate at update `step` (from 0)."""
        optim = self.recipe.optim
        warm = min(1.0, (step + 1) / optim.warmup) if optim.warmup else 1.0
        if optim.schedule == "cosine":
            return warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / self.total_steps)))
        if optim.schedule == "step":
            epoch = step // len(self.loader)
            return warm * 0.1 ** sum(epoch >= drop for drop in optim.drops)
        return warm

    def batches(self) -> Iterator[Batch]:
        """Batches until the last update, behind a progress bar; `wait` is the time spent on data."""
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="update",
            disable=not self.accelerator.is_main_process,
            mininterval=1.0,
        )
        with bar:
            while self.step < self.total_steps:
                self.loader.set_epoch(self.step // len(self.loader))
                stream = iter(self.loader)
                while self.step < self.total_steps:
                    begin = time.perf_counter()
                    batch = next(stream, None)
                    if batch is None:
                        break
                    self.wait = time.perf_counter() - begin
                    yield batch
                    seconds = time.perf_counter() - begin
                    bar.set_postfix(self.status(seconds), refresh=False)
                    bar.update()

    def status(self, seconds: float) -> dict[str, str]:
        """What the progress bar says of an update that took `seconds`."""
        terms = {name: f"{self.terms[name]:.3g}" for name in (*self.criterion.weights, "total")}
        clips = self.recipe.data.batch_size / seconds
        rate = self.optimizer.param_groups[0]["lr"]
        wait = f"{self.wait / seconds:.0%}"
        return terms | {"lr": f"{rate:.1e}", "clips/s": f"{clips:.1f}", "data wait": wait}

    def announce(self) -> None:
        """Print what is about to happen."""
        data, loader = self.recipe.data, self.loader
        rates = sorted({group["initial_lr"] for group in self.optimizer.param_groups})
        self.accelerator.print(
            f"{loader.num_items} clips an epoch, {len(loader)} updates of {data.batch_size} clips; "
            f"updates {self.step} to {self.total_steps}; "
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.1f} M parameters; "
            f"rates {', '.join(f'{rate:.2e}' for rate in rates)}"
        )

    def record(self, batch: Batch, terms: dict[str, float], mask_logits: Tensor) -> None:
        """Count the update; log its terms to the CSV and the tracker, now and then a picture."""
        self.terms = terms
        self.step += 1
        if not self.accelerator.is_main_process:
            return
        rate = self.optimizer.param_groups[0]["lr"]
        row = {"step": self.step, "lr": rate, **terms}
        path = self.recipe.out / "losses.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.accelerator.log(terms | {"lr": rate, "data_wait": self.wait}, step=self.step)
        every = self.recipe.picture_every
        if every and (self.step % every == 0 or self.step == self.total_steps):
            folder = self.recipe.out / "pictures"
            folder.mkdir(exist_ok=True)
            draw_batch(batch, mask_logits).save(folder / f"step-{self.step:06d}.png")

    def save(self) -> None:
        """Write `step-NNNNNN/`: model folder, optimizer, random states, position of the stream."""
        folder = self.recipe.out / f"step-{self.step:06d}"
        partial_folder = folder.with_name(folder.name + ".partial")
        if self.accelerator.is_main_process and partial_folder.exists():
            shutil.rmtree(partial_folder)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial_folder))
        if self.accelerator.is_main_process:
            self.accelerator.unwrap_model(self.model).save_pretrained(partial_folder)
            stream = {"step": self.step, "loader": self.loader.state_dict()}
            (partial_folder / "stream.json").write_text(json.dumps(stream))
            if folder.exists():
                shutil.rmtree(folder)
            partial_folder.rename(folder)
            for old in sorted(self.recipe.out.glob("step-??????"))[: -self.recipe.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load(self, source: str) -> None:
        """Go on from a checkpoint; `auto` starts anew where there is none."""
        if source == "auto":
            found = sorted(self.recipe.out.glob("step-??????/stream.json"))
            if not found:
                return
            source = str(found[-1].parent)
        stream_file = Path(source) / "stream.json"
        if not stream_file.is_file():
            stop(f"{source} holds no training state; give a step-NNNNNN folder of a run, or `auto`")
        stream = json.loads(stream_file.read_text())
        self.accelerator.load_state(source)
        self.loader.load_state_dict(stream["loader"])
        self.step = stream["step"]
        self.forget_later_losses()

    def forget_later_losses(self) -> None:
        """Drop the CSV rows of updates that will be done again."""
        path = self.recipe.out / "losses.csv"
        if self.accelerator.is_main_process and path.exists():
            header, *rows = path.read_text().splitlines()
            kept = [row for row in rows if int(row.split(",", 1)[0]) <= self.step]
            path.write_text("\n".join([header, *kept]) + "\n")


def draw_batch(batch: Batch, mask_logits: Tensor, clips: int = 4) -> Image.Image:
    """Ground truth (first colour) under the prediction (second) for some clips of a batch."""
    rows = []
    for b in range(min(clips, len(batch.keys))):
        height, width = batch.sizes[b].tolist()
        frames = batch.frames[b, :, :, :height, :width].cpu()
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = ((frames * std + mean) * 255).round().clamp(0, 255).byte()
        truth = batch.masks[b, :, :height, :width].cpu()
        predicted = mask_logits[b, :, :height, :width].cpu() > 0
        both = torch.stack([truth, predicted], 1).numpy()
        images = pixels.permute(0, 2, 3, 1).numpy()
        rows.append([draw_masks(f, m, opacity=0.3) for f, m in zip(images, both, strict=True)])
    return sheet(rows, batch.expressions[: len(rows)])


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, OSError) as error:
        stop(str(error))
