"""Whether a training learns, from numbers that need no labels; and in words what to change when it
does not.

The monitor collects device tensors at every step and reads them at log steps only. What the
failures look like, and what helps, comes from users' reports of this family of methods: uniform
outputs, one prototype, lost rank, divergence.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibot.config.resolve import fitting_prototypes
from ibot.config.schema import Config
from ibot.engine.schedule import Schedules
from ibot.engine.update import UpdateOutput
from ibot.spectrum import effective_directions
from ibot.system.distributed import gather, sum_over_processes
from ibot.types import Batch

UNIFORM_GAP = 0.01
"""Outputs count as uniform when loss and teacher entropy lie within this share of ln K."""
UNIFORM_STEPS = 200
SINGLE_MARGINAL = 0.02
"""One prototype: the batch's mean teacher distribution has less than this share of ln K as
entropy."""
LOW_RANK = 1.9
"""Effective rank below which class tokens lie on a line. Random networks on gray pictures start at
2.6, healthy small runs dip to 2 before they rise, collapsed ones stay at 1.6 to 1.9."""
DISTINCT_SHARE = 0.5
"""Of the images looked at, at least this share must have pixels of their own and more than one
colour."""
LOOKED_AT = 4096
DIVERGED_GRADIENT = 30.0
"""Gradient norm over the median of the first reports."""
DIVERGED_LOSS = 1.5
"""Loss over ln K."""
PROTOTYPE_SHARE = 0.02
WAIT_SHARE = 0.3
PERSISTENCE = 3
"""Reports in a row that a condition must hold before it is said."""
REPEAT = 50
"""Reports after which a condition that still holds is said again."""
USE_WINDOW = 10
"""Prototype use is counted over a window of this many rows per prototype."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A failure in words."""

    kind: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.evidence}. {self.advice}"


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Numbers for the log row, what is newly wrong, and a word for the progress line."""

    values: dict[str, float]
    verdicts: tuple[Verdict, ...]
    words: str


@dataclass(slots=True)
class HealthMonitor:
    """Collects at every step, reports at log steps; see `observe` and `report`."""

    config: Config
    num_images: int
    uniform_after: int
    """First step at which uniform outputs are a failure: after the warm-ups."""
    quiet_until: int
    """First step at which anything but the data is judged: after the warm-up of the learning
    rate."""
    total_steps: int
    uniform_steps: int = UNIFORM_STEPS
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _count: int = 0
    _seconds: float = 0.0
    _waited: float = 0.0
    _step: int = 0
    _features: Tensor | None = None
    _use: dict[str, deque[Tensor]] = field(default_factory=dict)
    _uniform_since: int | None = None
    _held: dict[str, int] = field(default_factory=dict)
    _first_gradients: list[float] = field(default_factory=list)
    _reports: int = 0
    _content: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Config, schedules: Schedules, num_images: int) -> HealthMonitor:
        """A monitor for a run."""
        total = schedules.total_steps
        return cls(
            config,
            num_images,
            uniform_after=min(max(schedules.warmup_steps, schedules.freeze_steps), total // 2),
            quiet_until=min(schedules.warmup_steps, total // 2),
            total_steps=total,
            uniform_steps=min(UNIFORM_STEPS, max(10, total // 10)),
        )

    @property
    def observed(self) -> int:
        """Steps since the last report."""
        return self._count

    def wants(self, step: int) -> bool:
        """Whether this step should compute more than its losses: five times between two log lines,
        to cost little.

        The first step after a log line always does, so that a run may stop anywhere.
        """
        return self._features is None or step % max(1, self.config.log.every // 5) == 0

    def observe(
        self,
        step: int,
        out: UpdateOutput,
        batches: Sequence[Batch],
        step_seconds: float,
        wait_seconds: float,
    ) -> None:
        """Collect one step; adds tensors on the device and reads nothing back."""
        metrics, grad_norms = out.metrics, out.grad_norms
        scalars = {name: value for name, value in metrics.items() if value.ndim == 0}
        scalars.update({f"grad_{part}": norm for part, norm in grad_norms.items()})
        for name, value in scalars.items():
            self._sums[name] = (
                self._sums[name] + value if name in self._sums else value.detach().clone()
            )
            self._counts[name] = self._counts.get(name, 0) + 1
        if "features" in metrics:
            for name in ("cls_prototypes", "patch_prototypes"):
                self._sums[name] = (
                    self._sums[name] + metrics[name]
                    if name in self._sums
                    else metrics[name].clone()
                )
            self._features = metrics["features"]
        for batch in batches:
            if batch.content is not None and len(self._content) < LOOKED_AT:
                self._content.update(zip(batch.index.tolist(), batch.content.tolist(), strict=True))
        self._count += 1
        self._seconds += step_seconds + wait_seconds
        self._waited += wait_seconds
        self._step = step + 1

    def report(self) -> HealthReport:
        """Means over the steps since the last report and over the processes, and verdicts.

        The only place that waits for the device; every process must call it at the same step.
        """
        values = self._values()
        self._reports += 1
        found = dict(self._judge(values))
        verdicts = []
        for kind, verdict in found.items():
            self._held[kind] = self._held.get(kind, 0) + 1
            needed = 1 if kind in ("identical images", "data-bound") else PERSISTENCE
            if self._held[kind] >= needed and (self._held[kind] - needed) % REPEAT == 0:
                verdicts.append(verdict)
        said = [
            kind
            for kind in found
            if self._held[kind] >= (1 if kind == "identical images" else PERSISTENCE)
        ]
        for kind in list(self._held):
            if kind not in found:
                del self._held[kind]
        self._sums.clear()
        self._counts.clear()
        self._features = None
        self._count, self._seconds, self._waited = 0, 0.0, 0.0
        return HealthReport(values, tuple(verdicts), ", ".join(said) or "healthy")

    def _values(self) -> dict[str, float]:
        names = list(self._sums)
        summed = sum_over_processes(
            [self._sums[name] for name in names] + [torch.ones(()).to(self._sums[names[0]])]
        )
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
        values["patch_loss_masked"] = values["patch_loss"] * per_view if masked else 0.0
        values["ln_k"], values["ln_k_patch"] = (
            math.log(self._dim("cls")),
            math.log(self._dim("patch")),
        )
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
        values["images_per_second"] = (
            self._count * self.config.train.batch / max(self._seconds, 1e-9)
        )
        values["wait_fraction"] = self._waited / max(self._seconds, 1e-9)
        return values

    def _dim(self, name: str) -> int:
        head = self.config.head
        return head.out_dim if name == "cls" or head.shared_teacher else head.patch_out_dim

    def _prototypes(self, name: str) -> tuple[float, float]:
        """Prototypes that some row of the window chose, and their share of those that it could have
        chosen.
        """
        counts = self._sums[f"{name}_prototypes"]
        window = self._use.setdefault(name, deque())
        window.append(counts)
        total = torch.stack(list(window)).sum(dim=0)
        while len(window) > 1 and (total - window[0]).sum() >= USE_WINDOW * len(total):
            total = total - window.popleft()
        rows, used = int(total.sum()), int((total > 0).sum())
        return float(used), used / max(1, min(len(total), rows))

    def _judge(self, values: dict[str, float]) -> Iterator[tuple[str, Verdict]]:
        """Every failure that the numbers show now."""
        judges = (
            _identical_images,
            _one_prototype,
            _low_rank,
            _diverging,
            _few_prototypes,
            _frozen_teacher,
            _data_bound,
        )
        for judge in judges:
            verdict = judge(self, values)
            if verdict is not None:
                yield verdict.kind, verdict
        verdict = self._uniform(values)
        if verdict is not None:
            yield verdict.kind, verdict

    def _uniform(self, values: dict[str, float]) -> Verdict | None:
        """Loss and teacher entropy within 1 % of ln K for 200 steps (a tenth of a short run) after
        the warm-ups.
        """
        floor = (1 - UNIFORM_GAP) * values["ln_k"]
        flat = values["cls_loss"] >= floor and values["teacher_entropy"] >= floor
        if not flat or self._step < self.uniform_after:
            self._uniform_since = None
            return None
        self._uniform_since = self._uniform_since if self._uniform_since is not None else self._step
        if self._step - self._uniform_since < self.uniform_steps:
            return None
        method = self.config.method
        return Verdict(
            "uniform",
            f"class loss {values['cls_loss']:.3f} and teacher entropy "
            f"{values['teacher_entropy']:.3f} sit at "
            f"ln K = {values['ln_k']:.3f} since step {self._uniform_since}: the outputs say "
            "nothing",
            f"Lower method.teacher_temp (now {method.teacher_temp:g}; 0.04 or less), lower "
            "method.momentum "
            f"(now {method.momentum:g}; 0.99 for short runs), raise optim.lr, or lower "
            "head.out_dim and "
            "head.bottleneck_dim",
        )


def _identical_images(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """Most images looked at so far have the pixels of another one, or a single colour."""
    looked_at = len(monitor._content)
    distinct = len({content for content in monitor._content.values() if content >= 0})
    if looked_at < 8 or distinct >= DISTINCT_SHARE * looked_at:
        return None
    plain = sum(content < 0 for content in monitor._content.values())
    return Verdict(
        "identical images",
        f"of {looked_at} images {distinct} have pixels of their own, {plain} have one colour only",
        f"Look at the {monitor.num_images} files of data.path: they seem to be copies of one "
        "picture, or empty ones",
    )


def _one_prototype(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """The mean teacher distribution of a batch sits on one prototype."""
    if (
        monitor._step < monitor.quiet_until
        or values["marginal_entropy"] > SINGLE_MARGINAL * values["ln_k"]
    ):
        return None
    return Verdict(
        "single prototype",
        "all images fall on one prototype (entropy of the batch mean "
        f"{values['marginal_entropy']:.3f} of "
        f"{values['ln_k']:.2f}, class loss {values['cls_loss']:.3f}, agreement "
        f"{values['agreement']:.0%})",
        "Restart from the last healthy checkpoint with a lower optim.lr, a calmer method.momentum "
        "(0.996), a lower "
        "method.center_momentum, or method.targets=sinkhorn",
    )


def _low_rank(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """The class tokens of a batch vary along hardly more than one direction."""
    if monitor._step < monitor.quiet_until or values["effective_rank"] >= LOW_RANK:
        return None
    return Verdict(
        "low rank",
        f"class tokens vary along {values['effective_rank']:.1f} of {monitor.config.model.width} "
        "directions "
        f"(agreement {values['agreement']:.0%})",
        "Calm the run: lower optim.lr, raise method.momentum (0.99 to 0.996), use a larger "
        "train.batch and gentler "
        "views (augment.global_scale 0.4,1); method.koleo_weight=0.1 holds the rank up (beyond "
        "the paper)",
    )


def _diverging(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """The gradient grew far beyond its first level after the warm-up, or a loss far beyond ln K."""
    norm = math.sqrt(
        sum(values[f"grad_{part}"] ** 2 for part in ("backbone", "head_mlp", "last_layer"))
    )
    if monitor._step >= monitor.quiet_until and len(monitor._first_gradients) < 5:
        monitor._first_gradients.append(norm)
    usual = (
        sorted(monitor._first_gradients)[len(monitor._first_gradients) // 2]
        if monitor._first_gradients
        else norm
    )
    if not math.isfinite(norm):
        evidence = "the gradient is not finite"
    elif norm > DIVERGED_GRADIENT * usual and norm > 1.0:
        evidence = f"the gradient norm is {norm:.3g}, {norm / usual:.0f} times its first level"
    elif values["cls_loss"] > DIVERGED_LOSS * values["ln_k"]:
        evidence = f"class loss {values['cls_loss']:.2f} is far above ln K = {values['ln_k']:.2f}"
    elif values["patch_loss_masked"] > DIVERGED_LOSS * values["ln_k_patch"]:
        evidence = (
            f"patch loss {values['patch_loss_masked']:.2f} is far above ln K = "
            f"{values['ln_k_patch']:.2f}"
        )
    else:
        return None
    optim = monitor.config.optim
    return Verdict(
        "diverging",
        evidence,
        f"Lower optim.lr (now {optim.lr:g} per 256 images), lengthen optim.warmup "
        f"({optim.warmup}), lower optim.clip "
        f"({optim.clip:g}; 0.3), or set train.precision=float32",
    )


def _few_prototypes(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """Of the prototypes that the rows of the window could have used hardly any is used, or K
    exceeds the images.
    """
    out_dim = monitor._dim("cls")
    used, share = values["cls_prototypes_used"], values["cls_prototypes_share"]
    if monitor._step < monitor.quiet_until:
        return None
    if out_dim > monitor.num_images:
        evidence = f"head.out_dim={out_dim} prototypes for {monitor.num_images} images"
    elif share < PROTOTYPE_SHARE and out_dim > 256:
        evidence = f"{used:.0f} of {out_dim} prototypes are in use"
    else:
        return None
    return Verdict(
        "too many prototypes",
        evidence,
        f"Lower head.out_dim and head.patch_out_dim (for {monitor.num_images} images try "
        f"{fitting_prototypes(monitor.num_images)})",
    )


def _frozen_teacher(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """The teacher's memory, 1 / (1 - momentum) steps, is longer than the run: it stays near its
    random start.
    """
    momentum = monitor.config.method.momentum
    memory = 1 / max(1 - momentum, 1e-12)
    if memory < monitor.total_steps:
        return None
    return Verdict(
        "frozen teacher",
        f"with method.momentum={momentum:g} the teacher averages over {memory:.0f} steps, the run "
        "has "
        f"{monitor.total_steps}",
        f"Lower method.momentum (for this run {1 - 10 / max(monitor.total_steps, 20):.3g} or less)",
    )


def _data_bound(monitor: HealthMonitor, values: dict[str, float]) -> Verdict | None:
    """The step waits for images."""
    if values["wait_fraction"] < WAIT_SHARE or monitor._reports < 3:
        return None
    return Verdict(
        "data-bound",
        f"{values['wait_fraction']:.0%} of the time goes into waiting for images",
        f"Raise system.workers (now {monitor.config.system.workers}; -1 = chosen), keep the files "
        "on a fast disk, or "
        "store them at a smaller size",
    )


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
    energy = (
        torch.linalg.eigvalsh(gram.cpu()).clamp(min=0)
        if gram.isfinite().all()
        else gram.new_zeros(1).cpu()
    )
    unit = torch.nn.functional.normalize(features, dim=-1)
    spread = (unit - unit.mean(dim=0)).square().sum(dim=-1).mean().sqrt().item()
    return effective_directions(energy), spread
