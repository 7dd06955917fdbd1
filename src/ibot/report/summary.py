"""A run in plain sentences: what was trained on what for how long, how it ended, what it learnt,
and what to do next.

Sentences are HTML with all that comes from files escaped.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ibot.config.override import from_plain
from ibot.config.resolve import Derived, derive
from ibot.config.schema import Config
from ibot.engine.verdicts import FEW_REPORTS
from ibot.errors import ConfigError
from ibot.report.events import unlimited
from ibot.report.history import interval_of
from ibot.report.html import escaped, name
from ibot.report.metrics import number
from ibot.report.settings import without_text
from ibot.report.story import Story
from ibot.system.records import data_name
from ibot.types import ResultRecord
from ibot.words import counted, counted_in_thousands

KNN = "knn_top1"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True)
class Summary:
    """What is said of a run."""

    story: Story

    @cached_property
    def config(self) -> Config | None:
        """The settings; None for those of a version that this one does not know."""
        try:
            config = from_plain(without_text(self.story.config))
        except (ConfigError, TypeError, ValueError):
            return None
        return config if self.story.config else None

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What is recorded of the images."""
        data = self.story.provenance.get("data")
        return data if isinstance(data, dict) else {}

    @cached_property
    def images(self) -> int | None:
        """Of the set."""
        images = number(self.data.get("images"))
        return int(images) if images else None

    @cached_property
    def derived(self) -> Derived | None:
        """What follows from settings and images; None where it cannot be told."""
        if self.config is None or self.images is None:
            return None
        try:
            return derive(self.config, self.images)
        except (ValueError, ZeroDivisionError, OverflowError):
            return None

    @property
    def total(self) -> tuple[int, int] | None:
        """Steps of the run and of its schedules; None where they cannot be told."""
        if self.derived is None:
            return None
        run, whole = self.derived.run_steps, self.derived.total_steps
        # Where the first command was to stop is past in a run that was resumed without that.
        return (whole if self.story.step > run else run), whole

    @property
    def left(self) -> int:
        """Steps of the schedules that a run which came to its end was asked not to make."""
        end = self.story.end or {}
        if end.get("event") != "end" or self.derived is None:
            return 0
        reached = int(number(end.get("step")) or self.story.step)
        return max(0, self.derived.total_steps - reached)

    @property
    def reports_judged(self) -> int:
        """Reports of the training that could be judged: those after the learning rate's warm-up."""
        images = self.story.metrics.images
        if self.derived is None:
            return len(images)
        quiet = min(self.derived.warmup_steps, self.derived.total_steps // 2)
        return sum(seen >= quiet * self.story.batch for seen in images)

    @cached_property
    def knn(self) -> Sequence[ResultRecord]:
        """k-NN accuracy during the training, in order."""
        return [record for record in self.story.records if record.metric == KNN]

    @property
    def status(self) -> tuple[str, str]:
        """How it stands, in a word or two, and its colour: accent, good, warn or bad."""
        end = self.story.end or {}
        if self.story.state == "running":
            return "still running", "accent"
        if end.get("event") == "end":
            return ("stopped as asked", "accent") if self.left else ("finished", "good")
        if self.story.guarded:
            return "stopped by its guard", "warn"
        if end.get("event") == "failed":
            return "failed", "bad"
        if end.get("event") == "stopped by signal":
            return "stopped", "warn"
        if self.converted and not self.story.metrics.images:
            return "converted", "accent"
        return ("ended without a word", "warn") if self.story.metrics.images else ("begun", "warn")

    @property
    def converted(self) -> str:
        """The published checkpoint from which the run was made; empty for one that was trained."""
        source = self.data.get("converted_from", "")
        return source if isinstance(source, str) else ""

    def sentences(self) -> Iterator[str]:
        """What was trained, how it ended, and what it learnt: a paragraph each."""
        yield self._trained()
        yield self._ended()
        yield self._learnt()
        yield from self._gained()
        yield self._judged()

    def _trained(self) -> str:
        if not self.story.config:
            return "The folder holds no settings: it is no run, or one that has been deleted."
        network = f"A {escaped(str(self.config.model))}" if self.config else "A network"
        recipe = self.story.config.get("recipe")
        by = f" by the recipe {name(recipe)}" if isinstance(recipe, str) and recipe else ""
        by = " with the settings that auto chose" if recipe == "auto" else by
        if self.converted:
            return (
                f"{network}{by}, taken over from the checkpoint "
                f"<code>{name(self.converted)}</code>{self._so_long('; trained on here')}."
            )
        verb = "is being" if self.story.state == "running" else "was"
        return f"{network} {verb} pre-trained{by} on {self._images()}{self._so_long()}."

    def _images(self) -> str:
        root = name(data_name(self.data.get("root", "")) or "an unnamed folder")
        count = f"{counted_in_thousands(self.images, 'image')} of " if self.images else ""
        classes = number(self.data.get("classes"))
        return f"{count}{root}" + (f" ({counted(int(classes), 'class')})" if classes else "")

    def _so_long(self, after: str = "") -> str:
        told = self.story
        if not told.metrics.images:
            return "" if after else "; nothing has been logged"
        seen = counted_in_thousands(told.images_seen, "image")
        epochs = f", {told.images_seen / self.images:.1f} epochs" if self.images else ""
        steps = counted_in_thousands(told.step, "step")
        whole = f" of {self.total[1]:,}" if self.total else ""
        seconds, images = told.timed
        speed = f" at {images / seconds:.0f} images/s" if seconds > 0 else ""
        time = f", in {lasting(seconds)} of training{speed}" if seconds > 0 else ""
        at_step = steps.replace(" step", f"{whole} step", 1)
        far = " so far" if told.state == "running" else ""
        there = f"{after}, to" if after else ", for"
        return f"{there} {seen} seen{far} ({at_step}{epochs}){time}"

    def _ended(self) -> str:
        told, end = self.story, self.story.end or {}
        if told.state == "running":
            return f"It is still running; this is how it stood at {moment(told.updated)}."
        when = f" at {moment(end.get('time'))}" if moment(end.get("time")) else ""
        if end.get("event") == "end":
            if not self.left:
                return f"It came to its end{when}."
            limit, _ = unlimited(told.command)
            steps = counted_in_thousands(self.left, "step")
            return (
                f"It stopped{when} as <code>{limit}</code> asked: {steps} of its schedules "
                f"{'is' if self.left == 1 else 'are'} left, and the same command without it goes "
                "on."
            )
        if end.get("event") == "stopped by signal":
            return (
                f"It was stopped by a signal{when}, after step {_step(end)}, and saved: the same "
                "command resumes it."
            )
        if end.get("event") == "failed":
            parts = (end.get("what"), end.get("why"), end.get("fix"))
            what, why, fix = (escaped(part) if isinstance(part, str) else "" for part in parts)
            how = "Its guard stopped it" if told.guarded else "It failed"
            why, fix = (
                f" {said}." if said else ""
                for said in (why and f"Why: {why}", fix and f"What helps: {fix}")
            )
            return f"{how}{when}: {what}.{why}{fix}"
        if not told.config or (self.converted and not told.metrics.images):
            return ""
        if not told.metrics.images:
            return "It has not logged anything, and nothing writes there now."
        return (
            f"It ended without a word after step {told.step}, as a process does that is killed or "
            "loses its machine or its disk; the last lines of <code>log.txt</code> may tell more. "
            f"The same command {'resumes it' if told.checkpoints else 'starts it again'}."
        )

    def _learnt(self) -> str:
        if not self.knn:
            return ""
        first, last = self.knn[0], self.knn[-1]
        on = counted_in_thousands(last.num_val, "validation image")
        if first is last:
            when = "with the initial weights" if not last.step else f"after step {last.step}"
            return f"k-NN accuracy of the teacher: {scored(last)} {when}, on {on}."
        began = "the weights it started from" if self._from_weights() else "random weights"
        began = f"with {began}" if not first.step else f"after step {first.step}"
        return (
            f"k-NN accuracy of the teacher went from {scored(first)} {began} to "
            f"<strong>{scored(last)}</strong> after step {last.step}, on {on}{self._chance()}."
            f"{_overlap(first, last)}{self._best()}"
        )

    def _gained(self) -> Iterator[str]:
        """What was said at the end, over a random start and what needs no network."""
        for line in self.story.closing:
            word, _, text = line.partition(" ")
            yield f"<strong>{escaped(word.capitalize())}:</strong> {escaped(text.strip())}."

    def _best(self) -> str:
        best = max(self.knn, key=lambda record: record.value)
        if best.value <= self.knn[-1].value:
            return ""
        when = f"after step {best.step}" if best.step else "before the training"
        return f" Its best was {best.value:.1f}\u00a0% {when}."

    def _chance(self) -> str:
        classes = number(self.data.get("classes"))
        return f"; chance is about {100 / classes:.3g}\u00a0%" if classes and classes > 1 else ""

    def _from_weights(self) -> bool:
        return self.config is not None and bool(self.config.train.init)

    def _judged(self) -> str:
        told = self.story
        if not told.metrics.images:
            return ""
        if not told.verdicts:
            few = self.reports_judged < FEW_REPORTS
            return (
                f"The health log has no complaint{', and few reports to judge by' if few else ''}."
            )
        kinds = list(dict.fromkeys(verdict.kind for verdict in told.verdicts))
        last = told.metrics.last.get("health")
        now = f" Its last word is: {escaped(last)}." if isinstance(last, str) else ""
        return f"The health log complains of: {escaped(', '.join(kinds))}.{now}"

    def next_steps(self) -> Iterator[tuple[str, str]]:
        """What to do next: a reason, and a command or nothing."""
        told = self.story
        run, data = shlex.quote(str(told.run)), self._data()
        for verdict in told.verdicts[-1:]:
            yield f"About “{verdict.kind}”: {verdict.advice}", ""
        if told.state == "running":
            yield "See it again later", f"ibot report {run}"
        elif self.status[0] in ("stopped", "ended without a word") and told.command:
            yield "Resume it" if told.checkpoints else "Start it again", told.command
        elif self.left and told.checkpoints and told.command:
            limit, command = unlimited(told.command)
            steps = counted_in_thousands(self.left, "step")
            how = "" if command else f", with its command and {limit}=0"
            yield f"Train on: {steps} left{how}", command
        if not told.checkpoints:
            return
        if self.converted and not told.metrics.images:
            settings = shlex.quote(str(told.run / "config.json"))
            yield "Train it on", f"ibot pretrain {settings} --run {run} --data {data}"
        measured = {entry.record.protocol for entry in told.entries if entry.record.step is None}
        for protocol, why in self._measures():
            if protocol not in measured:
                apart = self._apart if protocol != "match" else ""
                yield f"Measure it by {why}", f"ibot eval {protocol} {run} --data {data}{apart}"
        yield "Look at the words it has learnt", f"ibot explore {run} --data {data}"

    def _measures(self) -> tuple[tuple[str, str], ...]:
        """Evaluations that the images allow: those of class names need some."""
        if self.data.get("classes") or not self.config or not self.config.data.path:
            return ("knn", "k-NN"), ("linear", "a linear classifier")
        return (("match", "matches of patches, which need no labels"),)

    @property
    def _apart(self) -> str:
        """What sets validation images aside: a training whose images have such a part has been
        measured by k-NN from its first step on.
        """
        if self.config and self.config.data.val_path:
            return f" --val-data {shlex.quote(self.config.data.val_path)}"
        trained = bool(self.story.metrics.images) and not self.converted
        return " --split 0.2" if trained and not self.knn else ""

    def _data(self) -> str:
        path = self.config.data.path if self.config else ""
        return shlex.quote(path) if path else "DIR"


def scored(record: ResultRecord) -> str:
    """A value in per cent with its interval."""
    ends = interval_of(record)
    spread = f" (95\u00a0% interval {ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
    return f"{record.value:.1f}\u00a0%{spread}"


def lasting(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, noun in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= 2 * size:
            count = seconds / size
            return counted(
                round(count, 1) if count < 10 and noun != "minute" else round(count), noun
            )
    return counted(round(seconds, 1) if seconds < 9.5 else round(seconds), "second")


def moment(when: object) -> str:
    """A time of a record as people write it; empty for none."""
    return escaped(when.replace("T", " ")) if isinstance(when, str) else ""


def _overlap(first: ResultRecord, last: ResultRecord) -> str:
    ends = interval_of(first), interval_of(last)
    if ends[0] is None or ends[1] is None:
        return ""
    apart = ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
    return "" if apart else " The intervals overlap."


def _step(event: Mapping[str, Any]) -> str:
    step = number(event.get("step"))
    return "?" if step is None else f"{step:,.0f}"
