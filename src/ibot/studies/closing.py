"""Did it work? What a training gained, what that means, and what to do next, in two sentences.

What is good and bad, and how sure, stands in docs/did_it_work.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ibot.config.reading import RGB
from ibot.config.schema import Config
from ibot.engine.verdicts import LOW_RANK
from ibot.recipes.auto import ENOUGH, PUBLISHED, adapting, named
from ibot.report.history import interval_of
from ibot.studies.compared import KNN, Comparison
from ibot.types import ResultRecord
from ibot.words import counted

Judgement = Literal["worse", "nothing", "plain", "good"]
"""Below what it began with, level with it, above it but not above pixels or colours, above all."""
FEW_ERRORS = 0.5
"""Errors of weights as they are, over those of the best baseline, up to which training may not be
needed: a choice."""
MOST_MORE = 4
"""Times the validation images up to which it is said how many would tell a difference apart."""
NAMES = {"random": "a random start", "pixels": "plain pixels", "colours": "colour histograms"}
NAMES_OF_PATCHES = {"random": "a random start", "pixels": "the pixels of the patches"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of a training beside its evaluation."""

    config: Config
    run: str
    """Its folder."""
    images: int
    """Of the set."""
    classes: bool
    """Whether they have classes."""
    left: int = 0
    """Steps of the schedule that were not made."""
    rising: bool = False
    """Whether what is compared still rose over the last half of the training."""
    agreement: float | None = None
    """Share of images, 0..1, of which student and teacher chose the same prototype at the end."""
    prototypes: float | None = None
    """Of the class tokens, in use by then."""
    rank: float | None = None
    """Effective rank of class tokens at the end."""
    first_rank: float | None = None
    """The same in the first report of the training."""
    complaints: str = ""
    """Of the health log at the end, that are no matter of speed."""

    @property
    def data(self) -> str:
        """The images as they stand in a command."""
        return named(self.config.data)

    @property
    def adapt(self) -> str:
        """The command that starts from published weights."""
        return adapting(self.config.data)

    @property
    def few(self) -> bool:
        """Whether published weights are the better start."""
        return self.images < ENOUGH


def closing(found: Comparison | None, now: Situation) -> list[str]:
    """What was gained, and what that means with what to do next: a line each."""
    if found is None or found.now.metric != KNN:
        return without_labels(found, now)
    said = gained(found, from_weights=bool(now.config.train.init))
    return [said, f"{_health(now, means(found))}. Best next: {_next(found, now)}"]


def gained(found: Comparison, *, from_weights: bool = False) -> str:
    """k-NN with its interval, and how far above what it is compared with."""
    of = counted(found.now.num_val, "validation image")
    skipped = ""
    if found.too_dear:
        names = _listed([NAMES[name] for name in NAMES if name not in found.beside])
        skipped = f"; not compared with {names}, which takes {found.too_dear:,} looks at images"
    beside = _beside(found, NAMES, from_weights=from_weights)
    return f"k-NN {scored(found.now)} of {of}{beside}{_rate(found)}{skipped}"


def scored(record: ResultRecord) -> str:
    """A value in per cent with half of its 95 % interval."""
    ends = interval_of(record)
    half = f" ± {(ends[1] - ends[0]) / 2:.1f}" if ends else ""
    return f"{record.value:.1f}{half} %"


def _beside(found: Comparison, names: Mapping[str, str], *, from_weights: bool) -> str:
    """: 13.3 points above its own random start (40.0), no clear difference to plain pixels (52.5).

    Of differences that count first, then of those that so many images do not show.
    """
    titles = {"start": "the weights it started from", **names}
    if not from_weights:
        titles["random"] = "its own random start"
    compared: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for name, title in titles.items():
        other = found.start if name == "start" else found.beside.get(name)
        if other is not None:
            sign, points = found.sign(name), f"{abs(found.gain(name)):.1f}"
            points += "" if compared[sign] else " points"
            before = {1: f"{points} above ", -1: f"{points} below ", 0: ""}[sign]
            compared[sign].append(f"{before}{title} ({other.value:.1f})")
    level = f"no clear difference to {_listed(compared[0])}" if compared[0] else ""
    parts = [*compared[1], *compared[-1], *filter(None, [level])]
    return f": {', '.join(parts)}" if parts else ""


