"""What runs have learnt, side by side: the table and the record of `benchmarks.gpu_learn`."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning_studies import ACROSS, RESIDUAL
from benchmarks.rounds import about
from ibot.config.resolve import Derived, derive
from ibot.config.schema import Config
from ibot.engine.checkpoint import reached_step
from ibot.errors import IbotError
from ibot.recipes import recipe
from ibot.recipes.ablations import CLS_ALONE
from ibot.system.device import describe_device
from ibot.system.files import replacing
from ibot.system.jsonl import read_jsonl, write_json
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord
from ibot.weights.files import read_settings


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the runs that are compared."""

    title: str
    settings: tuple[str, ...] = ()
    """In which it differs from the others."""


ARMS = {
    "other_view": Arm("iBOT, other view, residual", (*RESIDUAL, *ACROSS)),
    "ibot": Arm("iBOT"),
    "class": Arm("class loss alone", CLS_ALONE),
}
"""By folder, longer steps first: what leads, the others can catch up with in the same time."""
PROTOCOLS = {"knn": ("k=20",), "linear": ("augment=none",), "match": ()}
"""Evaluations of the finished runs, with their settings."""
ON_THE_WAY = ("knn_top1", "match_r0", "match_r1")
"""What a training measures."""
ELSEWHERE = (
    ("DINO, stable-pretraining (224 pixels, other crops and heads)", "83.8", "86.1"),
    ("iBOT, the same (no local views, random masks)", "43.3", "-"),
)
"""Published of Imagenette, ViT-S/16, 200 epochs: title, k-NN, linear."""


@dataclass(frozen=True)
class Run:
    """A run as its folder tells of it."""

    folder: Path

    @cached_property
    def step(self) -> int:
        """Of the newest checkpoint."""
        return reached_step(self.folder)

    @cached_property
    def config(self) -> Config | None:
        """The settings; None before there are any."""
        try:
            return recipe(self.folder) if (self.folder / "config.json").exists() else None
        except (IbotError, ValueError):
            return None

    @cached_property
    def derived(self) -> Derived | None:
        """Steps; None before the first checkpoint."""
        images = read_settings(self.folder / "provenance.json").get("data", {}).get("images")
        return derive(self.config, int(images)) if self.config and images else None

    @cached_property
    def records(self) -> list[ResultRecord]:
        """Of the training and of what came after."""
        return read_records(self.folder / RESULTS)

    def score(self, protocol: str, metric: str = "") -> ResultRecord | None:
        """The first record of these weights, the newest where there are several."""
        found = [
            record
            for record in self.records
            if record.step is None and record.trained == self.step and record.protocol == protocol
        ]
        latest = found[-1].when if found else ""
        return next(
            (r for r in found if r.when == latest and (not metric or r.metric == metric)), None
        )

    def on_the_way(self, metric: str) -> dict[int, float]:
        """Scores during the training, by step."""
        return {r.step: r.value for r in self.records if r.metric == metric and r.step is not None}

    @property
    def rate(self) -> float | None:
        """Images/s, the median of what the log tells."""
        rows = read_jsonl(self.folder / "metrics.jsonl")
        rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
        return statistics.median(rates) if rates else None


def reached(folder: Path) -> int:
    """Step of the newest checkpoint of a run; 0 for none."""
    return Run(folder).step


def total_steps(folder: Path) -> int:
    """Of a run at its full length; 0 where there is none yet."""
    derived = Run(folder).derived
    return derived.total_steps if derived else 0


def measured(folder: Path, step: int) -> set[str]:
    """Protocols of which there are records of the weights of this step."""
    return {r.protocol for r in Run(folder).records if r.step is None and r.trained == step}


def rows_of(out: Path, arms: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of each run."""
    return [_row(name, ARMS[name], Run(out / name)) for name in arms]


def _row(name: str, arm: Arm, run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name, "title": arm.title, "step": run.step}
    if run.config and run.derived:
        row["steps"], batch = run.derived.total_steps, run.config.train.batch
        row["images_seen"] = run.step * batch
        row["epochs"] = round(run.step / run.derived.steps_per_epoch, 2)
    if run.rate is not None:
        row["images_per_second"] = round(run.rate, 1)
    for key, (protocol, metric) in SCORES.items():
        record = run.score(protocol, metric)
        if record is not None:
            row[key], row[f"{key}_interval"] = round(record.value, 2), record.interval
    return row


SCORES = {
    "knn": ("knn", ""),
    "linear": ("linear", ""),
    "match_r0": ("match", "match_r0"),
    "match_r1": ("match", "match_r1"),
}
"""Of finished runs: name in the record, protocol and metric."""


def curve_of(out: Path, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Scores on the way, at the steps at which all of these runs were measured."""
    runs = {name: Run(out / name) for name in arms}
    found = {
        f"{metric}_{name}": run.on_the_way(metric)
        for metric in ON_THE_WAY
        for name, run in runs.items()
    }
    found = {key: scores for key, scores in found.items() if scores}
    common = set.intersection(*(set(scores) for scores in found.values())) if found else set()
    return [
        {"step": step, **{key: round(scores[step], 2) for key, scores in found.items()}}
        for step in sorted(common)
    ]


def write(out: Path, data: str, settings: Sequence[str], arms: Sequence[str]) -> None:
    """Write OUT/learned.json and OUT/learned.md: what is known by now of these runs."""
    rows, curve = rows_of(out, arms), curve_of(out, arms)
    record = {**about("gpu_learn"), "data": data, "settings": list(settings)}
    if torch.cuda.is_available():
        record["machine"] = f"{describe_device(torch.device('cuda'))}; {record['machine']}"
    write_json(out / "learned.json", {**record, "rows": rows, "curve": curve})
    words = shlex.join(settings) or "no settings beside those of the script"
    head = f"{data}; {words}; {record['machine']}; commit {record['commit']}, {record['when']}."
    title = f"# Trained alike: {'; '.join(ARMS[name].title for name in arms)}"
    parts = [title, head, *tables(rows, curve)]
    with replacing(out / "learned.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def tables(rows: Sequence[dict[str, Any]], curve: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the runs with their anchors, and the curves."""
    heads = ["", "images seen", "epochs", "k-NN, k = 20", "linear", "match r 0", "match r 1"]
    lines = [
        [
            row["title"],
            f"{row.get('images_seen', 0):,}",
            f"{row.get('epochs', 0):g}",
            *(_scored(row, key) for key in SCORES),
            f"{row['images_per_second']:,.0f}" if "images_per_second" in row else "-",
        ]
        for row in rows
    ]
    lines += [[title, "-", "200", knn, linear, "-", "-", "-"] for title, knn, linear in ELSEWHERE]
    found = [_grid([*heads, "images/s"], lines)]
    if curve:
        keys = list(curve[0])
        cells = [[f"{row[key]:g}" for key in keys] for row in curve]
        found += ["During the training, at equal images:"]
        found += [_grid([key.replace("_", " ") for key in keys], cells)]
    return found


def _scored(row: dict[str, Any], key: str) -> str:
    """A score with its interval."""
    if key not in row:
        return "-"
    span = row[f"{key}_interval"]
    return f"{row[key]:.1f}" + (f" ({span[0]:.1f} to {span[1]:.1f})" if span else "")


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" if cells else rule for cells in (heads, [], *lines))
