"""What follows from settings and data: steps, rates, clipped warm-ups, contradictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ibot.config.duration import Duration
from ibot.config.history import Epochs
from ibot.config.override import show
from ibot.config.patches import patch_problems
from ibot.config.reading import PICTURES, RGB, DataConfig
from ibot.config.schema import Config, ModelConfig, TrainConfig
from ibot.errors import ConfigError
from ibot.words import counted

MOST_PROTOTYPES = 8192
"""As many as published."""
MAX_SIGMA = 1e3
"""Of blur: far beyond what means anything, within what a kernel in C can count."""

VIEWS_MADE = {
    "exact": "as Pillow makes them, bit by bit",
    "fast": "fast on the CPU, some grey levels off Pillow's",
    "device": "on the training device, some grey levels off Pillow's; loaders only decode",
    "auto": "on the training device if that is a GPU, else fast on the CPU",
}
"""How the views are made, by `data.pixels`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """Values derived from a configuration, the number of images and the number of processes."""

    steps_per_epoch: int
    """Of the images that it trains on now."""
    total_steps: int
    """Length of the schedules."""
    lengths: tuple[tuple[int, int], ...]
    """First step and total steps of each length that the run was given."""
    run_steps: int
    """Where the run stops: the total, or `train.max_steps` before it."""
    warmup_steps: int
    temp_warmup_steps: int
    freeze_steps: int
    head_warmup_steps: int
    mask_start: int
    """First step with masks and a patch loss."""
    lr_actual: float
    """Peak learning rate after scaling with the batch."""
    batch_per_process: int
    notes: tuple[str, ...]
    """What was clipped, in words."""


