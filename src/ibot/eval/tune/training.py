"""Fine-tuning of a whole network on labelled images (spec_evaluation 8.4, 8.5, 8.7; paper appendix
C).

Micro-batches are numbered over all processes, and everything random hangs on (seed, step, number)
or (seed, epoch, image, copy): the same micro-batches give the same training on one process or on
several, unbroken or resumed.

FOLDER/checkpoint.pt      network, optimizer, running mean, step, scores so far; replaced as a whole
       or not at all epoch_00000007.pt  validation logits of the best and of the last epoch; with
       the weights where it was the best
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.data.pixels import normalize
from ibot.data.workers import read_items
from ibot.errors import DataError, RunError, TrainingStopped
from ibot.eval.scores import topk_hits
from ibot.eval.tune.augment import (
    LabelledPixels,
    Mixing,
    TrainingSample,
    TrainingViews,
    ValidationViews,
    finetune_transform,
    validation_view,
)
from ibot.eval.tune.layer_decay import parameter_groups, stage_depths
from ibot.eval.tune.network import Classifier, resize_positions
from ibot.eval.tune.settings import FinetuneSettings
from ibot.eval.tune.step_plan import StepOrder, StepPlan, finetune_lr, plan_steps
from ibot.models.layers import set_part
from ibot.system.device import autocast, choose_precision, seed_step
from ibot.system.distributed import barrier, gather, sum_in_place, wrap_student
from ibot.system.files import read_state, write_atomically
from ibot.system.processes import Processes

CHECKPOINT = "checkpoint.pt"
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


@dataclass(frozen=True, slots=True)
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
    """("train" or "val", name of the image, reason) of what could not be read, in the order of
    the sets."""


def finetune(
    classifier: Classifier,
    train: LabelledPixels,
    val: LabelledPixels,
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
    """Train backbone and classifier together, score after each epoch, resume from `folder` by
    itself.

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
        MissingExtra: timm is not installed. DataError: too few images, or none that can be read.
            RunError: the folder
        belongs to other settings, weights or data. WeightsError: its checkpoint is damaged.
        TrainingStopped: the loss is not finite. ResourceError: the disk is full.
    """
    plan = plan_steps(len(train), classifier.num_classes, settings, processes.world_size)
    resize_positions(classifier.backbone, size)
    identity = {"seed": seed, "size": size, **_identity(classifier, (train, val), settings, plan)}
    run = _Run(
        classifier.to(device),
        train,
        val,
        settings,
        plan,
        size,
        device,
        folder,
        processes,
        seed,
        workers,
        identity,
    )
    folder.mkdir(parents=True, exist_ok=True)
    run.load()
    run.wrapped = wrap_student(classifier, processes, device)
    transform = finetune_transform(settings, size, classifier.backbone.statistics)
    order = StepOrder(len(train), plan, settings, seed, processes, run.step)
    micro_batches = read_items(
        TrainingViews(train, transform, seed),
        workers,
        4 * 3 * size * size * plan.micro_batch,
        pin=device.type == "cuda",
        batch_sampler=order,
        collate_fn=_collate,
    )
    while run.step < order.total_steps:
        run.update([next(micro_batches) for _ in range(plan.parts // processes.world_size)])
        if run.step % plan.steps_per_epoch == 0:
            run.end_epoch()
        elif settings.checkpoint_steps and run.step % settings.checkpoint_steps == 0:
            run.save()
        if progress is not None:
            progress(run.step, order.total_steps)
    classifier.eval()
    return run.result()


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


@dataclass(slots=True)
class _Run:
    """What the training holds and saves."""

    classifier: Classifier
    train: LabelledPixels
    val: LabelledPixels
    settings: FinetuneSettings
    plan: StepPlan
    size: int
    device: torch.device
    folder: Path
    processes: Processes
    seed: int
    workers: int
    identity: dict[str, Any]
    """What a folder must agree on to be resumed."""
    step: int = 0
    scores: list[EpochScore] = field(default_factory=list)
    bad: set[tuple[str, int, str]] = field(default_factory=set)
    """("train" or "val", number of the image, reason)."""
    wrapped: nn.Module = field(init=False)
    """The classifier or its distributed wrapper."""
    optimizer: torch.optim.Optimizer = field(init=False)
    mixing: Mixing = field(init=False)
    precision: torch.dtype = field(init=False)
    scaler: torch.amp.GradScaler | None = field(init=False)
    ema: list[Tensor] = field(init=False)
    """Running means of the parameters, in their order; empty when off."""
    loss_sum: Tensor = field(init=False)
    """Scalar: losses of this epoch's steps, of this process."""

    def __post_init__(self) -> None:
        settings, classifier = self.settings, self.classifier
        named = [(name.removeprefix("backbone."), p) for name, p in classifier.named_parameters()]
        groups = parameter_groups(
            named,
            stage_depths(classifier.backbone),
            layer_decay=settings.layer_decay,
            weight_decay=settings.weight_decay,
            decay_tokens=settings.decay_tokens,
        )
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.mixing = Mixing(settings, classifier.num_classes, self.seed, enabled=self.plan.mixing)
        on_cpu = self.device.type == "cpu"
        self.precision = (
            torch.float32 if on_cpu else choose_precision(settings.precision, self.device)
        )
        self.scaler = (
            torch.amp.GradScaler(self.device.type) if self.precision == torch.float16 else None
        )
        self.ema = [p.detach().clone() for _, p in named] if settings.ema_decay else []
        self.loss_sum = torch.zeros((), device=self.device)

    def update(self, micro_batches: Sequence[_MicroBatch]) -> None:
        """One optimizer step over the micro-batches of this process."""
        lr = finetune_lr(
            self.step,
            self.settings,
            steps_per_epoch=self.plan.steps_per_epoch,
            batch=self.plan.batch,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.classifier.train()
        self.optimizer.zero_grad(set_to_none=True)
        for i, micro_batch in enumerate(micro_batches):
            # Gradients are averaged over processes once, at the last micro-batch.
            last = i == len(micro_batches) - 1 or self.wrapped is self.classifier
            with nullcontext() if last else self.wrapped.no_sync():  # pyright: ignore
                loss = self._loss(
                    micro_batch, i * self.processes.world_size + self.processes.rank
                ) / len(micro_batches)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            self.loss_sum += loss.detach()
            self.bad.update(("train", *item) for item in micro_batch.bad)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.ema:
            parameters = [p.detach() for p in self.classifier.parameters()]
            torch._foreach_lerp_(self.ema, parameters, 1 - self.settings.ema_decay)
        self.step += 1

    def _loss(self, micro_batch: _MicroBatch, part: int) -> Tensor:
        """Soft-target cross-entropy in nats of micro-batch number `part` of the step."""
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in micro_batch[:2])
        images, targets = self.mixing(images, labels, self.step, part)
        # Not by part: every micro-batch takes its images' draws out of those of the step.
        seed_step(self.seed, self.step)
        set_part(self.classifier, part, self.plan.parts)
        with autocast(self.device, self.precision):
            logits = self.wrapped(images)
        return F.cross_entropy(logits.float(), targets)

    def end_epoch(self) -> None:
        """Score the validation images, keep their logits if they matter, save."""
        loss = self._summed_loss().item() / self.plan.steps_per_epoch
        index, logits = self._validate()
        labels = _labels(self.val, index)
        top5 = (
            100 * topk_hits(logits, labels, 5).double().mean().item()
            if logits.shape[1] >= 5
            else None
        )
        top1 = 100 * topk_hits(logits, labels, 1).double().mean().item()
        self.scores.append(EpochScore(len(self.scores), loss, top1, top5))
        self.bad = set().union(*gather(self.bad))
        self.loss_sum.zero_()
        if self.processes.is_main:
            is_best = self.best_epoch == len(self.scores) - 1
            model = self.classifier.state_dict() if is_best else None
            self._write(
                self._epoch_file(len(self.scores) - 1),
                {"index": index, "logits": logits, "model": model},
            )
        self.save()
        if self.processes.is_main:
            kept = {self._epoch_file(self.best_epoch), self._epoch_file(len(self.scores) - 1)}
            for file in set(self.folder.glob("epoch_*.pt")) - kept:
                file.unlink()

    @torch.no_grad()
    def _validate(self) -> tuple[Tensor, Tensor]:
        """Numbers int64 [n] of the validation images that can be read, and their logits float32 [n,
        C], on the CPU.

        Each process scores its share; the shares are disjoint, so that a sum joins them.
        """
        self.classifier.eval()
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
                images = normalize(images, self.classifier.backbone.statistics)
                with autocast(self.device, self.precision):
                    logits = self.classifier(images)
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

    def _summed_loss(self) -> Tensor:
        """Losses of this epoch's steps, mean over the processes. Raises TrainingStopped on all
        unless it is finite.
        """
        total = sum_in_place(self.loss_sum.clone())
        if not bool(total.isfinite()):  # the same number on all processes
            raise TrainingStopped(
                f"the loss is not finite at step {self.step}",
                why="fine-tuning diverged, or float16 overflowed",
                fix="start again in another folder with a lower lr or precision=float32",
            )
        return total / self.processes.world_size

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest top-1."""
        return max(self.scores, key=lambda score: (score.top1, -score.epoch)).epoch

    def save(self) -> None:
        """Replace the checkpoint; it is whole at every moment."""
        loss_sum = self._summed_loss()
        if not self.processes.is_main:
            return
        content = {
            "identity": self.identity,
            "model": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "ema": self.ema,
            "step": self.step,
            "loss_sum": loss_sum,
            "scores": [asdict(score) for score in self.scores],
            "bad": sorted(self.bad),
        }
        self._write(self.folder / CHECKPOINT, content)

    def load(self) -> None:
        """Go on where the folder's checkpoint stands, if there is one. Raises RunError,
        WeightsError.
        """
        file = self.folder / CHECKPOINT
        if not file.exists():
            return
        stored = self._read(file)
        if stored["identity"] != self.identity:
            raise RunError(
                f"'{self.folder}' holds another fine-tuning",
                why=_differences(stored["identity"], self.identity),
                fix="use another folder, or what this one was started with",
            )
        self.classifier.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        if self.scaler is not None and stored["scaler"] is not None:
            self.scaler.load_state_dict(stored["scaler"])
        self.ema = [tensor.to(self.device) for tensor in stored["ema"]]
        self.step, self.loss_sum = stored["step"], stored["loss_sum"].to(self.device)
        self.scores = [EpochScore(**score) for score in stored["scores"]]
        self.bad = {tuple(item) for item in stored["bad"]}

    def result(self) -> FinetuneResult:
        """Everything again from the folder, so that a resumed run returns what an unbroken one
        does.
        """
        barrier()  # the main process writes
        best, sets = self._epoch_file(self.best_epoch), {"train": self.train, "val": self.val}
        last = self._read(self._epoch_file(len(self.scores) - 1))
        return FinetuneResult(
            scores=tuple(self.scores),
            best_epoch=self.best_epoch,
            last_logits=last["logits"],
            best_logits=self._read(best)["logits"],
            labels=_labels(self.val, last["index"]),
            index=last["index"],
            best_weights=best,
            notes=self.plan.notes,
            bad=tuple((part, sets[part].name(i), reason) for part, i, reason in sorted(self.bad)),
        )

    def _epoch_file(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:08d}.pt"

    def _read(self, file: Path) -> dict[str, Any]:
        """A file of the folder, whose parts go together. Raises WeightsError."""
        return read_state(file, self.folder)

    @staticmethod
    def _write(file: Path, content: dict[str, Any]) -> None:
        write_atomically(file, lambda path: torch.save(content, path))


def _identity(
    classifier: Classifier,
    sets: Sequence[LabelledPixels],
    settings: FinetuneSettings,
    plan: StepPlan,
) -> dict[str, Any]:
    """What the outcome depends on: settings, cut, initial weights, classes of the images."""
    start, labels = hashlib.sha256(), hashlib.sha256()
    for name, tensor in classifier.state_dict().items():
        start.update(
            name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    for images in sets:
        labels.update(np.array([images.label(i) for i in range(len(images))], np.int64).tobytes())
    return {
        "settings": {
            name: value for name, value in asdict(settings).items() if name not in _NO_RESULT
        },
        # Mixing sees one micro-batch; without it any number of processes goes on.
        "cut": [plan.micro_batch, plan.parts] if plan.mixing else [plan.batch],
        "initial weights": start.hexdigest()[:16],
        "labels": labels.hexdigest()[:16],
    }


def _labels(images: LabelledPixels, index: Tensor) -> Tensor:
    return torch.tensor([images.label(i) for i in index.tolist()])


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which settings differ, with both values."""
    flat = [{**identity, **identity["settings"], "settings": None} for identity in (stored, wanted)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return "; ".join(f"{name} was {flat[0].get(name)}, now {flat[1].get(name)}" for name in names)
