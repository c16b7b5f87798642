"""Train SgMg on shard sets.

    accelerate launch train.py pretrain-refcoco --data.shards s3://bucket/refcoco-train ...
    accelerate launch train.py ref-youtube-vos --data.shards s3://bucket/rvos --init runs/pretrain
    accelerate launch train.py RECIPE ... --resume auto
    python train.py --replay runs/run/dump-step-000123

Devices, precision and compilation are options of `accelerate launch`. A run folder
holds `losses.csv`, `pictures/`, the tracker's files and `step-NNNNNN/` checkpoints; each of these
is a model folder for `evaluate.py` and has what `--resume auto` needs to go on. SIGTERM saves and
leaves with exit code 75: start again with `--resume auto`. A loss that is not finite leaves a dump.
"""

import itertools
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import tyro
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch.optim.lr_scheduler import LRScheduler

from evaluate import validate
from sgmg import SgMg, SgMgConfig
from sgmg.network.model_folder import find_checkpoint
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.journal import ProgressBar
from sgmg.training.matcher import Targets
from sgmg.training.memory import peak_memory, recompute_blocks
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.replay import replay
from sgmg.training.run import Run
from sgmg.training.update import Share
from shards import Batch, ClipLoader, ShardCache, ShardError, ShardSet
from shards.storage.storage import Storage
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling

INTERRUPTED = 75  # exit code: saved at SIGTERM, to be started again with --resume auto


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a step sees."""

    shards: tuple[str, ...] = ()
    """Shard sets: folders or URLs; several are mixed by size."""
    vocabulary: tuple[str, ...] = ()
    """More shard sets whose words the tokenizer of a small text encoder should know."""
    style: Literal[
        "image", "youtube-vos", "davis", "a2d", "mevis", "joint", "synthetic-image", "synthetic"
    ] = "youtube-vos"
    """Clip sampling and augmentation, as published or as the synthetic data wants it."""
    num_frames: int = 5
    """Frames T of a clip."""
    batch_size: int = 2
    """Clips of one update over all processes and accumulation steps."""
    accumulate: int = 1
    """Steps that a process does its clips of an update in, to save memory."""
    expressions: int = 1
    """Most sentences of a clip (published: 1); two teach a small model to choose."""
    decoder: Literal["cpu", "mixed"] = "cpu"
    """Where DALI decodes; `mixed` needs a GPU."""
    threads: int = 2
    """DALI's threads on each process."""
    cache: str | None = None
    """Folder on a local disk that keeps whole shards of remote sets."""
    cache_gb: float = 100.0
    """Most that it holds, 10^9 bytes."""


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
    """`step` as published; the others suit a few hundred updates, and so does their beta2, 0.95."""
    drops: tuple[int, ...] = ()
    """Epochs after which the rate falls tenfold (`step`)."""
    warmup: int = 0
    """Updates of linear warm-up."""
    reference_batch: int = 8
    """Rates are scaled by batch_size / reference_batch."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage of training."""

    model: tyro.conf.Suppress[SgMgConfig] = field(default_factory=SgMgConfig)
    backbone: str | None = None
    """Another backbone than the recipe's."""
    text: Literal["trained", "frozen", "frozen-dropout"] | None = None
    """What becomes of the text model (`frozen-dropout` is published); else as the recipe says."""
    recompute: bool = False
    """Save memory: compute activations of the backbone again instead of keeping them."""
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    out: Path = Path("runs/run")
    """Run folder."""
    mirror: str | None = None
    """URL of a folder of an object store that gets a copy of each checkpoint, and gives it back."""
    init: Path | None = None
    """Model folder or run to start from: its network, with this recipe's dropouts and freezing."""
    pretrained: bool = False
    """Without `init`: start the backbone from its published image or video weights."""
    init_without: tuple[str, ...] = ()
    """Parts that start anew all the same, such as `class_heads.`."""
    resume: str | None = None
    """`auto` for the newest checkpoint of `out` or `mirror`, or a checkpoint folder."""
    seed: int = 0
    save_every: int = 1000
    """Updates between checkpoints, pictures and validations; the last update is always saved."""
    keep: int = 2
    """Checkpoints kept, beside the best one."""
    validate: tuple[str, ...] = ()
    """Shard sets to score each checkpoint on."""
    tracker: str = "tensorboard"
    """Name of an Accelerate tracker, or `none`."""