def _rate(found: Comparison) -> str:
    """What the largest class gives, where that is not far below."""
    largest = found.now.data.get("largest_class")
    if not isinstance(largest, int | float) or found.now.value > 1.5 * largest:
        return ""
    return f"; naming the largest class always gives {largest:.1f}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1] if parts else ""


def _as_good(found: Comparison) -> list[str]:
    """What has seen no network and is not clearly below the training."""
    return [name for name in ("pixels", "colours") if name in found.beside and found.sign(name) < 1]


def judged(found: Comparison) -> Judgement:
    """The training in a word, by the differences that count."""
    start = "start" if found.start is not None else "random"
    sign = found.sign(start) if start == "start" or start in found.beside else 1
    if sign < 1:
        return "worse" if sign < 0 else "nothing"
    return "plain" if _as_good(found) else "good"


def means(found: Comparison) -> str:
    """What k-NN says of a training, in a sentence."""
    better = [NAMES[name] for name in _as_good(found) if found.sign(name) < 0]
    alone = better or [NAMES[name] for name in _as_good(found)]
    known = [name for name in ("pixels", "colours") if name in found.beside]
    verb = "are better" if better else "are as good"
    also = f", and {_listed(alone)} alone {verb}" if alone else ""
    if found.start is not None:
        change = {
            "worse": "has made the weights worse for these classes",
            "nothing": "has changed nothing that these classes show",
        }.get(judged(found), "has improved the weights for these classes")
        return f"the training {change}{also}"
    if "random" not in found.beside:
        return f"whether it has learnt anything is not known: no random start was measured{also}"
    if judged(found) == "worse":
        return f"these features are worse than those of a random network{also}"
    if judged(found) == "nothing":
        return f"{_untold(found)}{also}"
    if alone:
        return f"it has learnt something, but {_listed(alone)} alone {verb} for these classes"
    if not known:
        return "it has learnt something, whether more than colours is not known"
    return f"it has learnt more of these classes than their {' and '.join(known)} show"


def _untold(found: Comparison) -> str:
    """Features that are level with those of a random network, or seem better on too few images."""
    needed, count = found.images_needed("random"), found.now.num_val
    if found.gain("random") <= 0 or needed > MOST_MORE * count:
        return "these features cannot be told from those of a random network"
    return (
        f"{counted(count, 'validation image')} cannot tell these features from those of a random "
        f"network; {needed:,} would, if they are {found.gain('random'):.1f} points better"
    )


def _health(now: Situation, said: str) -> str:
    if now.complaints:
        return f"the health log complains ({now.complaints}), and {said}"
    return said


def _next(found: Comparison, now: Situation) -> str:
    """What to do, with a command."""
    if now.left:
        return "train to the end of the schedule and judge it then"
    if found.start is not None and judged(found) in ("worse", "nothing"):
        weights = shlex.quote(now.config.train.init)
        return f"use the weights as they were, {weights}, or train anew with a lower optim.lr"
    if now.complaints:
        return f"what the health log advises, ibot report {now.run}"
    longer = f"it was still rising, so train longer: {longer_run(now)}" if now.rising else ""
    if judged(found) == "good":
        if longer:
            return longer
        if now.few and found.start is None:
            return f"see what published weights reach untrained: {untrained(now)}"
        return f"use it: ibot features {now.run} {now.data} --out FILE"
    if now.few and found.start is None:
        return f"start from published weights, {counted(now.images, 'image')} are few: {now.adapt}"
    return longer or f"other settings (its curves: ibot report {now.run}), or {now.adapt}"


def longer_run(now: Situation) -> str:
    """The command that makes the run twice as long."""
    length = now.config.train.length
    return f'ibot pretrain --run {now.run} --extend-to "{2 * length.value:g} {length.unit}"'


