"""Train SgMg on shard sets.

    accelerate launch train.py synthetic-pretrain --data.shards demo/shards/image-train
    accelerate launch train.py synthetic --data.shards demo/shards/train --init demo/pretrain
    accelerate launch train.py ref-youtube-vos --data.shards s3://bucket/ref-youtube-vos-train

A run folder holds `losses.csv`, `pictures/`, the tracker's files and `step-NNNNNN/` checkpoints;
each of these is a model folder for `evaluate.py` and has what `--resume auto` needs to go on.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from sgmg import SgMg, SgMgConfig
from sgmg.journal import LossTable, prediction_sheet
from sgmg.losses import NonFiniteLossError
from sgmg.matcher import Targets
from sgmg.optim import parameter_groups, step_decay, warmup_cosine
from sgmg.resume import find_checkpoint, find_state, read_state, save_checkpoint
from sgmg.text_encoder import tiny_text_config, train_tokenizer
from sgmg.update import Update
from shards import Batch, ClipLoader, ShardError, ShardSet
from shards.augment import Augmentation
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
    expressions: int = 1
    """Most sentences of a clip (published: 1); two teach a small model to choose."""
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
    """Model folder or run to start from: its network, with this recipe's dropouts and freezing."""
    pretrained: bool = False
    """Without `init`: start the backbone from its published image or video weights."""
    init_without: tuple[str, ...] = ()
    """Parts that start anew all the same, such as `class_heads.`."""
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
    coordinate_scale=0.02,
    identity_start=True,
)
TINY_DATA = Data(style="synthetic", num_frames=2, batch_size=4, expressions=2, threads=1)
TINY_OPTIM = Optim(  # a slow backbone: its first, random features still tell colours apart
    lr=1e-3, backbone_lr=2e-4, text_lr=1e-3, clip_norm=1.0, warmup=100, reference_batch=4
)
RECIPES: dict[str, tuple[str, Recipe]] = {
    "synthetic-pretrain": (
        "moving shapes, single images: a model of demo size from nothing, on a CPU",
        Recipe(
            model=TINY,
            data=dataclasses.replace(TINY_DATA, style="synthetic-image", num_frames=1),
            optim=dataclasses.replace(TINY_OPTIM, steps=800, schedule="constant"),
        ),
    ),
    "synthetic": (
        "moving shapes, clips: fine-tunes the above",
        Recipe(
            model=TINY,
            data=TINY_DATA,
            optim=dataclasses.replace(TINY_OPTIM, steps=700, schedule="cosine"),
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
            init_without=("class_heads.",),
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
    with closing(open_loader(recipe, accelerator)) as loader:
        run = Run(recipe, accelerator, loader)
        run.announce()
        for batch in run.batches():
            terms, mask_logits = run.learn(batch)
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


STYLES: dict[str, tuple[ClipSampling, Augmentation]] = {
    "image": (ClipSampling.image(), Augmentation.image()),
    "youtube-vos": (ClipSampling.youtube_vos(), Augmentation.video()),
    "davis": (ClipSampling.davis(), Augmentation.video()),
    "synthetic-image": (ClipSampling.image(), Augmentation.synthetic()),
    "synthetic": (ClipSampling.synthetic(), Augmentation.synthetic()),
}


def open_loader(recipe: Recipe, accelerator: Accelerator) -> ClipLoader:
    """This process's share of the clips."""
    data, (sampling, augmentation) = recipe.data, STYLES[recipe.data.style]
    return ClipLoader(
        data.shards,
        num_frames=data.num_frames,
        batch_size=data.batch_size,
        seed=recipe.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        sampling=sampling,
        augmentation=augmentation,
        expressions=data.expressions,
        device=data.decoder,
        threads=data.threads,
    )


def build_model(recipe: Recipe, sets: list[ShardSet]) -> SgMg:
    """The network of `init`, or a new one; without a text model, a small one for these words."""
    config = recipe.model
    if recipe.init is not None:
        names = ("freeze_text", "drop_frozen_text", "dropout", "drop_path")
        changes = {name: getattr(config, name) for name in names}
        folder = find_checkpoint(recipe.init)
        return SgMg.from_pretrained(folder, changes=changes, without=recipe.init_without)
    if config.text_model is not None or config.text_config is not None:
        return SgMg(config, pretrained=recipe.pretrained)
    sets = [*sets, *(ShardSet.open(url) for url in recipe.data.vocabulary)]
    texts = [e.text for s in sets for v in s.videos for e in v.expressions]
    tokenizer = train_tokenizer(texts)
    text_config = tiny_text_config(len(tokenizer))
    return SgMg(dataclasses.replace(config, text_config=text_config), tokenizer=tokenizer)


def build_optimizer(
    recipe: Recipe, model: SgMg, total: int, epoch: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW with the published groups, rates scaled to the batch, and their way over `total`."""
    optim = recipe.optim
    scale = recipe.data.batch_size / optim.reference_batch
    rates = {name: scale * getattr(optim, name) for name in ("lr", "backbone_lr", "text_lr")}
    groups = parameter_groups(model, **rates, weight_decay=optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    if optim.schedule == "step":
        return optimizer, step_decay(optimizer, [epoch * drop for drop in optim.drops])
    floor = 0.02 if optim.schedule == "cosine" else 1.0
    return optimizer, warmup_cosine(optimizer, warmup=optim.warmup, total=total, floor=floor)


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
        optimizer, self.schedule = build_optimizer(recipe, model, self.total_steps, len(loader))
        self.model, self.optimizer = accelerator.prepare(model.train(), optimizer)
        self.update = Update(
            accelerator, self.model, self.optimizer, self.schedule, clip_norm=optim.clip_norm
        )
        self.losses = LossTable(recipe.out / "losses.csv")
        self.step, self.wait = 0, 0.0
        self.terms: dict[str, float] = {}
        if recipe.resume is not None:
            self.load(recipe.resume)

    def batches(self) -> Iterator[Batch]:
        """Batches until the last update, behind a progress bar; `wait` is the time for data."""
        shown = self.accelerator.is_main_process
        with tqdm(
            total=self.total_steps, initial=self.step, unit="update", disable=not shown
        ) as bar:
            stream = itertools.chain.from_iterable(itertools.repeat(self.loader))  # epochs on end
            while self.step < self.total_steps:
                begin = time.perf_counter()
                batch = next(stream)
                self.wait = time.perf_counter() - begin
                yield batch
                bar.set_postfix(self.status(time.perf_counter() - begin), refresh=False)
                bar.update()

    def learn(self, batch: Batch) -> tuple[dict[str, float], Tensor]:
        """One update; its loss terms and the logits of the predicted masks."""
        batch = batch.to(self.accelerator.device)
        targets = Targets(batch.masks, batch.boxes_cxcywh, batch.visible)
        try:
            return self.update(
                batch.frames, batch.padding, batch.expressions, targets, batch.clip_index
            )
        except NonFiniteLossError as error:
            stop(f"update {self.step + 1}, clips {', '.join(batch.keys)}: {error}")

    def status(self, seconds: float) -> dict[str, str]:
        """What the progress bar says of an update that took `seconds`."""
        last_layer = {k: v for k, v in self.terms.items() if not k[-1].isdigit()}
        terms = {name: f"{value:.3g}" for name, value in last_layer.items()}
        clips = self.recipe.data.batch_size / seconds
        rate = self.optimizer.param_groups[0]["lr"]
        wait = f"{self.wait / seconds:.0%}"
        return terms | {"lr": f"{rate:.1e}", "clips/s": f"{clips:.1f}", "data wait": wait}

    def announce(self) -> None:
        """Print what is about to happen."""
        loader = self.loader
        rates = sorted({group["initial_lr"] for group in self.optimizer.param_groups})
        self.accelerator.print(
            f"{len(loader.source)} clips an epoch, {len(loader)} updates of {loader.batch_size}; "
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
        terms = terms | {"lr": self.optimizer.param_groups[0]["lr"]}
        self.losses.add(self.step, terms)
        self.accelerator.log(terms | {"data_wait_seconds": self.wait}, step=self.step)
        every = self.recipe.picture_every
        if every and (self.step % every == 0 or self.step == self.total_steps):
            folder = self.recipe.out / "pictures"
            folder.mkdir(exist_ok=True)
            draw_batch(batch, mask_logits).save(folder / f"step-{self.step:06d}.png")

    def save(self) -> None:
        """Write a checkpoint: model folder, optimizer, random states, position of the stream."""
        state = {"loader": self.loader.state_dict(), "schedule": self.schedule.state_dict()}
        out, keep = self.recipe.out, self.recipe.keep
        save_checkpoint(out, self.step, self.accelerator, self.model, state, keep=keep)

    def load(self, source: str) -> None:
        """Go on from a checkpoint; `auto` starts anew where there is none."""
        checkpoint = find_state(source, self.recipe.out)
        if checkpoint is None:
            return
        self.accelerator.load_state(str(checkpoint))
        state = read_state(checkpoint)
        self.loader.load_state_dict(state["loader"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        if self.accelerator.is_main_process:
            self.losses.forget_after(self.step)


def draw_batch(batch: Batch, mask_logits: Tensor, most: int = 4) -> Image.Image:
    """Predictions over the ground truth for the first expressions of a batch."""
    frames = [batch.pixels(b) for b in batch.clip_index[:most].tolist()]
    truth, predicted = batch.masks[:most].cpu(), (mask_logits[:most] > 0).cpu()
    return prediction_sheet(frames, truth.numpy(), predicted.numpy(), batch.expressions[:most])


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, OSError) as error:
        stop(str(error))
