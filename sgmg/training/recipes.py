"""Settings of a training run, and the recipes of the published stages as plain values.

A recipe names what differs from the defaults below. Whatever a recipe says, the command line of
`train.py` may say otherwise: `--optim.lr 1e-5` sets `recipe.optim.lr`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from sgmg.network.config import SgMgConfig


@dataclass(frozen=True, kw_only=True)
class Data:
    """Clips of an update, and how they are read."""

    shards: tuple[str, ...] = ()
    """Shard sets: folders or URLs; several are mixed by size."""
    vocabulary: tuple[str, ...] = ()
    """For recipes that train a tokenizer of their own (the synthetic ones): more shard sets whose
    words it should know, such as those of a later stage."""
    style: str = "youtube-vos"
    """Clip sampling, augmentation and padding, as published for a kind of data: a name in
    `shards.stream.styles`."""
    num_frames: int = 5
    """Frames T of a clip."""
    batch_size: int = 2
    """Clips of one update over all processes and accumulation steps."""
    accumulate: int = 1
    """Steps that a process does its clips of an update in, to save memory."""
    expressions: int = 1
    """Most expressions of a clip (published: 1); two teach a small model to choose."""
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
    """Optimizer, learning rates and length of the run."""

    lr: float = 1e-4
    """AdamW rate of everything but backbone and text encoder, at `reference_batch`."""
    backbone_lr: float = 5e-5
    """Rate of the backbone, at `reference_batch`."""
    text_lr: float = 1e-5
    """Rate of the text model, at `reference_batch`."""
    beta2: float = 0.999
    """AdamW's decay of squared gradients; 0.95 suits runs of a few hundred updates."""
    weight_decay: float = 5e-4
    """AdamW's weight decay, a factor of the rate."""
    clip_norm: float = 0.1
    """Largest norm of the whole gradient."""
    epochs: int = 6
    """Length of the run in epochs."""
    steps: int | None = None
    """Length of the run in updates; overrides `epochs`."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step` as published; the others suit a few hundred updates."""
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
    fine_tunes: tyro.conf.Suppress[bool] = False
    """The recipe means nothing without the network of `init`."""
    find_unused_parameters: tyro.conf.Suppress[bool] = False
    """Some weights get no gradient: several processes must look for these in each update."""
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
    """Seed of weights, order of clips, augmentation and dropout."""
    save_every: int = 1000
    """Updates between checkpoints, pictures and validations; the last update is always saved."""
    keep: int = 2
    """Checkpoints kept, beside the best one."""
    validate: tuple[str, ...] = ()
    """Shard sets to score each checkpoint on."""
    validate_short_side: int = 360
    """In validation frames are resized to this short side, pixels."""
    tracker: str = "tensorboard"
    """Name of an Accelerate tracker, or `none`."""


# A model for the moving shapes, that learns from nothing on a CPU.
DEMO_MODEL = SgMgConfig(
    backbone="motion_convnet",
    text_model=None,
    hidden=64,
    heads=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward=128,
    points=2,
    queries=1,
    dropout=0.0,
    coordinate_scale=0.02,  # pixel coordinates would drown features that are still small
    identity_start=True,  # a random start, as published, presumes a pretrained backbone
)
DEMO_SHORT_SIDE = 144  # pixels of the demo's frames

# Fine-tuning keeps the text model of the checkpoint it starts from.
FROZEN_TEXT = SgMgConfig(freeze_text=True)
NEW_CLASS_HEADS = ("class_heads.",)

# From a checkpoint, as published: rates times GPUs / 8, with one clip a GPU, so batch size / 8.
FINE_TUNING = Optim(
    epochs=6,
    drops=(3, 5),
)