TINY = SgMgConfig(
    backbone="motion_convnet", text_model=None, hidden=64, heads=4, encoder_layers=1,
    decoder_layers=2, feedforward=128, queries=1, dropout=0.0, coordinate_scale=0.02,
    identity_start=True, points=2,
)  # fmt: skip
TINY_DATA = Data(style="synthetic", num_frames=2, batch_size=4, expressions=2, threads=1)
TINY_OPTIM = Optim(  # a slow backbone: its first, random features still tell colours apart
    lr=1e-3, backbone_lr=2e-4, text_lr=1e-3, clip_norm=1.0, warmup=100, reference_batch=4
)
STILLS = replace(TINY_DATA, style="synthetic-image", num_frames=1)
IMAGES = Data(style="image", num_frames=1, batch_size=4)
FROZEN = SgMgConfig(freeze_text=True)
SHORT = Optim(epochs=6, drops=(3, 5))  # published, from a checkpoint: rates times GPUs / 8
LONG = Optim(epochs=11, drops=(8, 10), reference_batch=16)
HEADS = ("class_heads.",)
RECIPES: dict[str, tuple[str, Recipe]] = {
    "synthetic-pretrain": (
        "moving shapes, single images: a model of demo size from nothing, on a CPU",
        Recipe(model=TINY, data=STILLS, optim=replace(TINY_OPTIM, steps=800, schedule="constant")),
    ),
    "synthetic": (
        "moving shapes, clips: fine-tunes the above",
        Recipe(model=TINY, data=TINY_DATA, optim=replace(TINY_OPTIM, steps=650, schedule="cosine")),
    ),
    "pretrain-refcoco": (
        "RefCOCO, RefCOCO+ and RefCOCOg as one-frame clips, published numbers",
        Recipe(data=IMAGES, optim=LONG, pretrained=True),
    ),
    "ref-youtube-vos": (
        "Ref-YouTube-VOS from a pretrained checkpoint, text encoder frozen, published numbers",
        Recipe(model=FROZEN, optim=SHORT, init_without=HEADS),
    ),
    "ref-youtube-vos-scratch": (
        "Ref-YouTube-VOS without pretraining, published numbers",
        Recipe(optim=Optim(epochs=10, drops=(6, 8), reference_batch=4), pretrained=True),
    ),
    "a2d-sentences": (
        "A2D-Sentences from a pretrained checkpoint, text encoder frozen, published numbers",
        Recipe(
            model=FROZEN, data=Data(style="a2d", batch_size=4), init_without=HEADS,
            optim=replace(SHORT, reference_batch=16),
        ),
    ),
    "joint": (  # published without its numbers
        "Ref-YouTube-VOS with pseudo-clips of RefCOCO, RefCOCO+ and RefCOCOg; name all four sets",
        Recipe(data=Data(style="joint"), optim=replace(SHORT, reference_batch=4), pretrained=True),
    ),
    "ref-davis17": (
        "fine-tune on Ref-DAVIS17 sequences",
        Recipe(model=FROZEN, data=Data(style="davis"), optim=SHORT),
    ),
    "mevis": (
        "fine-tune on MeViS, whose expressions tell motion: no clip runs backwards",
        Recipe(model=FROZEN, data=Data(style="mevis"), optim=SHORT),
    ),
    "own": ("fine-tune on shards of one's own", Recipe(model=FROZEN, optim=SHORT)),
}  # fmt: skip


