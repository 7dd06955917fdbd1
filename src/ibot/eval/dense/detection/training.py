"""The training of a detector and its test (spec_evaluation 8.9.5, 8.9.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ibot.data.annotated.coco import CocoImages
from ibot.data.workers import read_items
from ibot.errors import ConfigError
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.detector import Detector
from ibot.eval.dense.detection.evaluator import FoundObjects
from ibot.eval.dense.detection.order import GroupedOrder
from ibot.eval.dense.detection.settings import WARMUP_STEPS, DetectionSettings
from ibot.eval.dense.detection.views import MULTIPLE, Read, TestViews, TrainingViews, collate
from ibot.eval.fit import Fit, Validation
from ibot.eval.tune.layer_decay import does_decay, layer_of, layer_scales
from ibot.system.device import choose_precision
from ibot.system.processes import Processes

WARMUP_START = 0.001
"""Of the rate, in the first step of the warm-up."""
_NO_RESULT = ("checkpoint_steps", "checkpointing", "epochs", "steps", "micro_batch", "batch")
"""Settings that do not change what comes out, or are part of the plan."""
_UNDECAYED = ("norm", "relative_position_bias_table", "absolute_pos_embed")
"""Parts of names of parameters that do not decay in a network in stages."""
MOST_IMAGES = 0.95
"""Share of the images that loader processes have room for the masks of."""


class Plan(NamedTuple):
    """How a training is cut."""

    steps: int
    batch: int
    """Images per step over all processes."""
    micro_batch: int
    """Images per forward pass."""
    world_size: int = 1

    @property
    def parts(self) -> int:
        """Micro-batches per step over all processes."""
        return self.batch // self.micro_batch

    @property
    def together(self) -> int:
        """Images whose statistics are taken together, over all processes."""
        return self.micro_batch * self.world_size


class DetectionResult(NamedTuple):
    """What a training leaves, beside the trained network."""

    train_loss: float
    """Mean over the steps of the sum of all losses."""
    found: FoundObjects
    """In the validation images, by the weights of the last step."""
    bad: tuple[tuple[str, str, str], ...]
    """(train or val, name of the image, reason) of what could not be read."""


def plan_training(images: CocoImages, settings: DetectionSettings, world_size: int = 1) -> Plan:
    """Share the batch among processes, in micro-batches as large as is allowed.

    Raises ConfigError for a batch that they cannot share equally.
    """
    share = settings.batch // world_size
    if share * world_size != settings.batch:
        raise ConfigError(
            f"batch={settings.batch} cannot be shared by {world_size} processes",
            fix=f"for example batch={max(1, share) * world_size}",
        )
    micro_batch = max(k for k in range(1, settings.micro_batch + 1) if share % k == 0)
    order = GroupedOrder(wide=wide(images), batch=settings.batch, parts=1, seed=0, steps=0)
    steps = settings.steps or settings.epochs * order.steps_per_epoch
    return Plan(steps, settings.batch, micro_batch, world_size)


def wide(images: CocoImages) -> Any:
    """Which images are wider than high: bool [n]."""
    return images.sizes[:, 1] > images.sizes[:, 0]


def detection_lr(step: int, settings: DetectionSettings, steps: int) -> float:
    """Learning rate of the fresh layers in a step, from 0: warm-up, then a tenth at each drop."""
    epoch = step * settings.epochs // steps
    rate = settings.lr * 0.1 ** sum(epoch >= drop for drop in settings.drops)
    warmup = WARMUP_STEPS if settings.warmup_steps is None else settings.warmup_steps
    if step >= warmup:
        return rate
    return rate * (1 - (1 - step / warmup) * (1 - WARMUP_START))


def parameter_groups(detector: Detector, settings: DetectionSettings) -> list[dict[str, Any]]:
    """Optimizer groups with their `lr_scale` and `weight_decay`.

    A ViT's vectors and biases do not decay; class token and position table do, as published: the
    published exemption tests for other names. In a network in stages biases decay and norms do not;
    the batch norms of the heads do.
    """
    depths = detector.backbone.depths
    scales = layer_scales(sum(depths), settings.layer_decay)
    norms = {
        f"{name}.{own}"
        for name, module in detector.named_modules()
        if isinstance(module, nn.LayerNorm)
        for own, _ in module.named_parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix("backbone.")
        decays = does_decay(own, parameter.ndim, decay_tokens=True)
        if len(depths) > 1:
            decays = name not in norms and not any(part in own for part in _UNDECAYED)
        scale = scales[layer_of(own, depths)]
        decay = settings.weight_decay if decays else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": members, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), members in groups.items()
    ]


def train_detector(
    detector: Detector,
    train: CocoImages,
    val: CocoImages,
    plan: Plan,
    *,
    device: torch.device,
    folder: Path,
    masks: bool = False,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DetectionResult:
    """Train, go on from `folder`, and look for objects in the validation images at the end.

    Args:
        detector: new, also where a folder is resumed, and on `device`; trained in place.
        train: images to learn from.
        val: images to be judged on, with the same classes.
        plan: how the training is cut.
        device: where to train.
        folder: for checkpoints. All processes see the same one.
        masks: whether the masks that are found are scored.
        processes: this process among those that joined.
        seed: of everything random.
        workers: processes that decode and resize, per training process.
        progress: called with steps done and in all.

    Raises:
        DataError: images that cannot be read. RunError: the folder belongs to another training.
        WeightsError: its checkpoint is damaged. TrainingStopped: the loss is not finite.
        ResourceError: the disk is full. MissingExtra: OpenCV is not installed.
    """
    settings, bad = detector.settings, set[tuple[str, int, str]]()
    task = _Task(
        detector=detector,
        train=train,
        val=val,
        plan=plan,
        device=device,
        masks=masks,
        processes=processes,
        seed=seed,
        workers=workers,
        bad=bad,
    )
    about = {name: value for name, value in asdict(settings).items() if name not in _NO_RESULT}
    fit = Fit(
        model=detector,
        optimizer=torch.optim.AdamW(
            parameter_groups(detector, settings), lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True
        ),
        lr=lambda step: detection_lr(step, settings, plan.steps),
        batches=task.batches,
        loss=task.loss,
        validate=task.validate,
        best_by="images",
        epochs=1,  # tested once, at the end
        steps_per_epoch=plan.steps,
        micro_batches=plan.parts // processes.world_size,
        folder=folder,
        identity={
            "seed": seed,
            "settings": {**about, "drops": list(settings.drops), "table": list(settings.table)},
            "plan": [plan.steps, plan.batch, plan.together],
            "images": [train.fingerprint(), val.fingerprint()],
        },
        processes=processes,
        precision=precision_of(settings, device),
        checkpoint_steps=settings.checkpoint_steps,
        seed=seed,
        progress=progress,
        bad=bad,
    )
    fit.run()
    output, sets = fit.output(0), {"train": train, "val": val}
    found = FoundObjects(val, masks, set(output["read"]), output["results"])
    unread = tuple((part, sets[part].name(i), reason) for part, i, reason in sorted(fit.bad))
    return DetectionResult(fit.scores[0]["train_loss"], found, unread)


def padded_to(detector: Detector) -> int:
    """Pixels of which the sides of inputs are a multiple: whole cells of the coarsest map."""
    return max(MULTIPLE, detector.pyramid.strides[-1])


def num_bytes(settings: DetectionSettings, masks_of: CocoImages | None = None) -> int:
    """Bytes of the largest input, with as many masks as most images have of `masks_of`."""
    counts = [0] if masks_of is None else masks_of.num_trained()
    return settings.short * settings.long * (4 * 3 + int(np.quantile(counts, MOST_IMAGES)))


def precision_of(settings: DetectionSettings, device: torch.device) -> torch.dtype:
    """Type of the matrix products; a CPU computes in float32 unless told otherwise."""
    if settings.precision == "auto" and device.type == "cpu":
        return torch.float32
    return choose_precision(settings.precision, device)


@dataclass(kw_only=True, slots=True)
class _Task:
    """What the fit asks of a detection."""

    detector: Detector
    train: CocoImages
    val: CocoImages
    plan: Plan
    device: torch.device
    masks: bool
    processes: Processes
    seed: int
    workers: int
    bad: set[tuple[str, int, str]]
    """The fit's."""

    def batches(self, step: int) -> Iterator[Read]:
        """Micro-batches of this process from `step` on."""
        settings, backbone = self.detector.settings, self.detector.backbone
        views = TrainingViews(
            images=self.train,
            settings=settings,
            statistics=backbone.statistics,
            masks=bool(self.detector.cascade.mask_heads),
            seed=self.seed,
        )
        order = GroupedOrder(
            wide=wide(self.train),
            batch=self.plan.batch,
            parts=self.plan.parts,
            seed=self.seed,
            processes=self.processes,
            start=step,
            steps=self.plan.steps,
        )
        return read_items(
            views,
            self.workers,
            self.plan.micro_batch * num_bytes(settings, self.train if views.masks else None),
            batch_sampler=order,
            collate_fn=partial(collate, multiple=padded_to(self.detector)),
        )

    def loss(self, network: nn.Module, read: Read, step: int, part: int) -> Tensor:
        """The sum of all losses."""
        self.bad.update(("train", *item) for item in read.bad)
        batch = read.batch.to(self.device).padded_alike()
        losses = network(batch, Draws(self.seed, step))
        return torch.stack(list(losses.values())).sum()

    def validate(self) -> Validation:
        """What is found in the validation images, of all processes."""
        settings, backbone = self.detector.settings, self.detector.backbone
        views = TestViews(
            images=self.val,
            indices=range(self.processes.rank, len(self.val), self.processes.world_size),
            settings=settings,
            statistics=backbone.statistics,
        )
        found = FoundObjects(self.val, self.masks)
        items = read_items(
            views,
            self.workers,
            num_bytes(settings),
            batch_size=1,
            collate_fn=partial(collate, multiple=padded_to(self.detector)),
        )
        for read in items:
            self.bad.update(("val", *item) for item in read.bad)
            if not read.bad:
                (one,) = self.detector.detect(read.batch.to(self.device))
                found.add(read.batch.index[0], one)
        joined = found.joined()
        output = {"read": sorted(joined.read), "results": joined.results}
        return Validation({"images": float(len(joined.read))}, output)
