"""Fine-tuning of a whole network on labelled images (spec_evaluation 8.4, 8.5, 8.7; appendix C).

The loop, the files and how a run goes on: `ibot.eval.fit`. Here is what makes it a fine-tuning:
layer-wise rates, augmented and mixed images, soft targets, and accuracy after each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.data.pixels import normalize
from ibot.data.sets.images import LabelledImages
from ibot.data.workers import read_items
from ibot.errors import DataError
from ibot.eval.fit import Fit, Validation
from ibot.eval.scores import topk_hits
from ibot.eval.tune.augment import (
    Mixing,
    TrainingSample,
    TrainingViews,
    ValidationViews,
    finetune_transform,
    validation_view,
)
from ibot.eval.tune.layer_decay import parameter_groups
from ibot.eval.tune.network import Classifier
from ibot.eval.tune.settings import FinetuneSettings
from ibot.eval.tune.step_plan import StepOrder, StepPlan, finetune_lr, plan_steps
from ibot.system.device import choose_precision
from ibot.system.distributed import sum_in_place
from ibot.system.processes import Processes

_NO_RESULT = ("checkpoint_steps",)
"""Settings that do not change what comes out: a run may be resumed with others."""


@dataclass(frozen=True, slots=True)
class EpochScore:
    """One epoch; accuracies in per cent of the validation images that can be read."""

    epoch: int
    """From 0."""
    train_loss: float
    """Mean over the steps, in nats, against the soft targets."""
    top1: float
    top5: float | None
    """None with fewer than five classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """What a fine-tuning leaves, beside the trained network."""

    scores: tuple[EpochScore, ...]
    best_epoch: int
    """The first one with the highest top-1: a choice on the validation images, as published."""
    last_logits: Tensor
    """float32 [n, C] on the CPU, after the last epoch."""
    best_logits: Tensor
    """float32 [n, C], after the best epoch."""
    labels: Tensor
    """int64 [n]."""
    index: Tensor
    """int64 [n], the validation images that can be read."""
    best_weights: Path
    """File with the network's tensors after the best epoch, under `model`."""
    notes: tuple[str, ...] = ()
    """Where the settings did not fit the data and what was used instead."""
    bad: tuple[tuple[str, str, str], ...] = ()
    """(train or val, name of the image, reason) of what could not be read, in the sets' order."""