def main() -> None:
    """Parse, build, rehearse, train, save."""
    if sys.argv[1:2] == ["--replay"]:
        print(*replay(Path(*sys.argv[2:3]), Accelerator().device), sep="\n")
        return
    recipe = parse_recipe(sys.argv[1:])
    accelerator = start(recipe)
    with closing(open_loader(recipe, accelerator)) as loader:
        total = recipe.optim.steps or recipe.optim.epochs * len(loader)
        run = build_run(recipe, accelerator, loader, total)
        rehearse(recipe, run, loader, total)
        side = 144 if recipe.data.style.startswith("synthetic") else 360
        for batches in take(recipe, run, loader, total):
            shares = [share_of(batch, recipe, run) for batch in batches]
            mask_logits = run.learn(shares, [key for batch in batches for key in batch.keys])
            if run.step % recipe.save_every == 0 or run.step == total:
                checkpoint = run.save({"loader": loader.state_dict()})
                run.draw(batches[-1].pixels, shares[-1], mask_logits)
                found = validate(checkpoint, recipe.validate, recipe.out, side)
                run.score(checkpoint, *found)
            if accelerator.check_trigger():  # SIGTERM reached one of the processes
                run.save({"loader": loader.state_dict()})
                sys.exit(INTERRUPTED)
    run.finish()


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
    """Seed everything, find the other processes."""
    set_seed(recipe.seed)
    tracker = None if recipe.tracker == "none" else recipe.tracker
    # on images the demo's backbone does not use its motion layer
    unused = recipe.data.style == "synthetic-image"
    ways = DistributedDataParallelKwargs(find_unused_parameters=unused)
    accelerator = Accelerator(
        log_with=tracker, project_dir=recipe.out, cpu=not torch.accelerator.is_available(),
        gradient_accumulation_steps=recipe.data.accumulate, kwargs_handlers=[ways],
    )  # fmt: skip
    if (kind := accelerator.distributed_type.value) not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        stop(f"{kind} is not supported: use plain data parallelism; --recompute saves memory")
    count, steps = accelerator.num_processes, accelerator.gradient_accumulation_steps
    if steps < 1 or recipe.data.batch_size % (count * steps):
        stop(
            f"--data.batch-size {recipe.data.batch_size} does not divide among {count} processes "
            f"with --data.accumulate {steps} steps each; choose numbers that divide it"
        )
    return accelerator


STYLES: dict[str, tuple[ClipSampling, Augmentation]] = {
    "image": (ClipSampling.image(), Augmentation.image()),
    "youtube-vos": (ClipSampling.youtube_vos(), Augmentation.video()),
    "davis": (ClipSampling.davis(), Augmentation.video()),
    "a2d": (ClipSampling.a2d(), Augmentation.a2d()),
    "mevis": (replace(ClipSampling.youtube_vos(), reverse=0.0), Augmentation.video()),
    "joint": (ClipSampling.joint(), Augmentation.joint()),
    "synthetic-image": (ClipSampling.image(), Augmentation.synthetic()),
    "synthetic": (ClipSampling.synthetic(), Augmentation.synthetic()),
}


def open_loader(
    recipe: Recipe, accelerator: Accelerator, shard_set: ShardSet | None = None
) -> ClipLoader:
    """This process's share of the clips; of one set only, past the cache, to rehearse with it."""
    data, (sampling, augmentation) = recipe.data, STYLES[recipe.data.style]
    cached = data.cache is not None and shard_set is None
    return ClipLoader(
        [shard_set] if shard_set else data.shards,
        num_frames=data.num_frames, batch_size=data.batch_size, expressions=data.expressions,
        sampling=sampling, augmentation=augmentation, seed=recipe.seed,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        parts=accelerator.gradient_accumulation_steps, device=data.decoder, threads=data.threads,
        prefetch=max(2, data.threads),
        pad_to=16 if data.style.startswith("synthetic") else 32,
        cache=ShardCache(data.cache or "", int(data.cache_gb * 1e9)) if cached else None,
    )  # fmt: skip


def build_model(recipe: Recipe, sets: list[ShardSet]) -> SgMg:
    """The network of `init`, or a new one; without a text model, a small one for these words."""
    frozen = recipe.text != "trained" if recipe.text else recipe.model.freeze_text
    drop = recipe.text == "frozen-dropout"
    changes: dict[str, Any] = {"freeze_text": frozen, "drop_frozen_text": drop}
    backbone = recipe.backbone or recipe.model.backbone
    config = replace(recipe.model, backbone=backbone, **changes)
    if recipe.init is not None:
        changes |= {"dropout": config.dropout, "drop_path": config.drop_path}
        folder = find_checkpoint(recipe.init)
        return SgMg.from_pretrained(folder, changes=changes, without=recipe.init_without)
    if config.text_model is not None or config.text_config is not None:
        return SgMg(config, pretrained=recipe.pretrained)
    sets = [*sets, *(ShardSet.open(url) for url in recipe.data.vocabulary)]
    texts = [e.text for s in sets for v in s.videos for e in v.expressions]
    tokenizer = train_tokenizer(texts)
    text_config = tiny_text_config(len(tokenizer))
    return SgMg(replace(config, text_config=text_config), tokenizer=tokenizer)


