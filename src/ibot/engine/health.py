"""Whether a training learns, from numbers that need no labels.

The monitor collects device tensors at every step and reads them at log steps only; what they mean
is judged in `ibot.engine.verdicts`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ibot.config.schema import Config
from ibot.engine.meter import StageMeter
from ibot.engine.schedule import Schedules
from ibot.engine.update import UpdateOutput
from ibot.engine.verdicts import Judge, Verdict
from ibot.spectrum import effective_rank
from ibot.system.distributed import gather, sum_over_processes
from ibot.types import Batch, UndrawnBatch

LOOKED_AT = 4096
"""Images whose pixels are compared with each other."""
USE_WINDOW = 10
"""Prototype use is counted over a window of this many rows per prototype."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Numbers for the log row, what is newly wrong, and a word for the progress line."""

    values: dict[str, float]
    verdicts: tuple[Verdict, ...]
    words: str


class HealthMonitor:
    """Collects at every step (`observe`), reports at log steps (`report`)."""

    def __init__(self, config: Config, judge: Judge) -> None:
        self.config, self.judge = config, judge
        self.meter = StageMeter()
        """Of the loop, which replaces it by one of its device and loader."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._count, self._seconds = 0, 0.0
        self._step = 0
        self._features: Tensor | None = None
        self._use: dict[str, deque[Tensor]] = {}
        self._content: dict[int, int] = {}

    @classmethod
    def of(cls, config: Config, schedules: Schedules, num_images: int) -> HealthMonitor:
        """The monitor of a run."""
        return cls(config, Judge.of(config, schedules, num_images))

    @property
    def observed(self) -> int:
        """Steps since the last report."""
        return self._count

    def wants(self, step: int) -> bool:
        """Whether this step should compute more than its losses.

        Five do between two log lines, to cost little; and the first after a log line, so that a
        run may stop anywhere.
        """
        return self._features is None or step % max(1, self.config.log.every // 5) == 0

    def observe(
        self,
        step: int,
        out: UpdateOutput,
        batches: Sequence[Batch | UndrawnBatch],
        step_seconds: float,
        wait_seconds: float,
    ) -> None:
        """Collect one step; adds tensors on the device and reads nothing back."""
        metrics, grad_norms = out.metrics, out.grad_norms
        scalars = {name: value for name, value in metrics.items() if value.ndim == 0}
        scalars.update({f"grad_{part}": norm for part, norm in grad_norms.items()})
        for name, value in scalars.items():
            self._add(name, value)
            self._counts[name] = self._counts.get(name, 0) + 1
        if "features" in metrics:
            for name in ("cls_prototypes", "patch_prototypes"):
                self._add(name, metrics[name])
            self._features = metrics["features"]
        for batch in batches:
            if batch.content is not None and len(self._content) < LOOKED_AT:
                self._content.update(zip(batch.index.tolist(), batch.content.tolist(), strict=True))
        self._count += 1
        self._seconds += step_seconds + wait_seconds
        self.meter.observe(batches, step_seconds + wait_seconds, wait_seconds)
        self._step = step + 1

    def _add(self, name: str, value: Tensor) -> None:
        known = name in self._sums
        self._sums[name] = self._sums[name] + value if known else value.detach().clone()

    def report(self) -> HealthReport:
        """Means over the steps since the last report and over the processes, and verdicts.

        The only place that waits for the device; every process must call it at the same step.
        """
        values = self._values()
        stages = self.meter.read()
        values |= stages.numbers()
        verdicts, words = self.judge.judge(self._step, values, self._content, stages)
        self._sums.clear()
        self._counts.clear()
        self._features = None
        self._count, self._seconds = 0, 0.0
        return HealthReport(values, verdicts, words)

    def _values(self) -> dict[str, float]:
        names = list(self._sums)
        sums = [self._sums[name].double() for name in names]
        summed = sum_over_processes([*sums, sums[0].new_ones(())])
        processes = summed.pop().item()
        self._sums = dict(zip(names, summed, strict=True))
        scalars = [name for name in names if self._sums[name].ndim == 0]
        read = torch.stack([self._sums[name] for name in scalars]).tolist()
        values = {
            name: total / (self._counts[name] * processes)
            for name, total in zip(scalars, read, strict=True)
        }
        # Views without a mask count as zero in the loss; per hidden view it compares with ln K.
        per_view = values.pop("patch_views", 1.0)
        masked = values.get("masked_fraction", 0.0) > 0
        patch_loss = values["patch_loss"] * per_view if masked else 0.0
        values["patch_loss_masked"] = patch_loss
        head = self.config.head
        values["ln_k"] = math.log(head.out_dim)
        values["ln_k_patch"] = math.log(head.out_dim if head.shared_teacher else head.patch_out_dim)
        values["cls_kl"] = values["cls_loss"] - values["teacher_entropy"]
        values["patch_kl"] = (
            values["patch_loss_masked"] - values["patch_entropy"] if masked else 0.0
        )
        for name in ("cls", "patch"):
            used, share = self._prototypes(name)
            values[f"{name}_prototypes_used"], values[f"{name}_prototypes_share"] = used, share
        if self._features is not None:
            values["effective_rank"], values["feature_std"] = spectrum(
                torch.cat(gather(self._features.cpu()))
            )
        seconds = max(self._seconds, 1e-9)
        values["images_per_second"] = self._count * self.config.train.batch / seconds
        return values

    def _prototypes(self, name: str) -> tuple[float, float]:
        """Prototypes that rows of the window chose; their share of those that could be chosen."""
        counts = self._sums[f"{name}_prototypes"]
        window = self._use.setdefault(name, deque())
        window.append(counts)
        total = torch.stack(list(window)).sum(dim=0)
        while len(window) > 1 and (total - window[0]).sum() >= USE_WINDOW * len(total):
            total = total - window.popleft()
        rows, used = int(total.sum()), int((total > 0).sum())
        return float(used), used / max(1, min(len(total), rows))


@torch.no_grad()
def spectrum(features: Tensor) -> tuple[float, float]:
    """Effective rank and spread of features [R, D].

    Effective rank: directions that the centred features fill (`ibot.spectrum`). Spread: root mean
    square deviation of the l2-normalised features from their mean; 1 when they point anywhere.
    """
    features = features.double()
    centred = features - features.mean(dim=0)
    # The smaller of the two Gram matrices has the same non-zero eigenvalues.
    gram = centred.T @ centred if centred.shape[0] > centred.shape[1] else centred @ centred.T
    finite = bool(gram.isfinite().all())
    energy = torch.linalg.eigvalsh(gram.cpu()).clamp(min=0) if finite else torch.zeros(1)
    unit = torch.nn.functional.normalize(features, dim=-1)
    spread = (unit - unit.mean(dim=0)).square().sum(dim=-1).mean().sqrt().item()
    return effective_rank(energy), spread
