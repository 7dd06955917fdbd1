"""The training of a segmentation head, and of the network below UPerNet (8.10, 8.11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.workers import read_items
from ibot.eval.dense.segmentation.heads import LinearHeads
from ibot.eval.dense.segmentation.network import Segmenter
from ibot.eval.dense.segmentation.predictions import write_about
from ibot.eval.dense.segmentation.samples import (
    Augmentation,
    TrainingBatch,
    TrainingImages,
    collate,
)
from ibot.eval.dense.segmentation.schedule import StepImages, poly_rate, rate_groups
from ibot.eval.dense.segmentation.settings import SegmentationSettings
from ibot.eval.dense.segmentation.validation import (
    PREDICTIONS,
    SegmentationResult,
    compared,
    validated,
)
from ibot.eval.dense.segmentation.windows import SlidingTest
from ibot.eval.fit import Fit, Validation
from ibot.eval.tune.layer_decay import parameter_groups
from ibot.system.device import choose_precision
from ibot.system.processes import Processes

NO_RESULT = ("checkpoint_steps", "checkpointing", "classes", "ignore", "micro_batch")
"""Settings that do not change what comes out, or are part of the images."""
_UNDECAYED = "relative_position_bias_table"
"""Of networks in stages (8.9.6)."""


def train_segmenter(
    model: Segmenter,
    train: LabelMaps,
    val: LabelMaps,
    settings: SegmentationSettings,
    *,
    judge: LabelMaps | None = None,
    device: torch.device,
    folder: Path,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    windows: int = 4,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationResult:
    """Train, score, go on from `folder`.

    Args:
        model: new, also where a folder is resumed, and on `device`; trained in place. Ends with the
            weights of the last step, in evaluation mode.
        train: training images.
        val: images to be judged on, with the same classes.
        settings: without `none`: see `ibot.eval.dense.segmentation.plan`.
        judge: images on which one of several learning rates is chosen; None: `val`.
        device: where to train.
        folder: for checkpoints and the label maps that are found. All processes see the same one.
        processes: this process among those that joined.
        windows: through the network at a time, in tests.
        seed: of everything random.
        workers: processes that decode and augment, per training process.
        progress: called with steps done and in all.

    Raises:
        MissingExtra: OpenCV is not installed. DataError: images or maps that cannot be used.
        RunError: the folder belongs to another training. WeightsError: its checkpoint is damaged.
        TrainingStopped: the loss is not finite. ResourceError: the disk is full.
    """
    assert settings.crop and settings.stride and settings.iterations and settings.batch
    fixed = settings.scale == "pixels"
    bad: set[tuple[str, int, str]] = set()
    task = _Task(
        model=model,
        train=train,
        val=val,
        judge=val if judge is None else judge,
        settings=settings,
        how=Augmentation(settings.crop, settings.ratio, fixed),
        test=SlidingTest(
            crop=settings.crop,
            stride=settings.stride,
            statistics=model.backbone.statistics,
            fixed=fixed,
            multi_scale=settings.multi_scale,
            windows=windows,
        ),
        device=device,
        folder=folder,
        processes=processes,
        seed=seed,
        workers=workers,
        bad=bad,
    )
    about = {k: v for k, v in asdict(settings).items() if k not in NO_RESULT}
    fit = Fit(
        model=model,
        optimizer=_optimizer(model, settings),
        lr=task.lr,
        batches=task.batches,
        loss=task.loss,
        validate=task.validate,
        best_by="miou",
        epochs=settings.validations,
        steps_per_epoch=settings.iterations // settings.validations,
        folder=folder,
        identity={
            "seed": seed,
            "settings": about,
            "classes": list(train.classes),
            "images": [len(train), len(val)],
            "judge": None if judge is None else len(judge),
        },
        micro_batches=task.micro_batches,
        processes=processes,
        precision=_precision(settings, device),
        checkpoint_steps=settings.checkpoint_steps,
        seed=seed,
        progress=progress,
        bad=bad,
    )
    fit.run()
    sets = {"train": train, "val": val, "judge": task.judge}
    named = [(part, sets[part].name(i), reason) for part, i, reason in sorted(fit.bad)]
    return SegmentationResult.of(fit, settings.lr, named)


def _precision(settings: SegmentationSettings, device: torch.device) -> torch.dtype:
    """Half the bits only where they are asked for or a GPU has them: on CPUs they are slow."""
    on_cpu = device.type == "cpu" and settings.precision == "auto"
    return torch.float32 if on_cpu else choose_precision(settings.precision, device)


def _optimizer(model: Segmenter, settings: SegmentationSettings) -> torch.optim.Optimizer:
    """AdamW; factors of the layers as in 8.9.5, the position table of a ViT decays as published.

    Of a frozen network heads alone are trained, with a rate each.
    """
    in_stages = len(model.backbone.depths) > 1
    named = [(name.removeprefix("backbone."), p) for name, p in model.named_parameters()]
    assert settings.layer_decay is not None
    make = partial(
        parameter_groups,
        depths=model.backbone.depths,
        layer_decay=settings.layer_decay,
        decay_tokens=not in_stages,
    )
    groups: list[dict[str, Any]] = make(named, weight_decay=settings.weight_decay)
    if in_stages:
        kept = {id(p) for name, p in named if name.endswith(_UNDECAYED)}
        tables = [{**g, "params": [p for p in g["params"] if id(p) in kept]} for g in groups]
        groups = [{**g, "params": [p for p in g["params"] if id(p) not in kept]} for g in groups]
        groups += [{**g, "weight_decay": 0.0} for g in tables]
    if isinstance(model.head, LinearHeads):
        groups = rate_groups(model.head.classify, settings.lr, settings.weight_decay)
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What the fit asks of a segmentation."""

    model: Segmenter
    train: LabelMaps
    val: LabelMaps
    judge: LabelMaps
    settings: SegmentationSettings
    how: Augmentation
    test: SlidingTest
    device: torch.device
    folder: Path
    processes: Processes
    seed: int
    workers: int
    bad: set[tuple[str, int, str]]
    """The fit's."""

    def lr(self, step: int) -> float:
        """Of UPerNet; below linear heads, which have a rate each, its share of that."""
        settings = self.settings
        assert settings.iterations and settings.warmup is not None
        base = 1.0 if self.model.frozen else settings.lr[0]
        return poly_rate(step, base, settings.iterations, settings.warmup)

    @property
    def micro_batches(self) -> int:
        """Of each process in a step, all of one size."""
        assert self.settings.batch
        share = self.settings.batch // self.processes.world_size
        most = min(self.settings.micro_batch or share, share)
        return share // max(size for size in range(1, most + 1) if share % size == 0)

    def batches(self, step: int) -> Iterator[TrainingBatch]:
        """Augmented training images of this process from `step` on."""
        settings, side = self.settings, self.how.crop
        assert settings.batch and settings.iterations
        images = TrainingImages(self.train, self.how, self.model.backbone.statistics, self.seed)
        order = StepImages(
            len(self.train), settings.batch, settings.iterations, self.seed, self.processes
        )
        order = replace(order, start=step, micro_batches=self.micro_batches)
        parts = self.micro_batches * self.processes.world_size
        return read_items(
            images,
            self.workers,
            (4 * 3 + 2) * side * side * settings.batch // parts,
            pin=self.device.type == "cuda",
            batch_sampler=order,
            collate_fn=collate,
        )

    def loss(self, network: nn.Module, batch: TrainingBatch, step: int, part: int) -> Tensor:
        """In nats per pixel; each part has as many pixels, so that their mean is that of all."""
        self.bad.update(("train", *item) for item in batch.bad)
        images, labels = (t.to(self.device, non_blocking=True) for t in batch[:2])
        return self.model.loss(network(images), labels)

    def validate(self) -> Validation:
        """Scores in per cent; numbers and areas of the images that were read."""
        found, rates = self.folder / PREDICTIONS, self.settings.lr
        if self.processes.is_main:
            write_about(found, self.val)
        part = "val" if self.judge is self.val else "judge"
        return validated(
            rates,
            lambda: self._compared(self.judge, part, range(len(rates)), None)[1],
            lambda head: self._compared(self.val, "val", (head,), found),
        )

    def _compared(
        self, maps: LabelMaps, part: str, heads: Sequence[int], folder: Path | None
    ) -> tuple[Tensor, Tensor]:
        def scores(images: Tensor) -> Tensor:
            logits = self.model(images)
            return torch.cat([logits[head] for head in heads], dim=1)

        return compared(
            maps,
            lambda _, pixels: self.test.classes(scores, pixels, self.device, len(heads)),
            heads=len(heads),
            bad=self.bad,
            part=part,
            folder=folder,
            processes=self.processes,
            workers=self.workers,
            device=self.device,
        )