def build_optimizer(
    recipe: Recipe, model: SgMg, total: int, epoch: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW with the published groups, rates scaled to the batch, and their way over `total`."""
    optim = recipe.optim
    scale = recipe.data.batch_size / optim.reference_batch
    rates = {name: scale * getattr(optim, name) for name in ("lr", "backbone_lr", "text_lr")}
    groups = parameter_groups(model, **rates, weight_decay=optim.weight_decay)
    beta2 = 0.999 if optim.schedule == "step" else 0.95
    optimizer = torch.optim.AdamW(groups, betas=(0.9, beta2), fused=True)
    drops = [epoch * drop for drop in optim.drops]
    kind, warmup = optim.schedule, optim.warmup
    return optimizer, make_schedule(optimizer, kind, drops=drops, warmup=warmup, total=total)


def build_run(recipe: Recipe, accelerator: Accelerator, loader: ClipLoader, total: int) -> Run:
    """Network and optimizer where they stood, or new; says what they start from."""
    model = build_model(recipe, loader.sets)
    if recipe.recompute:
        recompute_blocks(model.backbone)
    run = Run(
        recipe.out, accelerator, model, *build_optimizer(recipe, model, total, len(loader)),
        clip_norm=recipe.optim.clip_norm, keep=recipe.keep, resume=recipe.resume,
        store=Storage(recipe.mirror) if recipe.mirror else None,
    )  # fmt: skip
    if run.state:
        loader.load_state_dict(run.state["loader"])
    accelerator.init_trackers("tracker", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
    new = f", {', '.join(recipe.init_without)} new" if recipe.init_without else ""
    batch, reference = recipe.data.batch_size, recipe.optim.reference_batch
    accelerator.print(
        f"from {recipe.init}{new}" if recipe.init else "a new network",
        f"; rates are {batch} / {reference} of the recipe's: ",
        sorted({group["initial_lr"] for group in run.optimizer.param_groups}),
    )
    return run


def share_of(batch: Batch, recipe: Recipe, run: Run) -> Share:
    """What the network learns of a batch; of A2D, the annotated frame alone."""
    targets, annotated = Targets(batch.masks, batch.boxes_cxcywh, batch.visible), None
    if recipe.data.style == "a2d":
        annotated = batch.anchors
        place = torch.arange(len(batch.masks)), annotated[batch.clip_index]
        targets = Targets(*(it[place].unsqueeze(1) for it in vars(targets).values()))
    seed = run.seed(recipe.seed, batch.positions[0])
    texts, index = batch.expressions, batch.clip_index
    return Share(batch.frames, batch.padding, texts, targets, index, annotated, seed)


def rehearse(recipe: Recipe, run: Run, loader: ClipLoader, total: int) -> None:
    """A batch of each set through the network before hours are spent; then print the plan."""
    accelerator, seconds = run.accelerator, 0.0
    for shard_set in [*loader.sets, loader.sets[-1]]:  # the last one twice: the first is slow
        with closing(open_loader(recipe, accelerator, shard_set)) as one:
            batch = next(iter(one))
        seconds = run.rehearse(share_of(batch, recipe, run), batch.keys)
    steps = accelerator.gradient_accumulation_steps
    hours = (total - run.step) * steps * seconds / 3600
    accelerator.print(
        f"{len(loader.source):,} clips an epoch, {len(loader):,} updates of {loader.batch_size} on "
        f"{accelerator.num_processes} processes in {steps} steps each; updates {run.step:,} to "
        f"{total:,}: {hours:.1f} hours at {steps * seconds:.2f} s each; a batch of each of "
        f"{len(loader.sets)} sets learns, the last {list(batch.frames.shape)} in "
        f"{peak_memory(run.update.network, accelerator.device)}"
    )


def take(recipe: Recipe, run: Run, loader: ClipLoader, total: int) -> Iterator[list[Batch]]:
    """The batches of each update until the last, behind a progress bar and the tracker."""
    accelerator = run.accelerator
    shown, clips = accelerator.is_main_process, loader.batch_size
    stream = itertools.chain.from_iterable(itertools.repeat(loader))  # epochs on end
    with closing(ProgressBar(total=total, done=run.step, clips=clips, shown=shown)) as bar:
        while run.step < total:
            batches = list(itertools.islice(stream, accelerator.gradient_accumulation_steps))
            bar.got_data()
            yield batches
            stats = loader.stats()
            bar.step(run.terms, stats)
            found = {f"data/{name}": value for name, value in stats.items()}
            accelerator.log(run.terms | found | {"data_wait_seconds": bar.wait}, step=run.step)


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, ArithmeticError, OSError) as error:
        stop(str(error))
