"""Train SgMg on shard sets.

    accelerate launch train.py pretrain-refcoco --data.shards s3://bucket/refcoco-train ...
    accelerate launch train.py ref-youtube-vos --data.shards s3://bucket/rvos --init runs/pretrain
    accelerate launch train.py RECIPE ... --resume auto

Recipes and their settings are in `sgmg/training/recipes.py`. Devices, precision and compilation are
options of `accelerate launch`. A run folder holds `losses.csv`, `pictures/`, the tracker's files
and `step-NNNNNN/` checkpoints; each of these is a model folder for `evaluate.py` and has what
`--resume auto` needs to go on. SIGTERM saves and leaves with exit code 75: start again with
`--resume auto`. A loss that is not finite leaves a dump for `python -m sgmg replay`.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import NoReturn

import torch
import tyro
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType, set_seed
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from evaluate import validate
from sgmg import SgMg, SgMgConfig
from sgmg.network.model_folder import find_checkpoint
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.journal import progress_columns
from sgmg.training.memory import peak_memory, recompute_blocks
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.recipes import RECIPES, Recipe
from sgmg.training.run import Run
from sgmg.training.targets import Targets
from sgmg.training.update import (
    MicroBatch,
    accumulate_gradients,
    average_over_processes,
    step_optimizer,
)
from shards import Batch, ClipLoader, ShardCache, ShardError, ShardSet
from shards.storage.storage import Storage
from shards.stream.styles import named_style

INTERRUPTED = 75  # exit code: saved at SIGTERM, to be started again with --resume auto
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def main() -> None:
    """Set up a run, try it, train."""
    recipe = parse_recipe(sys.argv[1:])
    accelerator = make_accelerator(recipe)
    with closing(open_loader(recipe, accelerator)) as loader:
        total_updates = count_updates(recipe, loader)
        check_warmup(recipe.optim.warmup, total_updates)
        run = build_run(recipe, accelerator, loader, total_updates)
        dry_run(recipe, run, loader, total_updates)
        train(recipe, run, loader, total_updates)
    run.finish()


def train(recipe: Recipe, run: Run, loader: ClipLoader, total_updates: int) -> None:
    """Run the training loop, from where the run stands to its last update."""
    accelerator = run.accelerator
    epochs = itertools.repeat(loader)  # iterating a loader yields what is left of its epoch
    stream = itertools.chain.from_iterable(epochs)
    bar = tqdm(
        total=total_updates,
        initial=run.step,
        unit="update",
        disable=not accelerator.is_main_process,
    )
    with bar:
        while run.step < total_updates:
            # Wait for the clips of one update: this process's part of them, in as many micro
            # batches as there are accumulation steps.
            begin = time.perf_counter()
            batches = list(itertools.islice(stream, accelerator.gradient_accumulation_steps))
            wait_seconds = time.perf_counter() - begin
            micro_batches = [to_micro_batch(batch, recipe, run) for batch in batches]

            with run.dump_if_not_finite(micro_batches):
                # Forward, matching, loss and backward of each micro batch; gradients add up, over
                # all processes in the last one.
                terms, mask_logits = accumulate_gradients(accelerator, run.model, micro_batches)

                # Clip the gradient, move the weights, then the learning rates.
                norms = step_optimizer(
                    accelerator,
                    run.model,
                    run.optimizer,
                    run.schedule,
                    clip_norm=recipe.optim.clip_norm,
                )

            # Count the update, and log it: a row of losses.csv, the progress bar, the tracker.
            values = average_over_processes(accelerator, terms | norms)
            values["lr"] = run.optimizer.param_groups[0]["lr"]
            run.finish_update(values)
            seconds = time.perf_counter() - begin
            loader_stats = loader.stats()
            columns = progress_columns(
                values,
                loader_stats,
                clips=loader.batch_size,
                seconds=seconds,
                wait_seconds=wait_seconds,
            )
            bar.set_postfix(columns, refresh=False)
            bar.update()
            log = {f"data/{name}": value for name, value in loader_stats.items()}
            log["data_wait_seconds"] = wait_seconds
            accelerator.log(values | log, step=run.step)

            # Now and then, and at the end: a checkpoint, a picture, scores.
            if run.step % recipe.save_every == 0 or run.step == total_updates:
                checkpoint = run.save(loader.state_dict())
                run.save_picture(batches[-1].pixels, micro_batches[-1], mask_logits)
                mean, scores = validate(
                    checkpoint, recipe.validate, recipe.out, recipe.validate_short_side
                )
                run.save_score(checkpoint, mean, scores)

            # SIGTERM reached one of the processes: all of them save and leave.
            if accelerator.check_trigger():
                run.save(loader.state_dict())
                sys.exit(INTERRUPTED)


def to_micro_batch(batch: Batch, recipe: Recipe, run: Run) -> MicroBatch:
    """Choose what the network learns of a batch; of A2D, one frame of each clip."""
    targets = Targets(batch.masks, batch.boxes_cxcywh, batch.visible)
    target_frame = None
    if named_style(recipe.data.style).supervise == "target_frame":
        target_frame = batch.target_frame
        targets = targets.frame(batch.clip_index, target_frame)
    return MicroBatch(
        frames=batch.frames,
        padding=batch.padding,
        expressions=batch.expressions,
        targets=targets,
        clip_index=batch.clip_index,
        target_frame=target_frame,
        seed=run.dropout_seed(recipe.seed, batch.positions[0]),
        keys=batch.keys,
    )


def parse_recipe(arguments: list[str]) -> Recipe:
    """Read the named recipe, with the overrides of the command line."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    asks_for_help = not names and {"-h", "--help"} & set(arguments)
    if not asks_for_help:
        name = names[0] if names else None
        if name not in RECIPES:
            stop(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    recipe = tyro.extras.overridable_config_cli(RECIPES, args=arguments)
    if not recipe.data.shards:
        stop("no data; name one or more shard sets with --data.shards FOLDER_OR_URL ...")
    check_start(names[0], recipe)
    check_tracker(recipe.tracker)
    return recipe


def check_start(name: str, recipe: Recipe) -> None:
    """Refuse settings that contradict what the network starts from."""
    resumes_a_folder = recipe.resume not in (None, "auto")
    if recipe.fine_tunes and recipe.init is None and not resumes_a_folder:
        stop(
            f"{name} fine-tunes a network: name its checkpoint with --init CHECKPOINT; "
            "pretrain-refcoco and ref-youtube-vos-scratch start from nothing"
        )
    if recipe.init is not None and recipe.backbone is not None:
        stop(
            f"--backbone {recipe.backbone} beside --init {recipe.init}: the checkpoint has its own "
            "backbone; leave one of the two away"
        )
    _, recipe_as_named = RECIPES[name]
    if recipe.init is not None and recipe.pretrained and not recipe_as_named.pretrained:
        stop(
            f"--pretrained beside --init {recipe.init}: the checkpoint's backbone is trained "
            "already; leave one of the two away"
        )


def check_warmup(warmup: int, total_updates: int) -> None:
    """Refuse a warm-up that a run does not outlast."""
    if warmup > total_updates:
        stop(
            f"--optim.warmup {warmup} is longer than the run of {total_updates} updates; choose at "
            "most that many, or a longer run with --optim.steps or --optim.epochs"
        )


def check_tracker(name: str) -> None:
    """Refuse a tracker that Accelerate does not know, or whose package is not installed."""
    known = [*LOGGER_TYPE_TO_CLASS, "none"]
    if name not in known:
        stop(f"unknown tracker {name!r}; choose one of {', '.join(known)}")
    installed = [tracker.value for tracker in get_available_trackers()]
    if name not in [*installed, "none"]:
        stop(f"tracker {name!r} is not installed: pip install it, or choose another --tracker")


def stop(reason: str) -> NoReturn:
    """Leave with one line that says what is wrong and what to do."""
    sys.exit(f"train.py: {reason}")


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Seed all generators, find the other processes, and refuse what they cannot do."""
    set_seed(recipe.seed)
    accelerator = Accelerator(
        log_with=None if recipe.tracker == "none" else recipe.tracker,
        project_dir=recipe.out,
        # Without this, torchrun on a machine without a GPU would start processes that do not know
        # of one another (accelerate 1.15).
        cpu=not torch.accelerator.is_available(),
        gradient_accumulation_steps=recipe.data.accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=recipe.find_unused_parameters)
        ],
    )
    check_parallelism(accelerator.distributed_type)
    processes = accelerator.num_processes
    steps = accelerator.gradient_accumulation_steps
    if steps < 1 or recipe.data.batch_size % (processes * steps):
        stop(
            f"--data.batch-size {recipe.data.batch_size} does not divide among {processes} "
            f"processes with --data.accumulate {steps} steps each; choose numbers that divide it"
        )
    return accelerator


def check_parallelism(kind: DistributedType) -> None:
    """Refuse to shard weights over processes: checkpoints would hold pieces of the network."""
    if kind not in SUPPORTED:
        stop(f"{kind.value} is not supported: use plain data parallelism; --recompute saves memory")


def open_loader(recipe: Recipe, accelerator: Accelerator) -> ClipLoader:
    """Open all shard sets, with a cache if one is asked for."""
    cache = None
    if recipe.data.cache is not None:
        cache = ShardCache(recipe.data.cache, int(recipe.data.cache_gb * 1e9))
    return make_loader(recipe, accelerator, recipe.data.shards, cache)


def make_loader(
    recipe: Recipe,
    accelerator: Accelerator,
    shard_sets: Sequence[str | ShardSet],
    cache: ShardCache | None = None,
) -> ClipLoader:
    """Make a loader of this process's part of the clips."""
    data = recipe.data
    return ClipLoader(
        shard_sets,
        num_frames=data.num_frames,
        batch_size=data.batch_size,
        expressions=data.expressions,
        style=data.style,
        seed=recipe.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        parts=accelerator.gradient_accumulation_steps,
        device=data.decoder,
        threads=data.threads,
        # On a CPU each batch made ahead has a thread: as many as DALI has, to keep these busy.
        prefetch=max(2, data.threads),
        cache=cache,
    )


def count_updates(recipe: Recipe, loader: ClipLoader) -> int:
    """Length of the run in updates."""
    if recipe.optim.steps is not None:
        return recipe.optim.steps
    return recipe.optim.epochs * len(loader)


def build_run(
    recipe: Recipe, accelerator: Accelerator, loader: ClipLoader, total_updates: int
) -> Run:
    """Build network, optimizer and run, resume them if asked; print what they start from."""
    model = build_model(recipe, loader.sets)
    if recipe.recompute:
        recompute_blocks(model.backbone)
    optimizer, schedule = build_optimizer(
        recipe, model, total_updates=total_updates, updates_per_epoch=len(loader)
    )
    run = Run(
        recipe.out,
        accelerator,
        model,
        optimizer,
        schedule,
        keep=recipe.keep,
        store=Storage(recipe.mirror) if recipe.mirror else None,
        resume=recipe.resume,
    )
    if run.loader_state is not None:
        loader.load_state_dict(run.loader_state)
    # A killed run may have logged updates behind its last checkpoint: TensorBoard drops them.
    accelerator.init_trackers("tracker", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
    accelerator.print(describe_start(recipe, run))
    return run


def build_model(recipe: Recipe, shard_sets: list[ShardSet]) -> SgMg:
    """Load the network of `--init`, or build a new one.

    A new network without a text model gets a small one, whose tokenizer knows the words of the
    shard sets and of `--data.vocabulary`.
    """
    config = network_config(recipe)
    if recipe.init is not None:
        # The checkpoint keeps its sizes; how it is trained on is up to this recipe.
        changes = {
            "freeze_text": config.freeze_text,
            "drop_frozen_text": config.drop_frozen_text,
            "dropout": config.dropout,
            "drop_path": config.drop_path,
        }
        folder = find_checkpoint(recipe.init)
        return SgMg.from_pretrained(folder, changes=changes, without=recipe.init_without)
    if config.text_model is not None or config.text_config is not None:
        return SgMg(config, pretrained=recipe.pretrained)
    vocabulary_sets = [ShardSet.open(url) for url in recipe.data.vocabulary]
    texts = [
        expression.text
        for shard_set in [*shard_sets, *vocabulary_sets]
        for video in shard_set.videos
        for expression in video.expressions
    ]
    tokenizer = train_tokenizer(texts)
    text_config = tiny_text_config(len(tokenizer))
    return SgMg(replace(config, text_config=text_config), tokenizer=tokenizer)


def network_config(recipe: Recipe) -> SgMgConfig:
    """Config of the recipe's network, with `--backbone` and `--text` in it."""
    config = replace(recipe.model, drop_frozen_text=recipe.text == "frozen-dropout")
    if recipe.backbone is not None:
        config = replace(config, backbone=recipe.backbone)
    if recipe.text is not None:
        config = replace(config, freeze_text=recipe.text != "trained")
    return config


def build_optimizer(
    recipe: Recipe, model: nn.Module, *, total_updates: int, updates_per_epoch: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Build AdamW in the published parameter groups, with its learning-rate schedule."""
    optim = recipe.optim
    scale = recipe.data.batch_size / optim.reference_batch
    groups = parameter_groups(
        model,
        lr=scale * optim.lr,
        backbone_lr=scale * optim.backbone_lr,
        text_lr=scale * optim.text_lr,
        weight_decay=optim.weight_decay,
    )
    # One fused kernel a group takes less time than torch's loop over tensors.
    optimizer = torch.optim.AdamW(groups, betas=(0.9, optim.beta2), fused=True)
    schedule = make_schedule(
        optimizer,
        optim.schedule,
        drops=[epoch * updates_per_epoch for epoch in optim.drops],
        warmup=optim.warmup,
        total=total_updates,
    )
    return optimizer, schedule


def describe_start(recipe: Recipe, run: Run) -> str:
    """Say what a run starts from, and at which learning rates."""
    origin = "a new network"
    if recipe.init is not None:
        origin = f"from {recipe.init}"
        if recipe.init_without:
            origin += f", {', '.join(recipe.init_without)} new"
    rates = sorted({group["initial_lr"] for group in run.optimizer.param_groups})
    return (
        f"{origin}; rates are {recipe.data.batch_size} / {recipe.optim.reference_batch} of the "
        f"recipe's: {rates}"
    )


def dry_run(recipe: Recipe, run: Run, loader: ClipLoader, total_updates: int) -> None:
    """Try a batch of each shard set before hours are spent; then print the plan."""
    accelerator = run.accelerator
    # The last set comes twice: a first pass is slow, and the time of the last one is printed.
    for shard_set in [*loader.sets, loader.sets[-1]]:
        with closing(make_loader(recipe, accelerator, [shard_set])) as set_loader:
            batch = next(iter(set_loader))
        seconds = run.dry_run(to_micro_batch(batch, recipe, run))
    # Saving, validation and AdamW's own time are left out: a guess, good enough to plan a night.
    steps = accelerator.gradient_accumulation_steps
    seconds_per_update = steps * seconds
    hours = (total_updates - run.step) * seconds_per_update / 3600
    accelerator.print(
        f"{len(loader.source):,} clips an epoch, {len(loader):,} updates of {loader.batch_size} on "
        f"{accelerator.num_processes} processes in {steps} steps each; updates {run.step:,} to "
        f"{total_updates:,}: {hours:.1f} hours at {seconds_per_update:.2f} s each; a batch of each "
        f"of {len(loader.sets)} sets learns, the last {list(batch.frames.shape)} in "
        f"{peak_memory(run.network, accelerator.device)}"
    )


if __name__ == "__main__":
    try:
        main()
    except (ShardError, ValueError, ArithmeticError, OSError) as error:
        stop(str(error))
