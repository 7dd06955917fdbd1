"""Which stage limits a training - decode, render, transfer, step - and what would help.

Loader processes decode and render beside the training process, which moves batches to its device
and takes the step. Images are waited for when the processes together make fewer than the step could
use; then the larger part of their work is the limit, and the ratio says how many would do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ibot.config.schema import Config
from ibot.words import counted

Stage = Literal["decode", "render", "transfer", "step"]
QUIET = 0.15
"""Share of the time below which waiting for images is not worth a word."""
RESERVE = 1.1
"""Images that the loader processes should be able to make, over those that the step uses."""
BUSY = 0.15
"""Share of the cores that other processes take from which on that is what is said first."""
CROWDED = 0.5
"""Share of their time in which processes wait for a core, above which more of them do not help."""
BEYOND = 1.2
"""Times the step that moving or drawing on the device must take to be what limits it."""
SLOW_FILES = 0.5
"""Share of its time in which a process computes, below which it waits for files above all."""
SECONDS = (
    "images",
    "decode",
    "draw",
    "busy",
    "queued",
    "transfer",
    "render",
    "step",
    "waited",
    "total",
)
"""What is measured of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Seconds of the stages of a step in one process, means over some steps."""

    images: float
    """Of a step of this process."""
    decode: float
    """In loader processes, summed over the micro-batches of the step."""
    draw: float
    """To draw the views and masks there."""
    busy: float
    """Of both, those in which the processes computed."""
    queued: float
    """Of both, those in which they waited for a core."""
    transfer: float
    """To move a batch to the device."""
    render: float
    """To draw views on the device, if they are drawn there, and to normalise them."""
    step: float
    """Forward, backward, optimizer."""
    waited: float
    """By the training process, for images."""
    total: float
    """From one step to the next."""
    workers: int
    """Loader processes; 0: the training process makes its batches itself."""
    cores: int
    """That this process may use."""
    device: str
    """Kind of the device: cuda, cpu."""
    others: float = 0.0
    """Share of the cores that other processes took meanwhile, 0..1; 0 where that is not known."""

    @classmethod
    def of(
        cls,
        seconds: Mapping[str, float],
        *,
        workers: int,
        cores: int,
        device: str,
        others: float = 0.0,
    ) -> Stages:
        """From means by name; those that are absent are 0."""
        known = {name: seconds.get(name, 0.0) for name in SECONDS}
        return cls(**known, workers=workers, cores=cores, device=device, others=others)

    @classmethod
    def mean(cls, readings: Sequence[tuple[int, Stages]]) -> Stages:
        """Of readings of so many steps each, of one training."""
        steps, (_, last) = max(1, sum(count for count, _ in readings)), readings[-1]
        means = {
            name: sum(count * getattr(stages, name) for count, stages in readings) / steps
            for name in (*SECONDS, "others")
        }
        return replace(last, **means)

    @property
    def training(self) -> float:
        """Seconds in which the device is at work.

        A GPU moves and draws beside the step, so that the parts may be more than the whole.
        """
        parts = self.transfer + self.render + self.step
        return min(parts, self.total) if self.total else parts

    @property
    def idle(self) -> float:
        """Seconds in which the device has no images.

        The host waits longer than a GPU does, as it runs ahead of it.
        """
        return min(self.waited, max(0.0, self.total - self.training))

    @property
    def idle_share(self) -> float:
        """Of the time, 0..1."""
        return self.idle / max(self.total, 1e-9)

    @property
    def making(self) -> float:
        """Seconds to decode and draw the images of a step, if each process had a core of its own.

        Waiting for a core that others have is no part of the work.
        """
        return max(self.busy, self.decode + self.draw - self.queued)

    def making_by(self, workers: int, seconds: float) -> float:
        """What is left of `seconds` of work where so many processes share it and the cores."""
        return max(seconds / workers, self.busy / min(workers, self.cores))

    @property
    def wanted(self) -> int:
        """Loader processes that would make the images as fast as the step uses them."""
        enough = math.ceil(RESERVE * self.making / max(self.training, 1e-9))
        return max(1, enough)

    @property
    def makes(self) -> float:
        """Images per second that those in use make, as things are."""
        seconds = self.making_by(max(1, self.workers), self.decode + self.draw)
        return self.images / max(seconds, 1e-9)

    @property
    def uses(self) -> float:
        """Images per second that the device could use."""
        return self.images / max(self.training, 1e-9)

    @property
    def has_room(self) -> bool:
        """Whether the cores suffice for the processes that would do.

        The host of a GPU needs one. A CPU's step, which shares them, leaves some while it waits.
        """
        free = self.cores - 1 if self.device == "cuda" or self.cores == 1 else self.cores
        return RESERVE * self.busy / max(self.training, 1e-9) <= free

    @property
    def starved(self) -> bool:
        """Whether images are waited for as they are made too slowly: not while the processes that
        make enough of them start.
        """
        slow = not self.workers or self.makes < RESERVE * self.uses
        return slow and self.idle_share >= QUIET

    @property
    def load(self) -> str:
        """What other processes take of the cores, in words; empty where it is not worth one."""
        if self.others < BUSY:
            return ""
        return f"other processes take {self.others:.0%} of {counted(self.cores, 'core')}"

    @property
    def crowded(self) -> bool:
        """Whether the processes wait for cores most of the time."""
        return self.queued > CROWDED * (self.decode + self.draw)

    @property
    def limit(self) -> Stage:
        """The stage that sets the pace."""
        if self.starved:
            return "decode" if self.decode >= self.draw else "render"
        # Beside a step they take about as long as it does, as they share the device.
        slower: dict[Stage, float] = {"transfer": self.transfer, "render": self.render}
        slowest = max(slower, key=slower.__getitem__)
        return slowest if slower[slowest] > BEYOND * self.step else "step"

    def numbers(self) -> dict[str, float]:
        """What metrics.jsonl keeps, in seconds of a step."""
        return {
            "decode_seconds": self.decode,
            "render_seconds": self.draw + self.render,
            "busy_seconds": self.busy,
            "queued_seconds": self.queued,
            "transfer_seconds": self.transfer,
            "step_seconds": self.step,
            "wait_fraction": self.idle_share,
            "workers": self.workers,
        }


@dataclass(frozen=True, slots=True)
class Limit:
    """A stage that holds the training back, in words."""

    stage: Stage
    evidence: str
    advice: str


def limit_of(stages: Stages, config: Config) -> Limit | None:
    """What holds the training back, and what would help; None where the step sets the pace."""
    stage = stages.limit
    if stage == "step":
        return None
    if not stages.starved:
        share = getattr(stages, stage) / max(stages.training, 1e-9)
        return Limit(
            stage,
            f"{stage} on the device takes {share:.0%} of its time",
            sentence(cheaper(stages, config)),
        )
    return Limit(
        stage,
        f"{stages.idle_share:.0%} of the time goes into waiting for images; {rates(stages)}",
        sentence(remedy(stages, config)),
    )


def rates(stages: Stages) -> str:
    """The limiting stage of the loader processes, what they make and what the step would use."""
    stage = "decode" if stages.decode >= stages.draw else "render"
    share = max(stages.decode, stages.draw) / max(stages.decode + stages.draw, 1e-9)
    limits = f"{stage} limits ({share:.0%} of the work on them)"
    if not stages.workers:
        return (
            f"{limits}: they are made between the steps, at {stages.makes:.0f} images/s, and a "
            f"step would use {stages.uses:.0f}"
        )
    makes = f"{counted(stages.workers, 'worker')} {'makes' if stages.workers == 1 else 'make'}"
    return f"{limits}: {makes} {stages.makes:.0f} images/s, the step would use {stages.uses:.0f}"


def remedy(stages: Stages, config: Config) -> str:
    """How many loader processes would do, and what else where the cores are too few for them."""
    wanted = max(stages.wanted, stages.workers + 1)
    if stages.load:
        return f"{stages.load}: images come faster without them"
    if stages.crowded:
        share = stages.queued / (stages.decode + stages.draw)
        return (
            f"the processes wait for one of {counted(stages.cores, 'core')} {share:.0%} of their "
            f"time: {cheaper(stages, config)}"
        )
    would = f"{counted(wanted, 'worker')} would do"
    if not stages.has_room:
        cores = f"this process has {counted(stages.cores, 'core')}"
        return f"{would}; {cores}: {cheaper(stages, config)}"
    use = f"{stages.workers} {'is' if stages.workers == 1 else 'are'} in use"
    text = f"{would}; {use}: system.workers={wanted}"
    if stages.busy < SLOW_FILES * stages.making and stages.decode >= stages.draw:
        text += ". The processes wait for files most of the time: a local disk or shards help too"
    return text


def cheaper(stages: Stages, config: Config) -> str:
    """What takes less time in the limiting stage."""
    pixels, on_gpu = config.data.pixels, stages.device == "cuda"
    if not stages.starved:
        if stages.limit == "transfer" and pixels != "device":
            return "use data.pixels=device"
        if pixels == "device" and not on_gpu:
            return "use data.pixels=fast"
        return "use fewer local views (augment.num_local)"
    if pixels == "exact":
        return f"use data.pixels={'device' if on_gpu else 'fast'}"
    if stages.decode >= stages.draw:
        if config.data.window:
            return "use a smaller data.window"
        return "store the images at a smaller size"
    if on_gpu and pixels != "device":
        return "use data.pixels=device"
    return "use fewer local views (augment.num_local)"


def sentence(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def pace(stages: Stages, config: Config) -> str:
    """What set the pace of a training, in a line."""
    found = limit_of(stages, config)
    if found is None:
        load = f"; {stages.load}" if stages.load else ""
        waited = f"{stages.idle_share:.0%} of the time went into waiting for images"
        return f"the step sets it: {waited}{load}"
    return f"{found.evidence}. {found.advice}"
