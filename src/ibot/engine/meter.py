"""How long the stages of a step take, measured without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from ibot.engine.stages import Stages
from ibot.system.load import Load
from ibot.system.machine import own_cores
from ibot.types import Batch, UndrawnBatch

Measured = Literal["transfer", "render", "step"]
"""Stages on the training side; render where the device draws the views."""
CPU = torch.device("cpu")


class StageMeter:
    """Collects at every step; `read` gives means since the last reading."""

    def __init__(self, device: torch.device = CPU, workers: int = 0) -> None:
        """workers: loader processes in use; 0: the training process reads by itself."""
        self.device, self.workers, self.cores = device, workers, own_cores()
        self._events: list[tuple[Measured, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._readings: list[tuple[int, Stages]] = []
        self._load = Load()

    @contextmanager
    def measure(self, stage: Measured) -> Iterator[None]:
        """Time what is done inside, on a GPU what the current stream is given there."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            yield
            self._add(stage, time.perf_counter() - began)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._events.append((stage, first, last))

    def observe(
        self, batches: Sequence[Batch | UndrawnBatch], seconds: float, waited: float
    ) -> None:
        """Count a step: its micro-batches, its seconds in all, and those of waiting for images."""
        for made in (batch.made for batch in batches if batch.made is not None):
            self._add("decode", made.decode)
            self._add("draw", made.render)
            self._add("busy", made.busy)
            self._add("queued", made.queued)
        self._add("images", sum(len(batch.index) for batch in batches))
        self._add("total", seconds)
        self._add("waited", waited)
        self._steps += 1

    def _add(self, name: str, value: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + value

    def read(self) -> Stages:
        """Means over the steps since the last reading.

        To be called where the device was waited for anyway: what it has not done by then is left to
        the next reading.
        """
        left = []
        for stage, first, last in self._events:
            if last.query():
                self._add(stage, first.elapsed_time(last) / 1000)
            else:
                left.append((stage, first, last))
        self._events = left
        steps, found = max(1, self._steps), self._seconds
        mean = {name: value / steps for name, value in found.items()}
        stages = Stages.of(
            mean,
            workers=self.workers,
            cores=self.cores,
            device=self.device.type,
            others=self._load.read(),
        )
        self._readings.append((self._steps, stages))
        self._seconds, self._steps = {}, 0
        return stages

    def whole(self) -> Stages | None:
        """Means over all readings but the first, in which loader processes start; None without."""
        readings = self._readings[1:] or self._readings
        return Stages.mean(readings) if readings else None
