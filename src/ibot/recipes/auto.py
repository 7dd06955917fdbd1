"""Settings chosen from the data and the device (`ibot pretrain auto`): each choice with its reason,
in one line.

The rules follow what was measured for `tiny32` and `tiny64` (docs/learning.md) on small images and
slow devices, and the published ViT-S/16 towards many photographs on GPUs; in between they are
interpolated, not measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ibot.config.override import diff, show
from ibot.config.reading import DataConfig
from ibot.config.resolve import derive, fitting_prototypes
from ibot.config.schema import (
    CheckpointConfig,
    Config,
    Duration,
    EvaluateConfig,
    LogConfig,
    TrainConfig,
    duration,
)
from ibot.recipes.fitting import fitting_batch, momentum_for
from ibot.recipes.small import one_gpu, tiny32, tiny64
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.data.survey import Survey

ENOUGH = 10_000
"""Images below which published weights serve better than training from scratch."""
PUBLISHED = "ibot:vit_s16"
"""Those that are offered first: the smallest that are published, by name (`ibot weights list`)."""
NAMED = ("data.path", "data.val_path", "data.pixels", "data.trim_border")
"""Settings of the images that options name, or that are chosen."""
BORDERED = 0.5
"""Share of images with a border from which on borders are cut off."""
GPU_MEMORY_PER_IMAGE = 0.16
"""GiB of a GPU for one image of ViT-S/16 with two views of 224 and ten of 96 pixels in bfloat16;
estimated."""
OF_WEIGHTS = "network and patches: those of the weights"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice rests on."""

    data: Survey
    gpu_memory: float
    """GiB of each GPU; 0 without one."""
    processes: int = 1
    length: Duration | None = None
    """Of the run, where the user gave one: the clocks follow it."""
    batch: int = 0
    """Where the user gave one; else 0."""
    whole: bool = True
    """Whether images are read whole, not by windows."""
    images_from: DataConfig = field(default_factory=DataConfig)
    """Where the images are, and how they are read."""
    from_weights: bool = False
    """Whether the run starts from weights."""


def choose(facts: Facts) -> tuple[Config, list[str]]:
    """Settings for these data on this device, and the reasons.

    Returns the configuration (checked by the caller) and one line per choice, warnings first.
    """
    reasons = list(_doubts(facts))
    config = _on_gpu(facts, reasons) if facts.gpu_memory else _on_cpu(facts, reasons)
    config = _moves(_colours(config, facts, reasons), facts, reasons)
    config = _clocks(config, facts, reasons)
    return replace(config, recipe="auto"), reasons


def _doubts(facts: Facts) -> Iterator[str]:
    data = facts.data
    if data.images < ENOUGH and not facts.from_weights:
        yield (
            f"too few images: {data.images} of at least {ENOUGH} to learn from scratch what "
            f"published weights already know. First choice: {adapting(facts.images_from)} (others: "
            "ibot weights list), which first compares them, as they are, with a random start. "
            "Training goes on as asked"
        )
    if data.unreadable:
        yield (
            f"{100 * data.unreadable:.2g} % of the sampled images cannot be read: "
            "ibot data report DIR lists them with their reasons"
        )
    if data.repeated > 0.2:
        yield (
            f"{data.repeated:.0%} of the sampled images have a near twin: the set is smaller than "
            "its number says"
        )
    if data.variety < 3:
        yield (
            f"the images look alike (variety {data.variety:.1f}): expect a low rank and little to "
            "learn"
        )


def adapting(data: DataConfig) -> str:
    """The command that starts from published weights on the same images, read in the same way."""
    rows = diff(Config(), replace(Config(), data=data))
    how = [shlex.quote(f"{key}={show(value)}") for key, _, value in rows if key not in NAMED]
    return " ".join(["ibot pretrain adapt", *how, f"--init {PUBLISHED}", named(data)])