def finetune(
    classifier: Classifier,
    train: LabelledImages,
    val: LabelledImages,
    settings: FinetuneSettings,
    *,
    size: int,
    device: torch.device,
    folder: Path,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FinetuneResult:
    """Train backbone and classifier together, score after each epoch, go on from `folder`.

    Args:
        classifier: new, also where a folder is resumed; trained in place. Ends with the weights of
            the last epoch, in evaluation mode, on `device`.
        train: training images, labels 0..C-1.
        val: validation images. Scored with the weights themselves, never with their running mean,
            as published.
        settings: see `FinetuneSettings`.
        size: side of the square input in pixels; the position table is resampled to it.
        device: where to train.
        folder: for checkpoints; created when absent. All processes must see the same one.
        processes: this process among those that joined by `init_processes`.
        seed: of everything random.
        workers: processes that decode and augment, per training process.
        progress: called with steps done and in all.

    Raises:
        MissingExtra: timm is not installed.
        DataError: too few images, or none that can be read.
        RunError: the folder belongs to other settings, weights or data.
        WeightsError: its checkpoint is damaged.
        TrainingStopped: the loss is not finite.
        ResourceError: the disk is full.
    """
    plan = plan_steps(len(train), classifier.num_classes, settings, processes.world_size)
    classifier.backbone.resize_positions((size, size), "exact")
    classifier.to(device)
    bad: set[tuple[str, int, str]] = set()
    task = _Task(
        classifier=classifier,
        train=train,
        val=val,
        settings=settings,
        plan=plan,
        mixing=Mixing(settings, classifier.num_classes, seed, enabled=plan.mixing),
        size=size,
        device=device,
        processes=processes,
        seed=seed,
        workers=workers,
        bad=bad,
    )
    on_cpu = device.type == "cpu"
    identity = _identity((train, val), settings, plan)
    fit = Fit(
        model=classifier,
        optimizer=_optimizer(classifier, settings),
        lr=task.lr,
        batches=task.micro_batches,
        loss=task.loss,
        validate=task.validate,
        best_by="top1",
        epochs=settings.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        micro_batches=plan.parts // processes.world_size,
        folder=folder,
        identity={"seed": seed, "size": size, **identity},
        processes=processes,
        precision=torch.float32 if on_cpu else choose_precision(settings.precision, device),
        ema_decay=settings.ema_decay,
        checkpoint_steps=settings.checkpoint_steps,
        seed=seed,
        progress=progress,
        bad=bad,
    )
    fit.run()
    return _result(fit, train, val, plan.notes)


class _MicroBatch(NamedTuple):
    images: Tensor
    """float32 [B, 3, S, S]."""
    labels: Tensor
    """int64 [B]."""
    bad: list[tuple[int, str]]


def _collate(samples: Sequence[TrainingSample | DataError]) -> _MicroBatch | DataError:
    read = [sample for sample in samples if isinstance(sample, TrainingSample)]
    failed = [sample for sample in samples if isinstance(sample, DataError)]
    if failed:
        return failed[0]
    return _MicroBatch(
        torch.stack([sample.view for sample in read]),
        torch.tensor([sample.label for sample in read]),
        [bad for sample in read for bad in sample.bad],
    )


def _optimizer(classifier: Classifier, settings: FinetuneSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(
        [(name.removeprefix("backbone."), p) for name, p in classifier.named_parameters()],
        classifier.backbone.depths,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
        decay_tokens=settings.decay_tokens,
    )
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What the fit asks of a fine-tuning."""

    classifier: Classifier
    train: LabelledImages
    val: LabelledImages
    settings: FinetuneSettings
    plan: StepPlan
    mixing: Mixing
    size: int
    device: torch.device
    processes: Processes
    seed: int
    workers: int
    bad: set[tuple[str, int, str]]
    """The fit's."""

    def lr(self, step: int) -> float:
        """Of the last layer."""
        plan = self.plan
        return finetune_lr(
            step, self.settings, steps_per_epoch=plan.steps_per_epoch, batch=plan.batch
        )

    def micro_batches(self, step: int) -> Iterator[_MicroBatch]:
        """Augmented training images of this process from `step` on."""
        statistics = self.classifier.backbone.statistics
        transform = finetune_transform(self.settings, self.size, statistics)
        order = StepOrder(
            len(self.train), self.plan, self.settings, self.seed, self.processes, step
        )
        return read_items(
            TrainingViews(self.train, transform, self.seed),
            self.workers,
            4 * 3 * self.size * self.size * self.plan.micro_batch,
            pin=self.device.type == "cuda",
            batch_sampler=order,
            collate_fn=_collate,
        )

    def loss(self, network: nn.Module, micro_batch: _MicroBatch, step: int, part: int) -> Tensor:
        """Soft-target cross-entropy in nats of micro-batch number `part` of the step."""
        self.bad.update(("train", *item) for item in micro_batch.bad)
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in micro_batch[:2])
        images, targets = self.mixing(images, labels, step, part)
        return F.cross_entropy(network(images).float(), targets)

    def validate(self) -> Validation:
        """Accuracies in per cent; numbers int64 [n] and logits float32 [n, C] of what was read."""
        index, logits = self._validation_logits()
        labels = _labels(self.val, index)
        top1 = 100 * topk_hits(logits, labels, 1).double().mean().item()
        top5 = None
        if logits.shape[1] >= 5:
            top5 = 100 * topk_hits(logits, labels, 5).double().mean().item()
        return Validation({"top1": top1, "top5": top5}, {"index": index, "logits": logits})

    def _validation_logits(self) -> tuple[Tensor, Tensor]:
        """Each process scores its share; the shares are disjoint, so that a sum joins them."""
        own = range(self.processes.rank, len(self.val), self.processes.world_size)
        views = ValidationViews(self.val, own, validation_view(self.settings, self.size))
        batch = self.settings.micro_batch
        loader = read_items(
            views, self.workers, 3 * self.size**2 * batch, batch_size=batch, collate_fn=list
        )
        # Last column: 1 for an image that was read.
        table = torch.zeros(len(self.val), self.classifier.num_classes + 1, device=self.device)
        for items in loader:
            self.bad.update(("val", i, view) for i, view in items if isinstance(view, str))
            read = [(i, view) for i, view in items if not isinstance(view, str)]
            if read:
                images = torch.stack([view for _, view in read]).to(self.device)
                logits = self.classifier(normalize(images, self.classifier.backbone.statistics))
                rows = torch.tensor([i for i, _ in read], device=self.device)
                table[rows] = F.pad(logits.float(), (0, 1), value=1.0)
        table = sum_in_place(table).cpu()
        index = table[:, -1].nonzero()[:, 0]
        if not len(index):
            raise DataError(
                f"none of the {len(self.val)} validation images can be read",
                fix="look at the files",
            )
        return index, table[index, :-1]


def _result(
    fit: Fit[_MicroBatch], train: LabelledImages, val: LabelledImages, notes: tuple[str, ...]
) -> FinetuneResult:
    """Everything from the folder: a resumed run returns what an unbroken one does."""
    last, best, sets = fit.output(len(fit.scores) - 1), fit.best_epoch, {"train": train, "val": val}
    return FinetuneResult(
        scores=tuple(EpochScore(**score) for score in fit.scores),
        best_epoch=best,
        last_logits=last["logits"],
        best_logits=fit.output(best)["logits"],
        labels=_labels(val, last["index"]),
        index=last["index"],
        best_weights=fit.epoch_file(best),
        notes=notes,
        bad=tuple((part, sets[part].name(i), reason) for part, i, reason in sorted(fit.bad)),
    )


def _identity(
    sets: Sequence[LabelledImages], settings: FinetuneSettings, plan: StepPlan
) -> dict[str, Any]:
    """What the outcome depends on beside the weights: settings, cut, classes of the images."""
    labels = sha256()
    for images in sets:
        labels.update(np.array([images.label(i) for i in range(len(images))], np.int64).tobytes())
    return {
        "settings": {
            name: value for name, value in asdict(settings).items() if name not in _NO_RESULT
        },
        # Mixing sees one micro-batch; without it any number of processes goes on.
        "cut": [plan.micro_batch, plan.parts] if plan.mixing else [plan.batch],
        "labels": labels.hexdigest()[:16],
    }


def _labels(images: LabelledImages, index: Tensor) -> Tensor:
    return torch.tensor([images.label(i) for i in index.tolist()])