def untrained(now: Situation) -> str:
    """The command that measures published weights as they are."""
    if now.config.model.channels != RGB:
        return now.adapt
    return f"ibot eval knn {PUBLISHED} {now.data}"


def without_labels(found: Comparison | None, now: Situation) -> list[str]:
    """As `closing`, where no labels tell."""
    parts = [_found_again(found, now)] if found is not None else []
    if now.agreement is not None:
        used, count = now.prototypes, now.config.head.out_dim
        in_use = f", with {used:.0f} of {count} in use" if used is not None else ""
        share = f"{now.agreement:.0%} of images{in_use}"
        parts.append(f"student and teacher choose the same prototype for {share}")
    if now.rank is not None:
        first = f" ({now.first_rank:.1f} in the first report)" if now.first_rank else ""
        parts.append(f"class tokens fill {now.rank:.1f} directions{first}")
    return ["; ".join(parts), f"{_told(found, now)}. Best next: {_next_without_labels(found, now)}"]


def _found_again(found: Comparison, now: Situation) -> str:
    of = counted(found.now.num_val, "image")
    again = f"{scored(found.now)} of the patches of {of} found again in another view"
    from_weights = bool(now.config.train.init)
    return f"{again}{_beside(found, NAMES_OF_PATCHES, from_weights=from_weights)}"


def _told(found: Comparison | None, now: Situation) -> str:
    """What can be said without labels, in a sentence."""
    if now.rank is not None and now.rank < LOW_RANK:
        return _health(now, "the class tokens tell hardly any images apart")
    what = "of the classes only labels tell"
    if found is None:
        return _health(now, f"no measure of patches was asked for, and {what}")
    if found.start is None and "random" not in found.beside:
        return _health(now, f"what a random start finds again was not measured, and {what}")
    pixels = ", and than by their pixels" if "pixels" in found.beside else ""
    said = {
        "worse": "places are told apart worse than before",
        "nothing": "places are told apart no better than before",
        "plain": "places are told apart better than before, but no better than by their pixels",
        "good": f"places are told apart better than before{pixels}",
    }[judged(found)]
    return _health(now, f"{said}; {what}")


def _next_without_labels(found: Comparison | None, now: Situation) -> str:
    """What to do, with a command."""
    if now.left:
        return "train to the end of the schedule and judge it then"
    if now.complaints:
        return f"what the health log advises, ibot report {now.run}"
    if now.classes:
        return f"measure it with the classes of the images: {split_knn(now)}"
    label = f"sort a few hundred images into a folder per class and measure it: {split_knn(now)}"
    good = found is not None and judged(found) == "good"
    if now.few and not now.config.train.init and not good:
        return f"{label}; {counted(now.images, 'image')} are few, {now.adapt} may do better"
    return label


def split_knn(now: Situation) -> str:
    """The command that measures with classes that have no validation part."""
    data = now.data if now.classes else "--data LABELLED"
    return f"ibot eval knn {now.run} {data} --split 0.2"


def before(found: Comparison, now: Situation) -> str:
    """What the weights that a training starts from reach as they are, and whether to train."""
    labels = found.now.metric == KNN
    reached = gained(found, from_weights=True) if labels else _found_again(found, now)
    said = f"the weights as they are: {reached}"
    weights = shlex.quote(now.config.train.init)
    if judged(found) != "good":
        return f"{said}; they know little of these images, and training is worth its time"
    if not labels:
        ask = f"ibot eval knn {weights} --data LABELLED --split 0.2"
        return f"{said}; what they know of your classes, {ask} tells before you train"
    best = max(record.value for record in found.beside.values())
    if 100 - found.now.value > (100 - best) * FEW_ERRORS:
        return f"{said}; they know these classes in part, and training may add to it"
    return (
        f"{said}; training may not be needed, ibot features {weights} {now.data} --out FILE uses "
        "them as they are. Train if every point counts, and compare at the end"
    )
