"""Few labels: the frozen protocols on a part of the training images (table 12; 8.5)."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.subsets import LabelledSubset, listed_subset, stratified_subset
from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, rows_of
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.probes import knn, linear, logistic
from ibot.eval.probes.settings import KnnSettings, LinearSettings, LogisticSettings, SemiSettings
from ibot.eval.tune import finetune
from ibot.eval.tune.settings import FinetuneSettings, sane_settings, semi_supervised_settings
from ibot.types import ResultRecord

PROBES = ("knn", "linear", "logistic", "finetune")
FEW = (1, 5)
"""Further k: where a class has one or two images, a vote of ten can only be wrong."""


def run(context: LabelledContext, settings: SemiSettings) -> list[ResultRecord]:
    """The chosen protocols for each share or list; several draws give their mean and spread too.

    The images that keep their label are written beside the results, one name per line.
    Raises ConfigError for shares outside 0..1 or unknown probes, and as `listed_subset`.
    """
    if any(not 0 < share < 1 for share in settings.share) or settings.subsets < 1:
        shares = ",".join(map(str, settings.share))
        raise ConfigError(
            f"share={shares} and subsets={settings.subsets} do not give parts of the images",
            why="shares lie between 0 and 1, and there is at least one subset",
            fix="for example share=0.01,0.1 subsets=3",
        )
    if not settings.probes or not (settings.share or settings.lists):
        raise ConfigError(
            "probes, and share or lists, must name something",
            fix="for example probes=knn share=0.01",
        )
    if len({Path(file).stem for file in settings.lists}) < len(settings.lists):
        raise ConfigError(
            "two of the lists have the same name", fix="rename one: the name stands in the results"
        )
    if unknown := [probe for probe in settings.probes if probe not in PROBES]:
        raise ConfigError(
            f"probes={unknown[0]} is unknown", fix=f"choose among {', '.join(PROBES)}"
        )
    train = context.features(context.train, "train")[CLASS_TOKEN]
    val = context.features(context.val, "val")[CLASS_TOKEN]
    records = []
    for name, subsets in _subsets(context, settings).items():
        draws = []
        for seed, subset in subsets:
            few = replace(context, train=LabelledSubset(context.train, subset))
            found = _scores(few, settings, rows_of(train, subset), val)
            draws.append(
                [_of_subset(record, settings, name, seed, len(subset)) for record in found]
            )
        records += [record for draw in draws for record in draw]
        if len(draws) > 1:
            records += _means(context, draws)
    return records


def _subsets(
    context: LabelledContext, settings: SemiSettings
) -> dict[str, list[tuple[int, NDArray[np.int64]]]]:
    """Seed and training images of each draw, by the name of the share or the list."""
    if settings.lists:
        return {
            Path(file).stem: [(0, listed_subset(context.train, file))] for file in settings.lists
        }
    labels, found = np.asarray(context.train.labels), {}
    for share in settings.share:
        seeds = range(context.seed, context.seed + settings.subsets)
        draws = [(seed, stratified_subset(labels, share=share, seed=seed)) for seed in seeds]
        found[f"{100 * share:g}%"] = draws
        for seed, subset in draws if context.processes.is_main else []:
            names = "".join(f"{context.train.name(i)}\n" for i in subset.tolist())
            file = context.out / f"labels-{100 * share:g}percent-seed{seed}.txt"
            file.write_text(names, encoding="utf-8", errors="surrogateescape")
    return found


def _scores(
    context: LabelledContext, settings: SemiSettings, train: LabelledFeatures, val: LabelledFeatures
) -> list[ResultRecord]:
    """Records of the probes on one subset, which is the context's training set."""
    records = []
    if "knn" in settings.probes:
        records += knn.scores(context, KnnSettings(k=(*FEW, *KnnSettings().k)), train, val)
    if "linear" in settings.probes:
        records += linear.probe(context, LinearSettings(), keep_classifiers=False)
    if "logistic" in settings.probes:
        records.append(logistic.probe(context, LogisticSettings(), train, val))
    if "finetune" in settings.probes:
        records.append(finetune.tune(context, _end_to_end(context), "semi"))
    return records


def _end_to_end(context: LabelledContext) -> FinetuneSettings:
    """From the first layer of the head: as published, or with a length that fits the images."""
    if context.mode == "published":
        return semi_supervised_settings()
    architecture = finetune.nearest_architecture(context.loaded.backbone.embed_dim)
    return replace(sane_settings(architecture, len(context.train)), head_layers=1)


def _of_subset(
    record: ResultRecord, settings: SemiSettings, name: str, seed: int, count: int
) -> ResultRecord:
    """A record of another protocol as one of this."""
    return replace(
        record,
        protocol="semi",
        metric=f"semi_{record.metric}",
        settings={**record.settings, **plain(settings), "subset": name, "subset_seed": seed},
        row=f"{name} seed {seed}, {record.protocol}, {record.row}",
        notes=(f"{name}: {count} images keep their label", *record.notes),
        extra={
            **record.extra,
            "probe": [record.metric, record.settings.get("k"), record.settings.get("features")],
        },
    )


def _means(context: LabelledContext, draws: list[list[ResultRecord]]) -> list[ResultRecord]:
    """Mean, deviation and range over the draws of each probe that all of them have."""
    records = []
    for first in draws[0]:
        group = [
            record
            for draw in draws
            for record in draw
            if record.extra["probe"] == first.extra["probe"]
        ]
        if len(group) < len(draws):  # a k above the images of some draw
            continue
        values = [record.value for record in group]
        kind, k, features = first.extra["probe"]
        name = kind.removeprefix("semi_").removesuffix("_top1")
        name += f", k = {k}" if k else f", {features}" if features else ""
        records.append(
            context.record(
                "semi",
                f"{first.metric}_mean",
                statistics.mean(values),
                first.settings,
                num_train=first.num_train,
                row=f"{first.settings['subset']}, {name}, mean of {len(group)}",
                deviation=statistics.stdev(values),
                range=[min(values), max(values)],
            )
        )
    return records
