"""The classifier that the robustness protocols test, and one pass over the images of a set
(spec_evaluation 9.7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.images import LabelledImages
from ibot.errors import DataError
from ibot.eval.context import Context
from ibot.eval.features.cache import FeatureSet
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import in_batches, view_batches
from ibot.eval.linear_classifier import LinearClassifier, load_classifier
from ibot.eval.probes.logistic import unit_rows
from ibot.eval.probes.logistic_fit import fit_logistic
from ibot.system.distributed import gather

PENALTY = 0.1
"""Of the head that is fitted here, divided by the number of training images: the middle one of
8.3."""
PUBLISHED_BATCH = 1024
"""Images that share one draw in the published runs of occlusion and shuffling."""

Score = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""Normalised images [b, 3, h, w] on the device and their numbers int64 [b] -> rows [b, ...]."""


def classifier_for(context: Context) -> LinearClassifier:
    """The classifier that the weights hold, else one fitted on the class tokens of the training
    images.

    The latter is a logistic regression on features of length 1 without intercept (8.3); nothing is
    chosen.

    Raises:
        DataError: the stored classifier has other classes than the images.
    """
    stored = load_classifier(context.weights)
    if stored is None:
        return _fitted(context)
    if stored.classes != context.train.classes:
        only = sorted(set(stored.classes) ^ set(context.train.classes))
        raise DataError(
            f"the classifier '{context.weights}' has other classes than '{context.train.root}'",
            why=f"{len(stored.classes)} and {len(context.train.classes)} classes; "
            + (f"only one of both has '{only[0]}'" if only else "their order differs"),
            fix="give the images on which it was trained with --data",
        )
    return stored.to(context.device)


def _fitted(context: Context) -> LinearClassifier:
    train = context.features(context.train, "train")[CLASS_TOKEN]
    features, labels = unit_rows(context, train), train.labels.to(context.device)
    weight = fit_logistic(features, labels, context.num_classes, PENALTY / len(features)).float()
    config = replace(context.loaded.config, pos_size=context.loaded.built_for)
    about = {
        "protocol": "logistic",
        "penalty": f"{PENALTY:g}/n",
        "fitted_on": str(context.train.root),
    }
    return LinearClassifier(
        context.loaded.backbone,
        config,
        weight,
        weight.new_zeros(len(weight)),
        CLASS_TOKEN,
        True,
        context.view,
        context.train.classes,
        about,
    )


def head_notes(context: Context, classifier: LinearClassifier) -> list[str]:
    """What a user must know of the classifier to read its scores."""
    if "fitted_on" in classifier.about:
        return [
            f"tested is a logistic regression on the class tokens of the training images (penalty "
            f"{classifier.about['penalty']}); to test another classifier, give the file that "
            "linear or finetune wrote"
        ]
    if classifier.view != context.view:
        return [f"the classifier was scored on other views when it was trained: {classifier.view}"]
    return []


def head_settings(classifier: LinearClassifier) -> dict[str, Any]:
    """The classifier as part of a record's settings."""
    return {"feature": str(classifier.feature), "classifier": classifier.about}


def as_stored(context: Context) -> Context:
    """The context with images of the view's size taken as they are, as 9.2 and 9.4 do."""
    return replace(context, view=replace(context.view, keep=True))


def published_view(context: Context) -> Context:
    """In published mode the context with bilinear resizing, which protocols 9.3, 9.5 and 9.6 use
    (8.0).
    """
    if context.mode == "clean":
        return context
    return replace(context, view=replace(context.view, interpolation="bilinear"))


def draw_number(context: Context, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of random draws for the images `index` int64 [b]: int64 [b].

    One for each image. In published mode `PUBLISHED_BATCH` neighbours share one, whatever the size
    of our batches.
    """
    return index if context.mode == "clean" else index // PUBLISHED_BATCH


def score_images(context: Context, images: LabelledImages, score: Score, name: str) -> FeatureSet:
    """Rows that `score` makes of the images of a set, in the order of the set, on the CPU.

    Batches are the same whatever the number of processes; each process computes some of them and
    gets all rows.

    Args:
        context: its view, batch, workers and processes are used.
        images: the set.
        score: called without gradients, once for each batch.
        name: of the progress counter.

    Returns:
        Rows [n, ...] of the n readable images, not cached.

    Raises:
        DataError: none of the images can be read.
    """
    whole = in_batches(np.arange(len(images)), context.batch)
    mine = whole[context.processes.rank :: context.processes.world_size]
    counter, total, done = context.counter(name), sum(map(len, mine)), 0
    rows: list[Tensor] = []
    read: list[NDArray[np.int64]] = []
    bad: list[tuple[int, str]] = []
    with torch.inference_mode():
        for part, asked in zip(
            view_batches(images, context.view, mine, context.workers), mine, strict=True
        ):
            if len(part.positions):
                rows.append(
                    score(
                        normalize(
                            part.views.to(context.device), context.loaded.backbone.statistics
                        ),
                        part.positions,
                    ).cpu()
                )
                read.append(part.positions)
            bad.extend(part.bad)
            done += len(asked)
            if counter is not None:
                counter(done, total)
    rows, read, bad = (
        list(chain(*gather(rows))),
        list(chain(*gather(read))),
        list(chain(*gather(bad))),
    )
    if not rows:
        raise DataError(
            f"none of the {len(images)} images under '{images.root}' can be read", why=bad[0][1]
        )
    index = np.concatenate(read)
    order = np.argsort(index)
    return FeatureSet(
        rows=torch.cat(rows)[torch.from_numpy(order)],
        labels=torch.from_numpy(images.labels[index[order]].astype(np.int64)),
        index=index[order],
        bad=[(images.name(position), reason) for position, reason in sorted(bad)],
        cached=False,
    )


def logits_of(
    context: Context, classifier: LinearClassifier, images: LabelledImages, name: str
) -> FeatureSet:
    """Logits [n, C] of the images of a set as they are."""
    return score_images(context, images, lambda views, _: classifier.logits(views), name)