# Description (shown by --help) and values by name: the form that tyro takes.
RECIPES: dict[str, tuple[str, Recipe]] = {
    "synthetic-pretrain": (
        "moving shapes, single images: a model of demo size from nothing, on a CPU",
        Recipe(
            model=DEMO_MODEL,
            find_unused_parameters=True,  # images do not move: the motion layer gets no gradient
            data=Data(
                style="synthetic-image",
                num_frames=1,
                batch_size=4,
                expressions=2,
                threads=1,
            ),
            optim=Optim(
                lr=1e-3,
                backbone_lr=2e-4,  # slow: its first, random features still tell colours apart
                text_lr=1e-3,
                beta2=0.95,
                clip_norm=1.0,
                steps=800,
                schedule="constant",
                warmup=100,
                reference_batch=4,
            ),
            validate_short_side=DEMO_SHORT_SIDE,
        ),
    ),
    "synthetic": (
        "moving shapes, clips: fine-tunes the above",
        Recipe(
            model=DEMO_MODEL,
            data=Data(
                style="synthetic",
                num_frames=2,
                batch_size=4,
                expressions=2,
                threads=1,
            ),
            optim=Optim(
                lr=1e-3,
                backbone_lr=2e-4,
                text_lr=1e-3,
                beta2=0.95,
                clip_norm=1.0,
                steps=650,
                schedule="cosine",
                warmup=100,
                reference_batch=4,
            ),
            validate_short_side=DEMO_SHORT_SIDE,
        ),
    ),
    "pretrain-refcoco": (
        "RefCOCO, RefCOCO+ and RefCOCOg as one-frame clips, published numbers",
        Recipe(
            data=Data(
                style="image",
                num_frames=1,
                batch_size=4,
            ),
            optim=Optim(
                epochs=11,
                drops=(8, 10),
                reference_batch=16,  # published: GPUs / 8, with two images a GPU
            ),
            pretrained=True,
        ),
    ),
    "ref-youtube-vos": (
        "Ref-YouTube-VOS from a pretrained checkpoint, text encoder frozen, published numbers",
        Recipe(
            model=FROZEN_TEXT,
            fine_tunes=True,
            optim=FINE_TUNING,
            init_without=NEW_CLASS_HEADS,
        ),
    ),
    "ref-youtube-vos-scratch": (
        "Ref-YouTube-VOS without pretraining, published numbers (and --mixed_precision fp16)",
        Recipe(
            text="frozen-dropout",
            optim=Optim(
                epochs=10,
                drops=(6, 8),
                reference_batch=4,  # published: GPUs / 4, with one clip a GPU
            ),
            pretrained=True,
        ),
    ),
    "a2d-sentences": (
        "A2D-Sentences from a pretrained checkpoint, text encoder frozen, published numbers",
        Recipe(
            model=FROZEN_TEXT,
            fine_tunes=True,
            data=Data(
                style="a2d",
                batch_size=4,
            ),
            optim=Optim(
                epochs=6,
                drops=(3, 5),
                reference_batch=16,  # published: GPUs / 8, with two clips a GPU
            ),
            init_without=NEW_CLASS_HEADS,
        ),
    ),
    "joint": (
        "Ref-YouTube-VOS with pseudo-clips of RefCOCO, RefCOCO+ and RefCOCOg; name all four sets",
        Recipe(
            data=Data(style="joint"),
            optim=Optim(  # the paper gives no numbers for this stage: these are ours
                epochs=6,
                drops=(3, 5),
                reference_batch=4,
            ),
            pretrained=True,
        ),
    ),
    # Not published stages: the data sets' own fine-tuning, with the numbers of the published one.
    "ref-davis17": (
        "fine-tune on Ref-DAVIS17 sequences",
        Recipe(
            model=FROZEN_TEXT,
            fine_tunes=True,
            data=Data(style="davis"),
            optim=FINE_TUNING,
        ),
    ),
    "mevis": (
        "fine-tune on MeViS, whose expressions tell motion: no clip runs backwards",
        Recipe(
            model=FROZEN_TEXT,
            fine_tunes=True,
            data=Data(style="mevis"),
            optim=FINE_TUNING,
        ),
    ),
    "own": (
        "fine-tune on shards of one's own",
        Recipe(
            model=FROZEN_TEXT,
            fine_tunes=True,
            optim=FINE_TUNING,
        ),
    ),
}