def derive(config: Config, num_images: int, world_size: int = 1) -> Derived:
    """Turn durations into steps; longer warm-ups are clipped, with a note (spec Q52, Q62).

    An epoch of fewer images than a batch counts one step here; the loader refuses it.
    """
    train, notes = config.train, []
    if world_size == 1 and config.system.shard != "none":
        notes.append(
            f"system.shard={config.system.shard} divides networks among several processes: this "
            "one holds all of them"
        )
    epochs = Epochs.of(train, num_images)
    # Warm-ups are those of the run as it began, whatever became of it.
    steps_per_epoch = epochs.lists[0][2]

    def steps(length: Duration, total: int = 0) -> int:
        return length.steps(batch=train.batch, steps_per_epoch=steps_per_epoch, total_steps=total)

    lengths = train.lengths or ((0, max(1, steps(train.length))),)
    total, whole = lengths[0][1], lengths[-1][1]

    def clipped(name: str, length: Duration, longest: int, instead: int) -> int:
        wanted = steps(length, total)
        if wanted <= longest:
            return wanted
        notes.append(
            f"{name} = {length} is longer than the run allows: clipped to {instead} of {total} "
            "steps"
        )
        return instead

    whole_epochs = max(1, total // steps_per_epoch) * steps_per_epoch
    start = config.mask.start
    mask_start = epochs.step_of(start.value) if start.unit == "epochs" else steps(start, total)
    temp_limit = max(0, whole_epochs - steps(start, total))
    return Derived(
        steps_per_epoch=epochs.lists[-1][2],
        total_steps=whole,
        lengths=lengths,
        run_steps=min(whole, train.max_steps) if train.max_steps else whole,
        # A clipped ramp leaves half of the run to the cosine; a published one may be as long as the
        # run.
        warmup_steps=clipped("optim.warmup", config.optim.warmup, total, total // 2),
        temp_warmup_steps=clipped(
            "method.temp_warmup", config.method.temp_warmup, temp_limit, temp_limit
        ),
        freeze_steps=clipped(
            "optim.freeze_last_layer", config.optim.freeze_last_layer, total - 1, total // 4
        ),
        head_warmup_steps=clipped(
            "train.head_warmup", config.train.head_warmup, total // 2, total // 10
        ),
        mask_start=mask_start,
        lr_actual=config.optim.lr * train.batch / 256,
        batch_per_process=train.batch // world_size,
        notes=tuple(notes),
    )


def largest_power_of_two(limit: int) -> int:
    """The largest power of two up to `limit`."""
    return 1 << (limit.bit_length() - 1)


def fitting_prototypes(num_images: int) -> int:
    """Prototypes for so many images: one for 16, but at least 32 and no more than images."""
    return largest_power_of_two(min(MOST_PROTOTYPES, max(2, num_images // 16, min(32, num_images))))


def check(config: Config) -> None:
    """Raise one ConfigError that names every setting that cannot work."""
    problems = list(_problems(config))
    if problems:
        what = (
            problems[0] if len(problems) == 1 else f"{len(problems)} settings cannot work together"
        )
        raise ConfigError(
            what,
            why="; ".join(problems) if len(problems) > 1 else "",
            fix="change the settings named",
        )


def check_shares(train: TrainConfig, world_size: int, *, begun: bool = False) -> None:
    """Raise ConfigError for a batch that so many processes cannot share equally.

    begun: of a run that exists, whose batch stays: the remedy is another number of processes.
    """
    shares = world_size * train.accumulate
    if train.batch % shares:
        raise ConfigError(
            f"train.batch={train.batch} cannot be shared equally",
            why=f"{counted(world_size, 'process')} x train.accumulate={train.accumulate} "
            "micro-batches",
            fix=_near(train, world_size) if begun else f"make train.batch a multiple of {shares}",
        )


def _near(train: TrainConfig, world_size: int) -> str:
    """The numbers of processes next to `world_size` that can share a run's batch (one can)."""
    most = train.batch // train.accumulate
    fitting = [n for n in range(1, most + 1) if train.batch % (n * train.accumulate) == 0]
    fewer, more = ([n for n in fitting if (n > world_size) == above] for above in (False, True))
    words = " or ".join(str(n) for n in (*fewer[-1:], *more[:1]))
    return f"the run keeps its batch: start {words} process{'' if words == '1' else 'es'}"


def _problems(config: Config) -> Iterator[str]:
    yield from _view_problems(config)
    yield from _network_problems(config)
    yield from patch_problems(config)
    yield from _method_problems(config)
    train = config.train
    if train.batch < 1 or train.accumulate < 1:
        yield (
            f"train.batch={train.batch} and train.accumulate={train.accumulate} must be at least 1"
        )
    if train.length.value <= 0 or train.length.unit == "percent":
        yield f"train.length={train.length} must be a positive number of epochs, steps or images"
    if config.data.max_pixels < 1:
        yield f"data.max_pixels={config.data.max_pixels} must be at least 1"
    yield from _window_problems(config.data)
    if train.seed < 0:
        yield f"train.seed={train.seed} must not be negative"
    if train.max_steps < 0:
        yield f"train.max_steps={train.max_steps} must not be negative"
    if config.evaluate.match < 0:
        yield f"evaluate.match={config.evaluate.match} images must not be negative"


def _window_problems(data: DataConfig) -> Iterator[str]:
    if data.window < 0 or data.windows < 0:
        yield f"data.window={data.window} and data.windows={data.windows} must not be negative"
    if not 0 <= data.window_content <= 1:
        yield f"data.window_content={data.window_content} must be a share, 0..1"
    if not data.window and (data.windows or data.window_content):
        yield "data.windows and data.window_content are of windows: data.window gives their side"
    if data.window and data.trim_border:
        yield "data.trim_border cuts off borders of whole images, and data.window reads parts"


def _view_problems(config: Config) -> Iterator[str]:
    augment, model = config.augment, config.model
    if (
        augment.num_global < 1
        or augment.num_local < 0
        or augment.num_global + augment.num_local < 2
    ):
        yield (
            f"augment.num_global={augment.num_global}, num_local={augment.num_local}: at least one "
            "global view and two views in all are needed"
        )
    for name, size in (("global_size", augment.global_size), ("local_size", augment.local_size)):
        if min(size) < model.patch:
            yield (
                f"augment.{name}={size[0]},{size[1]} is smaller than a patch of {model.patch} "
                "pixels"
            )
    if model.kind == "swin" and any(side % model.stride for side in augment.global_size):
        height, width = augment.global_size
        yield (
            f"augment.global_size={height},{width} must be multiples of {model.stride}, the mask "
            "cell of this Swin"
        )
    for name in ("global_scale", "local_scale"):
        low, high = getattr(augment, name)
        if not 0 < low <= high <= 1:
            yield f"augment.{name}={low:g},{high:g} must rise within 0 and 1"
    low, high = augment.aspect
    if not 0 < low <= high:
        yield f"augment.aspect={low:g},{high:g} must rise above 0"
    low, high = augment.blur_sigma
    if not 0 <= low <= high <= MAX_SIGMA:
        yield f"augment.blur_sigma={low:g},{high:g} must rise within 0 and {MAX_SIGMA:g} pixels"
    yield from _turn_problems(config)


def _turn_problems(config: Config) -> Iterator[str]:
    augment = config.augment
    for name in ("flip", "vertical_flip", "turn"):
        if not 0 <= (value := getattr(augment, name)) <= 1:
            yield f"augment.{name}={value:g} is a probability: it must lie within 0 and 1"
    sizes = {"global_size": augment.global_size}
    if augment.num_local:
        sizes["local_size"] = augment.local_size
    for name, (height, width) in sizes.items():
        if augment.turn > 0 and height != width:
            yield f"augment.turn needs square views, and augment.{name}={height},{width}"


def _network_problems(config: Config) -> Iterator[str]:
    model, head = config.model, config.head
    yield from {"vit": _vit_problems, "swin": _swin_problems}[model.kind](model)
    yield from _channel_problems(config)
    if not 0 <= model.drop_path < 1:
        yield f"model.drop_path={model.drop_path:g} must be at least 0 and below 1"
    if head.layers < 1 or head.out_dim < 2 or head.patch_out_dim < 2:
        yield (
            f"head.layers={head.layers} must be at least 1, head.out_dim and head.patch_out_dim at "
            "least 2"
        )
    if head.shared_layers != -1 and not 0 <= head.shared_layers <= head.layers:
        yield (
            f"head.shared_layers={head.shared_layers} must be -1 or lie within 0 and "
            f"head.layers={head.layers}"
        )
    if 0 <= head.shared_layers < head.layers and (
        not head.bottleneck_dim
        or head.layers < 2
        or head.norm in ("bn", "syncbn")
        or head.shared
        or head.shared_teacher
    ):
        yield (
            f"head.shared_layers={head.shared_layers} needs a bottleneck, two layers, no batch "
            "norm, and head.shared=false with head.shared_teacher=false"
        )
    if (head.shared or head.shared_teacher) and head.out_dim != head.patch_out_dim:
        yield (
            f"a shared head needs head.out_dim={head.out_dim} equal to "
            f"head.patch_out_dim={head.patch_out_dim}, or head.shared=false and "
            "head.shared_teacher=false"
        )


def _channel_problems(config: Config) -> Iterator[str]:
    model, names = config.model, config.model.channels
    if not names or len(set(names)) < len(names) or any(not n or "," in n for n in names):
        yield f"model.channels={show(names)} needs one name or more, each once, without commas"
    # Where images of other channels are read, they say how many there are.
    known = names != RGB or config.data.reading == PICTURES
    for name in ("mean", "std"):
        values = getattr(model, name)
        if len(values) != len(names) and known:
            yield (
                f"model.{name} has {counted(len(values), 'number')} for "
                f"{counted(len(names), 'channel')}: one for each is needed"
            )
    if any(deviation <= 0 for deviation in model.std):
        yield f"model.std={show(model.std)} must be positive: images are divided by it"


def _vit_problems(model: ModelConfig) -> Iterator[str]:
    if model.width < 1 or model.heads < 1 or model.width % model.heads:
        yield f"model.width={model.width} is not a multiple of model.heads={model.heads}"
    if model.depth < 1:
        yield f"model.depth={model.depth} must be at least 1"


def _swin_problems(model: ModelConfig) -> Iterator[str]:
    depths, heads = model.depths, model.stage_heads
    if not depths or len(depths) != len(heads) or min(depths) < 1:
        yield (
            f"model.depths={show(depths)} and model.stage_heads={show(heads)} need one positive "
            "number for each stage"
        )
    for k, count in enumerate(heads):
        if count < 1 or (model.width * 2**k) % count:
            yield (
                f"model.width={model.width} times {2**k} is not a multiple of the {count} heads of "
                f"stage {k + 1}"
            )
    if model.window < 2:
        yield f"model.window={model.window} must be at least 2"
    for name in ("layer_scale", "mean_pooling", "registers"):
        if getattr(model, name):
            yield f"model.{name} is an option of the ViT; a Swin has none"


def _method_problems(config: Config) -> Iterator[str]:
    method, optim = config.method, config.optim
    for name in ("teacher_temp", "teacher_temp_start", "patch_temp", "patch_temp_start"):
        value = getattr(method, name)
        if not 0 < value < method.student_temp * 10:
            yield f"method.{name}={value:g} must be positive and below ten times the student's"
    if not 0 <= method.momentum <= 1:
        yield f"method.momentum={method.momentum:g} must lie within 0 and 1"
    if method.patch_target == "color" and config.model.channels != RGB:
        yield (
            "method.patch_target=color takes the mean colour of a patch: it needs images in red, "
            "green and blue"
        )
    if method.patch_match != "hidden" and (
        config.augment.num_global != 2 or method.patch_target != "online"
    ):
        yield (
            f"method.patch_match={method.patch_match} pairs two global views: it needs "
            "augment.num_global=2 and method.patch_target=online"
        )
    for name in ("center_momentum", "center_momentum_patch"):
        if not 0 <= getattr(method, name) <= 1:
            yield f"method.{name}={getattr(method, name):g} must lie within 0 and 1"
    if optim.lr < 0 or optim.min_lr < 0 or optim.clip < 0:
        yield "optim.lr, optim.min_lr and optim.clip must not be negative"


def warnings(config: Config) -> list[str]:
    """Settings that work but that users have regretted (users' reports of the method's family)."""
    method, notes = config.method, []
    if max(method.teacher_temp, method.patch_temp) > method.student_temp:
        notes.append(
            "a teacher temperature above the student's flattens the targets: the loss will sit at "
            "ln K"
        )
    if (
        method.teacher_temp < method.teacher_temp_start
        or method.patch_temp < method.patch_temp_start
    ):
        notes.append("a teacher temperature falls during its warm-up; the method raises it")
    if config.optim.name == "adamw" and config.optim.lr * config.train.batch / 256 > 0.01:
        notes.append(
            f"a peak learning rate of {config.optim.lr * config.train.batch / 256:g} is high for "
            "AdamW"
        )
    if method.targets == "sinkhorn" and 1.0 in (
        method.center_momentum,
        method.center_momentum_patch,
    ):
        notes.append(
            "method.targets=sinkhorn balances without centers: method.center_momentum=1 changes "
            "nothing, method.targets=center does"
        )
    if config.head.shared != config.head.shared_teacher:
        notes.append(
            "student and teacher heads are shared differently: one teacher layer follows another "
            "(quirk Q46)"
        )
    return [*notes, *_unseen_pixels(config)]


def _unseen_pixels(config: Config) -> Iterator[str]:
    """Views that are no whole number of patches: the network cuts off what is left over."""
    augment, patch = config.augment, config.model.patch
    sizes = {"global_size": augment.global_size} | (
        {"local_size": augment.local_size} if augment.num_local else {}
    )
    for name, (height, width) in sizes.items():
        rows, columns = height % patch, width % patch
        if rows or columns:
            yield (
                f"augment.{name}={height},{width} is no multiple of model.patch={patch}: the last "
                f"{counted(rows, 'row')} and {counted(columns, 'column')} of pixels are not seen"
            )
