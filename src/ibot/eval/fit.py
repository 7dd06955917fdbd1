"""A training that may be killed at any step and goes on: of a network with any head and any loss.

The micro-batches of a step are numbered over all processes, and everything random hangs on (seed,
step, number): the same micro-batches give the same training on one process or on several, unbroken
or resumed. What is trained, on what and how it is scored is the caller's: see `Fit`.

FOLDER/checkpoint.pt      network, optimizer, running mean, step, scores so far; whole or absent
       epoch_00000007.pt  what the validation keeps of the best and of the last epoch, and the
                          weights where it was the best
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ibot.errors import TrainingStopped
from ibot.eval.state_file import StateFile
from ibot.models.layers import set_part
from ibot.system.device import autocast, seed_step
from ibot.system.distributed import barrier, gather, sum_in_place, wrap_student
from ibot.system.files import read_state, write_atomically
from ibot.system.processes import Processes

CHECKPOINT = "checkpoint.pt"

B = TypeVar("B")
"""A micro-batch: whatever the loss takes."""


class Validation(NamedTuple):
    """What the caller finds at the end of an epoch, the same in all processes."""

    metrics: dict[str, float | None]
    """Plain numbers for the scores; one of them chooses the best epoch."""
    output: dict[str, Any]
    """Tensors and plain values to keep of the best and of the last epoch."""


@dataclass(kw_only=True, slots=True, eq=False)
class Fit(Generic[B]):
    """What is trained and how; `run` does the steps that the folder does not hold yet."""

    model: nn.Module
    """New, also where a folder is resumed, and on its device. Trained in place."""
    optimizer: torch.optim.Optimizer
    """Of the model's parameters. A group with an `lr_scale` has its rate times that."""
    lr: Callable[[int], float]
    """Learning rate of a step, counted from 0."""
    batches: Callable[[int], Iterator[B]]
    """This process's micro-batches from a step on, one after the other."""
    loss: Callable[[nn.Module, B, int, int], Tensor]
    """(network, micro-batch, step, part) -> scalar. The network is the model, or its wrapper that
    averages gradients over processes: call nothing else. `part` counts the micro-batches of the
    step over all processes. Called under autocast, random numbers seeded by the step."""
    validate: Callable[[], Validation]
    """Called everywhere after each epoch, in evaluation mode, under autocast, without gradients."""
    best_by: str
    """The metric whose first highest value makes the best epoch."""
    epochs: int
    steps_per_epoch: int
    folder: Path
    """For checkpoints; created when absent. All processes must see the same one."""
    identity: dict[str, Any]
    """Plain values on which the outcome hangs, beside the weights: other folders are refused."""
    micro_batches: int = 1
    """Of each process in a step."""
    processes: Processes = field(default_factory=Processes)
    precision: torch.dtype = torch.float32
    """Of the matrix products; float16 scales the loss."""
    ema_decay: float = 0.0
    """Decay per step of the running mean of the parameters, which is saved; 0: none."""
    checkpoint_steps: int = 0
    """Steps between checkpoints inside of an epoch; 0: only at the end of each epoch."""
    seed: int = 0
    progress: Callable[[int, int], None] | None = None
    """Called with steps done and in all."""
    bad: set[tuple[str, int, str]] = field(default_factory=set)
    """(part of the data, number, reason) of what could not be read: loss and validation of any
    process add to it; saved, and united over processes at the end of an epoch."""

    step: int = field(default=0, init=False)
    """Steps done."""
    scores: list[dict[str, Any]] = field(default_factory=list, init=False)
    """Of each epoch: `epoch` from 0, `train_loss` (mean over steps and processes), the metrics."""
    ema: list[Tensor] = field(default_factory=list, init=False)
    """Running means of the parameters, in their order; empty when off."""
    _network: nn.Module = field(init=False)
    """The model or its distributed wrapper."""
    _scaler: torch.amp.GradScaler | None = field(default=None, init=False)
    _loss_sum: Tensor = field(init=False)
    """Scalar: losses of this epoch's steps, of this process."""
    _state: StateFile = field(init=False)

    def __post_init__(self) -> None:
        about = {**self.identity, "initial weights": _digest(self.model)}
        self._state = StateFile(self.folder / CHECKPOINT, self.processes, about, self.folder)
        self._network = self.model
        self._loss_sum = torch.zeros((), device=self.device)
        if self.ema_decay:
            self.ema = [p.detach().clone() for p in self.model.parameters()]
        if self.precision == torch.float16:
            self._scaler = torch.amp.GradScaler(self.device.type)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest score."""
        return max(self.scores, key=lambda score: (score[self.best_by], -score["epoch"]))["epoch"]

    def run(self) -> None:
        """Train to the end, from the folder's checkpoint if there is one; leaves the last weights.

        Raises:
            RunError: the folder belongs to another training. WeightsError: its checkpoint is
                damaged. TrainingStopped: the loss is not finite. ResourceError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self._network = wrap_student(self.model, self.processes, self.device)
        try:
            self._train()
        finally:
            # It goes before its group of processes, see `ibot.engine.loop.train`.
            self._network = self.model
        self.model.eval()
        barrier()  # the main process writes the files that all may read now

    def _train(self) -> None:
        batches, total_steps = self.batches(self.step), self.epochs * self.steps_per_epoch
        while self.step < total_steps:
            self.update([next(batches) for _ in range(self.micro_batches)])
            if self.step % self.steps_per_epoch == 0:
                self._end_epoch()
            elif self.checkpoint_steps and self.step % self.checkpoint_steps == 0:
                self._save()
            if self.progress is not None:
                self.progress(self.step, total_steps)

    def update(self, micro_batches: Sequence[B]) -> None:
        """One optimizer step over the micro-batches of this process."""
        lr = self.lr(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for i, micro_batch in enumerate(micro_batches):
            # Gradients are averaged over processes once, at the last micro-batch.
            last = i == len(micro_batches) - 1 or self._network is self.model
            with nullcontext() if last else self._network.no_sync():  # pyright: ignore
                loss = self._loss(micro_batch, i) / len(micro_batches)
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()
            self._loss_sum += loss.detach()
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        if self.ema:
            parameters = [p.detach() for p in self.model.parameters()]
            torch._foreach_lerp_(self.ema, parameters, 1 - self.ema_decay)
        self.step += 1

    def _loss(self, micro_batch: B, i: int) -> Tensor:
        world_size = self.processes.world_size
        part = i * world_size + self.processes.rank
        # Not by part: every micro-batch takes its images' draws out of those of the step.
        seed_step(self.seed, self.step)
        set_part(self.model, part, self.micro_batches * world_size)
        with autocast(self.device, self.precision):
            return self.loss(self._network, micro_batch, self.step, part)

    def _end_epoch(self) -> None:
        """Validate, keep the output if it matters, save."""
        train_loss = self._summed_loss().item() / self.steps_per_epoch
        self.model.eval()
        with torch.no_grad(), autocast(self.device, self.precision):
            metrics, output = self.validate()
        epoch = len(self.scores)
        self.scores.append({"epoch": epoch, "train_loss": train_loss, **metrics})
        united = set().union(*gather(self.bad))
        self.bad.update(united)
        self._loss_sum.zero_()
        if self.processes.is_main:
            weights = self.model.state_dict() if self.best_epoch == epoch else None
            content = {**output, "model": weights}
            write_atomically(self.epoch_file(epoch), lambda path: torch.save(content, path))
        self._save()
        if self.processes.is_main:
            kept = {self.epoch_file(self.best_epoch), self.epoch_file(epoch)}
            for file in set(self.folder.glob("epoch_*.pt")) - kept:
                file.unlink()

    def _summed_loss(self) -> Tensor:
        """Losses of this epoch's steps, mean over the processes.

        Raises TrainingStopped in all of them unless it is finite.
        """
        total = sum_in_place(self._loss_sum.clone())
        if not bool(total.isfinite()):  # the same number on all processes
            raise TrainingStopped(
                f"the loss is not finite at step {self.step}",
                why="the training diverged, or float16 overflowed",
                fix="start again in another folder with a lower lr or precision=float32",
            )
        return total / self.processes.world_size

    def _save(self) -> None:
        loss_sum = self._summed_loss()
        self._state.write(
            lambda: {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict() if self._scaler is not None else None,
                "ema": self.ema,
                "step": self.step,
                "loss_sum": loss_sum,
                "scores": self.scores,
                "bad": sorted(self.bad),
            }
        )

    def _resume(self) -> None:
        stored = self._state.read(lambda state: state["step"])
        if stored is None:
            return
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        if self._scaler is not None and stored["scaler"] is not None:
            self._scaler.load_state_dict(stored["scaler"])
        self.ema = [tensor.to(self.device) for tensor in stored["ema"]]
        self.step, self._loss_sum = stored["step"], stored["loss_sum"].to(self.device)
        self.scores = stored["scores"]
        self.bad.update(tuple(item) for item in stored["bad"])

    def epoch_file(self, epoch: int) -> Path:
        """Where the output of the best or last epoch lies; of the best with weights in `model`."""
        return self.folder / f"epoch_{epoch:08d}.pt"

    def output(self, epoch: int) -> dict[str, Any]:
        """What that file holds, tensors on the CPU. Raises WeightsError for a damaged one."""
        return read_state(self.epoch_file(epoch), self.folder)


def _digest(model: nn.Module) -> str:
    """Names the weights of a model: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content = tensor.cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()[:16]
