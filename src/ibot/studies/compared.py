"""A training beside what has learnt nothing: a random start of its network, plain pixels, and
histograms of colours, on the images of its own evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ibot.config.schema import Config
from ibot.eval import gained
from ibot.eval.baselines import random_start
from ibot.eval.probes.during_training import Probe, knn_probe
from ibot.eval.probes.patches_in_training import match_probe
from ibot.models.contract import Backbone
from ibot.models.plain import MOST_BYTES, Colours, Pixels, bytes_of_pixels
from ibot.report.history import interval_of
from ibot.studies.probes import Evaluated
from ibot.system.jsonl import append_jsonl
from ibot.system.processes import Processes
from ibot.system.records import BESIDE, RESULTS, read_records
from ibot.types import ResultRecord

KNN, MATCH = "knn_top1", "match_r1"
ALWAYS = 4_000
"""Looks at images that a comparison may always take: a second or two."""
SHARE = 0.5
"""Looks at images, over those of the training, that it may take else. One of a training costs at
least ten times as much, two views and more with their gradients: a twentieth of its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A number of a training, and the same of what it is to be compared with."""

    now: ResultRecord
    start: ResultRecord | None = None
    """Of the weights that it started from (`--init`)."""
    beside: Mapping[str, ResultRecord]
    """By the name of the baseline, as far as they are known."""
    too_dear: int = 0
    """Looks at images that were saved by leaving baselines out; 0: none is missing for that."""

    def gain(self, name: str) -> float:
        """Points above a baseline, or above "start"."""
        return self.now.value - self._other(name).value

    def sign(self, name: str) -> int:
        """Whether it is above (1) or below (-1) a baseline or the start, or not told apart (0)."""
        return gained.sign(_with_interval(self.now), _with_interval(self._other(name)))

    def images_needed(self, name: str) -> int:
        """Validation images that would tell it apart, were the difference as it looks."""
        return gained.images_needed(_with_interval(self.now), _with_interval(self._other(name)))

    def numbers(self) -> dict[str, object]:
        """All of it as plain data: the metric, and by name the values and their intervals."""
        records = {"now": self.now, "start": self.start, **self.beside}
        known = {name: record for name, record in records.items() if record is not None}
        return {
            "metric": self.now.metric,
            "values": {name: record.value for name, record in known.items()},
            "intervals": {name: interval_of(record) for name, record in known.items()},
        }

    def _other(self, name: str) -> ResultRecord:
        other = self.start if name == "start" else self.beside.get(name)
        if other is None:
            raise KeyError(name)
        return other


def _with_interval(record: ResultRecord) -> ResultRecord:
    """Trainings of older versions kept none of k-NN."""
    return replace(record, interval=interval_of(record))


def metric_of(evaluated: Evaluated, config: Config) -> str:
    """By what a training is judged: k-NN where labels can tell, else patches found in another view;
    empty where that is switched off.
    """
    if evaluated.labelled:
        return KNN
    return MATCH if config.evaluate.match else ""


def at_the_end(
    config: Config, folder: Path, evaluated: Evaluated, step: int, device: torch.device
) -> Comparison | None:
    """A training that has reached `step` beside its baselines, of which those that are missing are
    measured now; None where nothing was measured at that step.

    In one process, after the others have ended. Raises what an evaluation raises.
    """
    metric = metric_of(evaluated, config)
    known = [*read_records(folder / RESULTS), *read_records(folder / BESIDE)]
    found = from_records(known, metric, step, from_weights=bool(config.train.init))
    if found is None:
        return None
    missing = [name for name in possible(metric, config, evaluated) if name not in found.beside]
    needed = looks(metric, missing, config, evaluated)
    if not affordable(needed, step * config.train.batch):
        return replace(found, too_dear=needed)
    new = [*measured(config, evaluated, missing, step, device, Processes())]
    keep(folder, new)
    return replace(found, beside={**found.beside, **{one.baseline: one for one in new}})


def from_records(
    records: Sequence[ResultRecord], metric: str, step: int, *, from_weights: bool
) -> Comparison | None:
    """What records of a run say of its step; None where they say nothing of it."""
    of_metric = [r for r in records if r.metric == metric and r.step is not None]
    own = [r for r in of_metric if not r.baseline]
    now = next((r for r in reversed(own) if r.step == step), None)
    if now is None:
        return None
    alike = [r for r in of_metric if _comparable(r, now)]
    start = next((r for r in alike if not r.baseline and r.step == 0), None)
    beside = {r.baseline: r for r in alike if r.baseline}
    if start is not None and not from_weights:
        beside["random"] = start
    return Comparison(now=now, start=start if from_weights else None, beside=beside)


def still_rising(records: Sequence[ResultRecord], now: ResultRecord) -> bool:
    """Whether a training's number was clearly higher at its end than half way; False where it was
    not measured in between.
    """
    half = (now.step or 0) / 2
    alike = [r for r in records if r.metric == now.metric and not r.baseline and r.step is not None]
    earlier = [r for r in alike if 0 < (r.step or 0) <= half and _comparable(r, now)]
    return bool(earlier) and gained.sign(_with_interval(now), _with_interval(earlier[-1])) > 0


def _comparable(one: ResultRecord, other: ResultRecord) -> bool:
    """Whether two records are of the same images and settings, which a resumed run may change."""
    counts = (one.num_train, one.num_val) == (other.num_train, other.num_val)
    return counts and _settings(one) == _settings(other)


def _settings(record: ResultRecord) -> dict[str, object]:
    return {key: value for key, value in record.settings.items() if key != "features"}


def baselines_of(metric: str) -> tuple[str, ...]:
    """Those that mean something for it: patches have no histogram."""
    return ("random", "pixels", "colours") if metric == KNN else ("random", "pixels")


def possible(metric: str, config: Config, evaluated: Evaluated) -> list[str]:
    """Those of them that fit into memory: rows of pixels of many channels may not, which are held
    three times where they are standardised.
    """
    names = baselines_of(metric)
    rows = 3 * looks(metric, names[:1], config, evaluated)
    wide = bytes_of_pixels(rows, len(config.model.channels)) > MOST_BYTES
    return [name for name in names if not (name == "pixels" and metric == KNN and wide)]


def looks(metric: str, names: Sequence[str], config: Config, evaluated: Evaluated) -> int:
    """How often an image is looked at to measure baselines."""
    settings = config.evaluate
    if evaluated.sets is None or metric != KNN:
        return len(names) * 2 * min(settings.match, len(evaluated.matched))
    train, val = evaluated.sets
    return len(names) * (min(len(train), settings.max_train) + min(len(val), settings.max_val))


def measured(
    config: Config,
    evaluated: Evaluated,
    names: Sequence[str],
    step: int,
    device: torch.device,
    processes: Processes,
) -> Iterator[ResultRecord]:
    """The evaluation by which the training is judged, of baselines in the place of the network."""
    for name in names:
        probe, network = _of_baseline(name, config, evaluated, device, processes)
        for record in probe(network, step):
            yield replace(record, baseline=name)


def _of_baseline(
    name: str, config: Config, evaluated: Evaluated, device: torch.device, processes: Processes
) -> tuple[Probe, nn.Module]:
    channels, statistics = config.model.channels, config.model.statistics
    network: Backbone
    if evaluated.labelled and evaluated.sets is not None:
        probe = knn_probe(config, *evaluated.sets, device, processes)
        if name == "pixels":
            network = Pixels(statistics, channels)
        elif name == "colours":
            network = Colours(statistics, channels)
        else:
            network = _random(config)
    else:
        features = "pixels" if name == "pixels" else "network"
        probe = match_probe(config, evaluated.matched, device, processes, features)
        network = _random(config)  # whose grid those of pixels have
    return probe, network.to(device)


def _random(config: Config) -> Backbone:
    model = replace(config.model, drop_path=0.0)
    return random_start(model, built_for=config.augment.global_size)


def keep(folder: Path, records: Sequence[ResultRecord]) -> None:
    """Add records of baselines to those of a run."""
    if records:
        append_jsonl(folder / BESIDE, *(asdict(record) for record in records))


def affordable(needed: int, seen: int) -> bool:
    """Whether baselines may look at images so often beside a training that sees `seen`."""
    return needed <= max(ALWAYS, SHARE * seen)