def named(data: DataConfig) -> str:
    """The images as options of a command."""
    val = f" --val-data {shlex.quote(data.val_path)}" if data.val_path else ""
    return f"--data {shlex.quote(data.path) if data.path else 'DIR'}{val}"


def _on_cpu(facts: Facts, reasons: list[str]) -> Config:
    config = tiny32() if facts.data.side <= 48 else tiny64()
    size, patch = config.augment.global_size[0], config.model.patch
    reasons.append(
        f"views of {size} pixels: images of {facts.data.side} pixels, and no GPU for more"
    )
    small = f"a small ViT (width 128, 5 blocks, patch {patch}, 16 tokens)"
    reasons.append(OF_WEIGHTS if facts.from_weights else f"{small}: what a CPU trains in an hour")
    reasons.append(
        "Sinkhorn-Knopp, KoLeo, residual targets of patches and the other view, beyond the paper: "
        "the paper's losses alone learn far later at this size"
    )
    return _sizes(config, facts, reasons, batch=64, length=400_000, prototypes=1024)


def _on_gpu(facts: Facts, reasons: list[str]) -> Config:
    if facts.data.side <= 48:
        size, patch = 32, 4
    elif facts.data.side <= 80:
        size, patch = 64, 8
    elif facts.data.side <= 144:
        size, patch = 96, 8
    else:
        size, patch = 224, 16
    config = one_gpu()
    base = facts.data.images >= 1_000_000 and facts.gpu_memory * facts.processes >= 320
    width, heads = (768, 12) if base else (384, 6)
    local = max(2 * patch, round(size * 96 / 224 / patch) * patch)
    patches = "" if facts.from_weights else f" with patches of {patch}"
    reasons.append(f"views of {size} pixels{patches}: images of {facts.data.side} pixels")
    vit = f"ViT-{'B' if base else 'S'}: {facts.data.images} images"
    gpu = f"{facts.gpu_memory:.0f} GiB per GPU"
    reasons.append(OF_WEIGHTS if facts.from_weights else f"{vit}, {gpu}")
    locals_ = 10 if size == 224 else 6
    reasons.append(f"{locals_} local views of {local} pixels")
    config = replace(
        config,
        augment=replace(
            config.augment, global_size=(size, size), local_size=(local, local), num_local=locals_
        ),
        model=replace(config.model, width=width, heads=heads, patch=patch),
    )
    batch = 1024 if facts.data.images >= 200_000 else 256
    config = _sizes(
        config, facts, reasons, batch=batch, length=facts.data.images * 100, prototypes=8192
    )
    tokens = (size // patch) ** 2
    per_image = GPU_MEMORY_PER_IMAGE * tokens / 196 * (width / 384)
    fitting = max(1, int(facts.gpu_memory * 0.8 / per_image))
    share = max(1, config.train.batch // facts.processes)
    accumulate = next(n for n in range(1, share + 1) if share % n == 0 and share / n <= fitting)
    reasons.append(
        f"{counted(accumulate, 'micro-batch')}: about {per_image:.2f} GiB an image (estimated)"
    )
    return replace(config, train=replace(config.train, accumulate=accumulate))


def _sizes(
    config: Config, facts: Facts, reasons: list[str], *, batch: int, length: int, prototypes: int
) -> Config:
    """Batch, prototypes, length for the number of images: at most those given, or the user's."""
    images = facts.data.images
    fitted = facts.batch or fitting_batch(batch, images, facts.processes)
    reasons.append(
        f"batch {fitted}" + (", as asked" if facts.batch else _why_of_batch(fitted, batch, facts))
    )
    prototypes = min(prototypes, fitting_prototypes(images))
    each = images / prototypes
    each = round(each) if each >= 10 else round(each, 1)
    reasons.append(f"{prototypes} prototypes: about {counted(each, 'image')} for each")
    seen = min(length, images * (400 if images >= ENOUGH else 200))
    if facts.length is None:
        reasons.append(f"{seen:,} images in all, {counted(max(1, round(seen / images)), 'epoch')}")
    else:
        reasons.append(
            f"{counted(facts.length.value, facts.length.unit.removesuffix('s'))}, as asked"
        )
    return replace(
        config,
        head=replace(config.head, out_dim=prototypes, patch_out_dim=prototypes),
        train=TrainConfig(length=facts.length or duration(f"{seen} images"), batch=fitted),
        evaluate=EvaluateConfig(every=duration("10 percent")),
        log=LogConfig(every=20),
        checkpoint=CheckpointConfig(every=duration("5 percent"), keep_every=duration("0 epochs")),
    )


def _why_of_batch(fitted: int, most: int, facts: Facts) -> str:
    """Why a batch is not the largest one."""
    images = facts.data.images
    if fitting_batch(most, images) < most:
        if fitted * 8 <= images:
            return f": at most an eighth of {images} images"
        return f": {counted(images, 'image')}"
    return f": equal shares of {facts.processes} processes" if fitted != most else ""


def _colours(config: Config, facts: Facts, reasons: list[str]) -> Config:
    if facts.data.gray < 0.9:
        return config
    strength = config.augment.jitter_strength
    reasons.append(f"{facts.data.gray:.0%} of the images are gray: no jitter of saturation and hue")
    return replace(
        config,
        augment=replace(
            config.augment, jitter_strength=(strength[0], strength[1], 0.0, 0.0), gray=0.0
        ),
    )


def _moves(config: Config, facts: Facts, reasons: list[str]) -> Config:
    """Flips, turns and trimming, beyond the paper, for images that show that they bear them."""
    data, augment = facts.data, config.augment
    if data.no_up:
        turns = data.no_side
        augment = replace(augment, vertical_flip=0.5, turn=0.75 if turns else 0.0)
        moves = "flips top to bottom and quarter turns" if turns else "flips top to bottom"
        reasons.append(
            f"{moves}, beyond the paper: the images have no up, turned over their average layout "
            f"changes {data.upside_down:.1f} times as much as by chance (photographs: 4 to 13; "
            "augment.vertical_flip=0 augment.turn=0 where they have one)"
        )
    trims = facts.whole and data.bordered >= BORDERED
    if trims:
        reasons.append(
            f"borders are cut off, beyond the paper: {data.bordered:.0%} of the images have one of "
            "a single colour (data.trim_border=false keeps them)"
        )
    return replace(config, augment=augment, data=replace(config.data, trim_border=trims))


def _clocks(config: Config, facts: Facts, reasons: list[str]) -> Config:
    """Momentum, temperatures and warm-ups as shares of the run."""
    steps = derive(config, facts.data.images, facts.processes).total_steps
    balanced = config.method.targets == "sinkhorn"
    momentum = momentum_for(steps, 12, 0.98) if balanced else momentum_for(steps, 31, 0.996)
    memory = round(1 / (1 - momentum))
    reasons.append(
        f"teacher momentum {momentum:g}: a memory of {memory} steps in a run of "
        f"{counted(steps, 'step')}"
    )
    warm = facts.data.images >= 100_000 and not balanced
    start, end = (0.02, 0.02) if balanced else (0.04, 0.07 if warm else 0.04)
    warmed = " to 0.07 over the first tenth, as published"
    kept = ", kept: short runs flatten when it rises"
    reasons.append(f"teacher temperature {start:g}{warmed if warm else kept}")
    return replace(
        config,
        method=replace(
            config.method,
            momentum=momentum,
            teacher_temp=end,
            teacher_temp_start=start,
            patch_temp=end,
            patch_temp_start=start,
            temp_warmup=duration("10 percent" if warm else "0 epochs"),
            temp_schedule="step" if warm else "epoch",
        ),
        optim=replace(
            config.optim,
            warmup=duration("5 percent"),
            freeze_last_layer=duration("1 percent" if warm else "0 epochs"),
        ),
    )
