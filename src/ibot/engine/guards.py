"""What stops a training: a loss that is not finite, too many files that cannot be read; and what is
kept of it, whatever it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ibot.engine.checkpoint import checkpoint_bytes, disk_full, find_checkpoint
from ibot.engine.failures import failures_kept
from ibot.engine.trainer import Trainer
from ibot.engine.update import UpdateOutput
from ibot.errors import TrainingStopped
from ibot.system.distributed import gather
from ibot.system.files import is_disk_full, lost
from ibot.types import Batch, StepValues, UndrawnBatch

Batches = Sequence[Batch | UndrawnBatch]
FEW = 20
"""Unreadable files that stop no run, unless they are half of the images that a process reads."""
"""The micro-batches of a step as they were read."""


class Sent:
    """A number on its way from a GPU: to read it waits for what the GPU did before, not for what it
    was given since.
    """

    def __init__(self, value: Tensor) -> None:
        self.value, self.came = value.to("cpu", non_blocking=value.is_cuda), None
        if value.is_cuda:
            self.came = torch.cuda.Event()
            self.came.record()

    def read(self) -> float:
        """The number."""
        if self.came is not None:
            self.came.synchronize()
        return self.value.item()


class FailureCheck:
    """Stops all processes together when a loss is not finite.

    The flag is reduced over the processes in the step itself. On a GPU it is read one step late, so
    that the GPU always has a step to do; `drain` reads what is left, and is called before anything
    is saved.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.pending: tuple[int, Sent, UpdateOutput, StepValues, Batches] | None = None

    def check(self, step: int, out: UpdateOutput, values: StepValues, batches: Batches) -> None:
        """Look at the step before (GPU) or at this one (CPU). Raises TrainingStopped."""
        sent = Sent(out.failed)
        self.drain()
        self.pending = (step, sent, out, values, batches)
        if self.trainer.device.type == "cpu":
            self.drain()

    def drain(self) -> None:
        """Look at the last step. Raises TrainingStopped."""
        if self.pending is None:
            return
        step, failed, out, values, batches = self.pending
        self.pending = None
        if not failed.read():
            return
        trainer = self.trainer
        source = trainer.source
        own = [str(source.root / source.name(int(i))) for batch in batches for i in batch.index]
        files = [file for part in gather(own) for file in part]
        losses = {
            name: out.metrics[name].item()
            for name in ("cls_loss", "patch_loss", "visible_loss", "koleo_loss")
            if name in out.metrics
        }
        if trainer.processes.is_main:
            trainer.run.event(
                "non-finite loss", step=step, lr=values.lr, losses=losses, files=files
            )
        last = find_checkpoint(trainer.run.path)
        raise TrainingStopped(
            f"the loss is not finite at step {step} (learning rate {values.lr:.3g})",
            why=f"losses {losses}; {len(files)} files from {files[0]} on, listed in "
            f"{trainer.run.path}/events.jsonl",
            fix=f"last good state: {last or 'none'}; lower optim.lr, lengthen optim.warmup, or "
            "train.precision=float32",
        )


def note_bad_files(trainer: Trainer, batches: Batches) -> None:
    """Record files that could not be read; stop when there are too many of them."""
    for batch in batches:
        for path, reason in batch.bad:
            trainer.bad_files += trainer.run.bad_file(path, reason)
    limit = trainer.config.data.max_bad_fraction
    share = len(trainer.source) / trainer.processes.world_size
    if trainer.bad_files > max(min(FEW, share / 2), limit * share):
        raise TrainingStopped(
            f"{trainer.bad_files} of {len(trainer.source)} files cannot be read",
            why=f"more than data.max_bad_fraction={limit:g}; see "
            f"{trainer.run.path / 'bad_files.jsonl'}",
            fix="repair or remove the files, or raise data.max_bad_fraction",
        )


@contextmanager
def told(trainer: Trainer) -> Iterator[None]:
    """Keep in the run's folder what makes a training fail; an OSError becomes a ResourceError."""
    with failures_kept(trainer.run, trainer.processes, lambda: trainer.state.step):
        try:
            yield
        except OSError as error:  # a log line may meet the full disk before a checkpoint does
            run = trainer.run.path
            needed = checkpoint_bytes(trainer.model, trainer.update.optimizer)
            refused = disk_full(run, needed) if is_disk_full(error) else lost(run, error)
            raise refused from None
