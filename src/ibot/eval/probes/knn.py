"""Weighted k-nearest neighbours (paper section 4.1; spec_evaluation 8.1)."""

from __future__ import annotations

from ibot.config.override import show
from ibot.errors import ConfigError
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.probes.settings import KnnSettings
from ibot.types import ResultRecord


def run(context: LabelledContext, settings: KnnSettings) -> list[ResultRecord]:
    """One record per k; all are reported, none is chosen.

    Raises ConfigError for a k or temperature that is not positive.
    """
    if not settings.k or min(settings.k) < 1 or settings.temperature <= 0:
        raise ConfigError(
            f"k={show(settings.k)} and temperature={settings.temperature:g} must be positive",
            fix="for example k=10,20 temperature=0.07",
        )
    train = context.features(context.train, "train")[CLASS_TOKEN]
    val = context.features(context.val, "val")[CLASS_TOKEN]
    return scores(context, settings, train, val)


def scores(
    context: LabelledContext, settings: KnnSettings, train: LabelledFeatures, val: LabelledFeatures
) -> list[ResultRecord]:
    """The records of given features."""
    device = context.device
    # A GPU holds the bank; a CPU reads it where it lies, in the file of the cache.
    bank = train.rows.to(device) if device.type != "cpu" else train.rows
    found = knn_accuracy(
        bank,
        train.labels.to(device),
        val.rows.to(device),
        val.labels.to(device),
        ks=settings.k,
        temperature=settings.temperature,
        progress=context.counter("neighbours"),
    )
    notes = unreadable(train, val)
    if max(settings.k) > len(bank):
        notes.append(f"k is at most the {len(bank)} training images")
    common = {"temperature": settings.temperature, "feature": str(CLASS_TOKEN), "normalised": True}
    return [
        context.accuracy(
            "knn",
            score.hits.cpu(),
            val.labels,
            {"k": k, **common},
            num_train=len(bank),
            top5=score.top5,
            row=f"k = {k}",
            cached=train.cached and val.cached,
            notes=notes,
        )
        for k, score in found.items()
    ]
