"""What goes wrong in a training, judged by its numbers; and in words what to change.

What the failures look like, and what helps, comes from users' reports of this family of methods:
uniform outputs, one prototype, lost rank, divergence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ibot.config.resolve import fitting_prototypes
from ibot.config.schema import Config
from ibot.engine.schedule import Schedules
from ibot.engine.stages import Stages, limit_of

UNIFORM_GAP = 0.01
"""Outputs count as uniform when loss and teacher entropy lie within this share of ln K."""
UNIFORM_STEPS = 200
SINGLE_MARGINAL = 0.02
"""One prototype: the entropy of the teacher's mean over the batch is below this share of ln K."""
LOW_RANK = 1.9
"""Effective rank below which class tokens lie on a line. Random networks on gray pictures start at
2.6, healthy small runs dip to 2 before they rise, collapsed ones stay at 1.6 to 1.9."""
DISTINCT_SHARE = 0.5
"""Of the images looked at, the share that must have own pixels and more than one colour."""
DIVERGED_GRADIENT = 30.0
"""Gradient norm over the median of the first reports."""
DIVERGED_LOSS = 1.5
"""Loss over ln K."""
PROTOTYPE_SHARE = 0.02
AGREED = 0.9
"""Collapse: student and teacher choose the same prototype for more than this share of images ..."""
HANDFUL, HANDFUL_SHARE = 8, 0.125
"""... among so few prototypes, and no more than this share of those there are. Of 116 runs on disk
the 114 healthy ones agree on 76 % at most, and use a fifth or more of their prototypes."""
PERSISTENCE = 3
"""Reports in a row that a condition must hold before it is said."""
LASTING = ("single prototype", "collapse")
"""What is said of a run's last report at once: no later one can take it back."""
FEW_REPORTS = 8
"""Reports below which a log without verdicts says little."""
REPEAT = 50
"""Reports after which a condition that still holds is said again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A failure in words."""

    kind: str
    evidence: str
    advice: str
    word: str = ""
    """For the progress line, where the kind says too little."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.evidence}. {self.advice}"


@dataclass(slots=True, kw_only=True)
class Judge:
    """Finds failures in one report after another, and says those that last."""

    config: Config
    num_images: int
    uniform_after: int
    """First step at which uniform outputs are a failure: after the warm-ups."""
    quiet_until: int
    """First step at which anything but the data is judged: after the learning rate's warm-up."""
    total_steps: int
    uniform_steps: int
    """Steps for which outputs must be uniform: 200, or a tenth of a short run."""
    _step: int = field(default=0, init=False)
    _reports: int = field(default=0, init=False)
    _uniform_since: int | None = field(default=None, init=False)
    _held: dict[str, int] = field(default_factory=dict, init=False)
    _first_gradients: list[float] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, config: Config, schedules: Schedules, num_images: int) -> Judge:
        """The judge of a run."""
        total = schedules.total_steps
        return cls(
            config=config,
            num_images=num_images,
            uniform_after=min(max(schedules.warmup_steps, schedules.freeze_steps), total // 2),
            quiet_until=min(schedules.warmup_steps, total // 2),
            total_steps=total,
            uniform_steps=min(UNIFORM_STEPS, max(10, total // 10)),
        )

    def judge(
        self,
        step: int,
        values: Mapping[str, float],
        content: Mapping[int, int],
        stages: Stages,
    ) -> tuple[tuple[Verdict, ...], str]:
        """What to say after a report, and a word for the progress line.

        Args:
            step: steps done.
            values: the numbers of the report (`ibot.engine.health`).
            content: hash of the pixels of the images seen, by image; below 0 for one colour.
            stages: where the time went.
        """
        self._step, self._reports = step, self._reports + 1
        judgements = (
            self._identical_images(content),
            self._one_prototype(values),
            self._collapse(values),
            self._low_rank(values),
            self._diverging(values),
            self._few_prototypes(values),
            self._frozen_teacher(),
            self._data_bound(stages),
            self._uniform(values),
        )
        found = {verdict.kind: verdict for verdict in judgements if verdict is not None}
        self._held = {kind: self._held.get(kind, 0) + 1 for kind in found}
        verdicts, words = [], []
        for kind, verdict in found.items():
            late = self._held[kind] - (1 if kind == "identical images" else PERSISTENCE)
            ended = kind in LASTING and step >= self.total_steps
            if late >= 0 or ended:
                words.append(verdict.word or kind)
            if (late >= 0 and late % REPEAT == 0) or (late < 0 and ended):
                verdicts.append(verdict)
        return tuple(verdicts), ", ".join(words) or "healthy"

    def _identical_images(self, content: Mapping[int, int]) -> Verdict | None:
        """Most images looked at so far have the pixels of another one, or a single colour."""
        looked_at = len(content)
        distinct = len({pixels for pixels in content.values() if pixels >= 0})
        if looked_at < 8 or distinct >= DISTINCT_SHARE * looked_at:
            return None
        plain = sum(pixels < 0 for pixels in content.values())
        return Verdict(
            "identical images",
            f"of {looked_at} images {distinct} have pixels of their own, {plain} have one colour "
            "only",
            f"Look at the {self.num_images} files of data.path: they seem to be copies of one "
            "picture, or empty ones",
        )

    def _one_prototype(self, values: Mapping[str, float]) -> Verdict | None:
        """The mean teacher distribution of a batch sits on one prototype."""
        entropy, ln_k = values["marginal_entropy"], values["ln_k"]
        if self._step < self.quiet_until or entropy > SINGLE_MARGINAL * ln_k:
            return None
        return Verdict(
            "single prototype",
            f"all images fall on one prototype (entropy of the batch mean {entropy:.3f} of "
            f"{ln_k:.2f}, class loss {values['cls_loss']:.3f}, agreement "
            f"{values['agreement']:.0%})",
            "Restart from the last healthy checkpoint with a lower optim.lr, a calmer "
            "method.momentum (0.996), a lower method.center_momentum, or method.targets=sinkhorn",
        )

    def _collapse(self, values: Mapping[str, float]) -> Verdict | None:
        """Student and teacher agree on nearly all images, as there is hardly a choice left."""
        if self._step < self.quiet_until or not self.config.method.cls_weight:
            return None
        used, count = values["cls_prototypes_used"], self.config.head.out_dim
        # As many as images are all that can be in use: each has its own then.
        few = used <= HANDFUL and values["cls_prototypes_share"] <= HANDFUL_SHARE
        few = few and used < self.num_images
        if values["agreement"] <= AGREED or not few:
            return None
        return Verdict(
            "collapse",
            f"student and teacher choose the same prototype for {values['agreement']:.0%} of "
            f"images, and {used:.0f} of {count} prototypes are in use (class loss "
            f"{values['cls_loss']:.3f}): nearly all images get one answer",
            "Spread the targets: method.targets=sinkhorn, or method.center_momentum=0.9 with "
            "method.targets=center; method.koleo_weight=0.1 keeps class tokens apart (beyond the "
            "paper); a lower optim.lr",
        )

    def _low_rank(self, values: Mapping[str, float]) -> Verdict | None:
        """The class tokens of a batch vary along hardly more than one direction."""
        if self._step < self.quiet_until or values["effective_rank"] >= LOW_RANK:
            return None
        return Verdict(
            "low rank",
            f"class tokens vary along {values['effective_rank']:.1f} of {self.config.model.width} "
            f"directions (agreement {values['agreement']:.0%})",
            "Calm the run: lower optim.lr, raise method.momentum (0.99 to 0.996), use a larger "
            "train.batch and gentler views (augment.global_scale 0.4,1); method.koleo_weight=0.1 "
            "holds the rank up (beyond the paper)",
        )

    def _diverging(self, values: Mapping[str, float]) -> Verdict | None:
        """The gradient grew far beyond its first level after the warm-up, or a loss beyond ln K."""
        parts = ("backbone", "head_mlp", "last_layer")
        norm = math.sqrt(sum(values[f"grad_{part}"] ** 2 for part in parts))
        first = self._first_gradients
        if self._step >= self.quiet_until and len(first) < 5:
            first.append(norm)
        usual = sorted(first)[len(first) // 2] if first else norm
        ln_k, ln_k_patch = values["ln_k"], values["ln_k_patch"]
        if not math.isfinite(norm):
            evidence = "the gradient is not finite"
        elif norm > DIVERGED_GRADIENT * usual and norm > 1.0:
            evidence = f"the gradient norm is {norm:.3g}, {norm / usual:.0f} times its first level"
        elif values["cls_loss"] > DIVERGED_LOSS * ln_k:
            evidence = f"class loss {values['cls_loss']:.2f} is far above ln K = {ln_k:.2f}"
        elif values["patch_loss_masked"] > DIVERGED_LOSS * ln_k_patch:
            loss = values["patch_loss_masked"]
            evidence = f"patch loss {loss:.2f} is far above ln K = {ln_k_patch:.2f}"
        else:
            return None
        optim = self.config.optim
        return Verdict(
            "diverging",
            evidence,
            f"Lower optim.lr (now {optim.lr:g} per 256 images), lengthen optim.warmup "
            f"({optim.warmup}), lower optim.clip ({optim.clip:g}; 0.3), or set "
            "train.precision=float32",
        )

    def _few_prototypes(self, values: Mapping[str, float]) -> Verdict | None:
        """K exceeds the images, or the window's rows use hardly any prototype that they could."""
        out_dim = self.config.head.out_dim
        used, share = values["cls_prototypes_used"], values["cls_prototypes_share"]
        if self._step < self.quiet_until:
            return None
        if out_dim > self.num_images:
            evidence = f"head.out_dim={out_dim} prototypes for {self.num_images} images"
        elif share < PROTOTYPE_SHARE and out_dim > 256:
            evidence = f"{used:.0f} of {out_dim} prototypes are in use"
        else:
            return None
        return Verdict(
            "too many prototypes",
            evidence,
            f"Lower head.out_dim and head.patch_out_dim (for {self.num_images} images try "
            f"{fitting_prototypes(self.num_images)})",
        )

    def _frozen_teacher(self) -> Verdict | None:
        """The teacher remembers longer than the run, 1 / (1 - momentum) steps: it stays random."""
        momentum = self.config.method.momentum
        memory = 1 / max(1 - momentum, 1e-12)
        if memory < self.total_steps:
            return None
        enough = 1 - 10 / max(self.total_steps, 20)
        return Verdict(
            "frozen teacher",
            f"with method.momentum={momentum:g} the teacher averages over {memory:.0f} steps, the "
            f"run has {self.total_steps}",
            f"Lower method.momentum (for this run {enough:.3g} or less)",
        )

    def _data_bound(self, stages: Stages) -> Verdict | None:
        """Another stage than the step sets the pace."""
        found = limit_of(stages, self.config)
        if found is None:
            return None
        word = f"data-bound ({found.stage})"
        return Verdict("data-bound", found.evidence, found.advice, word)

    def _uniform(self, values: Mapping[str, float]) -> Verdict | None:
        """Loss and teacher entropy stay within 1 % of ln K, for `uniform_steps` and more."""
        floor = (1 - UNIFORM_GAP) * values["ln_k"]
        flat = values["cls_loss"] >= floor and values["teacher_entropy"] >= floor
        if not flat or self._step < self.uniform_after:
            self._uniform_since = None
            return None
        self._uniform_since = self._step if self._uniform_since is None else self._uniform_since
        if self._step - self._uniform_since < self.uniform_steps:
            return None
        method = self.config.method
        return Verdict(
            "uniform",
            f"class loss {values['cls_loss']:.3f} and teacher entropy "
            f"{values['teacher_entropy']:.3f} sit at ln K = {values['ln_k']:.3f} since step "
            f"{self._uniform_since}: the outputs say nothing",
            f"Lower method.teacher_temp (now {method.teacher_temp:g}; 0.04 or less), lower "
            f"method.momentum (now {method.momentum:g}; 0.99 for short runs), raise optim.lr, or "
            "lower head.out_dim and head.bottleneck_dim",
        )
