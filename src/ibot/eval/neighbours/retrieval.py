"""Image retrieval: mAP, precision and recall of rankings (paper table 16; spec_evaluation 8.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.config.override import show
from ibot.data.annotated.boxed import BoxedImages
from ibot.data.sets.subsets import SubsetImages
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import FeatureSet, unreadable
from ibot.eval.features.views import View, evenly
from ibot.eval.neighbours.context import RetrievalContext
from ibot.eval.neighbours.descriptors import PIXELS, Descriptor, MultiScale, Pixels
from ibot.eval.neighbours.kept_answers import ANSWERS, Answered, Mark, Picture, keep_answers
from ibot.eval.neighbours.ranking import (
    average_precision,
    precision_at,
    rankings,
    recall_at,
    without_junk,
)
from ibot.eval.neighbours.searched import Searched
from ibot.eval.neighbours.settings import RetrievalSettings
from ibot.eval.scores import bootstrap_mean
from ibot.system.distributed import gather
from ibot.system.records import data_name
from ibot.types import ResultRecord


def defaults(context: RetrievalContext) -> RetrievalSettings:
    """With the size that `--size` names."""
    settings = RetrievalSettings()
    return replace(settings, size=context.asked_size or settings.size)


def run(context: RetrievalContext, settings: RetrievalSettings) -> list[ResultRecord]:
    """For each level mAP, then precision and recall for each k; nothing is chosen.

    Raises:
        ConfigError: settings out of range, or a crop where queries have no boxes.
        DataError: no query has a right answer, or images cannot be read; see `open_images`.
    """
    _check(context, settings)
    view = View((settings.size, settings.size), fit="within", interpolation="lanczos")
    descriptor: Descriptor = MultiScale(settings.scales)
    if settings.features == "pixels":
        view, descriptor = PIXELS, Pixels()
    context = context.seen_as(view)
    searched = Searched.of(context, context.task.database, settings.distractors, descriptor)
    queries, asked = _queries(context, settings, descriptor, searched)
    judged = _judge(context, settings, queries, asked, searched)
    notes = [*unreadable(*searched.features, queries), *_skipped(context, judged)]
    shown = _keep(context, settings, judged, searched)
    common = {k: v for k, v in plain(settings).items() if k not in ("size", "shown")}
    cached = queries.cached and searched.cached
    end = " (pixels)" if settings.features == "pixels" else ""
    found = []
    for level in context.task.right.levels:
        scores = {one.query: one.scores[level] for one in judged if level in one.scores}
        for name, column in _columns(settings.k) if scores else ():
            values = torch.tensor([row[column] for row in scores.values()], dtype=torch.float64)
            found.append(
                context.record(
                    "retrieval",
                    f"retrieval_{name.partition('@')[0].lower()}",
                    100 * values.mean().item(),
                    {**common, "feature": str(descriptor)},
                    row=(name if level == "class" else f"{level} {name}") + end,
                    interval=bootstrap_mean(100 * values, context.seed),
                    num_train=len(searched),
                    num_val=len(values),
                    notes=notes,
                    cached=cached,
                    shown=shown,
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class Judged:
    """A query with its scores and first answers."""

    query: int
    """Its number in the task."""
    scores: dict[str, list[float]]
    """Of each level that has a right answer: AP, then precision and recall for each k."""
    first: NDArray[np.int64]
    """int64 [ANSWERS], rows of what was searched."""
    right: NDArray[np.int64]
    """int64 [m], rows that are right at the level that is shown."""
    junk: NDArray[np.int64]


def _check(context: RetrievalContext, settings: RetrievalSettings) -> None:
    if not settings.k or min(settings.k) < 1 or settings.size < 1 or settings.shown < 0:
        raise ConfigError(
            f"k={show(settings.k)}, size={settings.size} and shown={settings.shown} cannot be",
            fix="for example k=1,5,10 size=512 shown=12",
        )
    if not settings.scales or not all(0 < scale <= 4 for scale in settings.scales):
        raise ConfigError(
            f"scales={show(settings.scales)} cannot be",
            why="they are factors above 0, at most 4",
            fix="for example scales=1,0.7071,0.5",
        )
    if settings.crop and context.task.boxes is None:
        raise ConfigError(
            "crop=true, but the queries have no boxes",
            why="'bbx' is missing in the ground truth, or there is none",
            fix="leave out crop",
        )


def _queries(
    context: RetrievalContext,
    settings: RetrievalSettings,
    descriptor: Descriptor,
    searched: Searched,
) -> tuple[FeatureSet, NDArray[np.int64]]:
    """Features of the queries that can be read, and their numbers in the task."""
    task = context.task
    if task.own is not None:
        row = searched.rows_of_database()[task.own[context.asked]]
        found = replace(searched.database.take(row[row >= 0]), bad=[])
        return found, context.asked[row >= 0]
    images = task.queries
    if settings.crop and task.boxes is not None:
        images = BoxedImages(images, task.boxes)
    if len(context.asked) < len(images):
        images = SubsetImages(images, context.asked)
    found = context.describe(images, "queries", descriptor)
    return found, context.asked[found.index]


def _judge(
    context: RetrievalContext,
    settings: RetrievalSettings,
    queries: FeatureSet,
    asked: NDArray[np.int64],
    searched: Searched,
) -> list[Judged]:
    """Every query ranked and scored, in their order. Raises DataError where none can be."""
    right, rows = context.task.right, searched.rows_of_database()
    shown = _shown_level(context)
    mine: list[Judged] = []
    order = rankings(
        queries.rows,
        searched.bank,
        device=context.device,
        processes=context.processes,
        progress=context.counter("ranking"),
    )
    for i, ranking in order:
        rank = np.empty_like(ranking)
        rank[ranking] = np.arange(len(ranking))
        scores, marked = {}, {}
        for level in right.levels:
            good, junk = (
                found[found >= 0] for found in (rows[part] for part in right.of(level, asked[i]))
            )
            marked[level] = good, junk
            if len(good):
                ranks = without_junk(rank[good], rank[junk])
                scores[level] = [
                    average_precision(ranks, len(good)),
                    *(precision_at(ranks, k) for k in settings.k),
                    *(recall_at(ranks, k) for k in settings.k),
                ]
        mine.append(Judged(int(asked[i]), scores, ranking[: ANSWERS + 1].copy(), *marked[shown]))
    judged = sorted((one for part in gather(mine) for one in part), key=lambda one: one.query)
    if not any(one.scores for one in judged):
        raise DataError(
            "no query has a right answer",
            why=f"{len(judged)} queries, none with another image of its kind",
            fix="give classes of at least two images, or queries with answers in the database",
        )
    return judged


def _columns(ks: Sequence[int]) -> list[tuple[str, int]]:
    """Names of the numbers in a row of `Judged.scores`, and their places."""
    names = ["mAP", *(f"mP@{k}" for k in ks), *(f"recall@{k}" for k in ks)]
    return [(name, column) for column, name in enumerate(names)]


def _skipped(context: RetrievalContext, judged: Sequence[Judged]) -> list[str]:
    """Notes on queries without a right answer."""
    notes = []
    for level in context.task.right.levels:
        if count := sum(level not in one.scores for one in judged):
            where = "" if level == "class" else f" at the level {level}"
            notes.append(
                f"{count} of {len(judged)} queries have no right answer{where} and are not scored"
            )
    return notes


def _keep(
    context: RetrievalContext,
    settings: RetrievalSettings,
    judged: Sequence[Judged],
    searched: Searched,
) -> str:
    """Keep the first answers of some queries; returns where, below the folder of the results."""
    if not settings.shown:
        return ""
    made = context.identity("retrieval", plain(settings))
    name = f"retrieval-{made}/{Path(data_name(context.task.root)).stem}_{settings.features}"
    if not context.processes.is_main:
        return name
    rows = []
    for number in evenly(len(judged), settings.shown):
        one = judged[number]
        own = () if context.task.own is None else one.junk
        answers = [
            Picture(*searched.image_of(row), _mark(row, one))
            for row in one.first.tolist()
            if row not in own
        ]
        scores = one.scores.get(_shown_level(context))
        query = Picture(context.task.queries, one.query)
        rows.append(Answered(query, answers[:ANSWERS], scores[0] if scores else None))
    title = f"{context.weights}, {settings.features}"
    keep_answers(context.out / name, title, rows)
    return name


def _shown_level(context: RetrievalContext) -> str:
    """The level that pictures mark: medium, where there are several."""
    levels = context.task.right.levels
    return "medium" if "medium" in levels else levels[0]


def _mark(row: int, judged: Judged) -> Mark:
    return "right" if row in judged.right else "junk" if row in judged.junk else "wrong"
