"""The classifier that robustness is tested with, and a pass over a set (evaluation 9.7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.images import LabelledImages
from ibot.errors import DataError
from ibot.eval.features.rows import LabelledFeatures
from ibot.eval.features.score import Score, score_images
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier, load_classifier
from ibot.eval.probes.logistic import classifier_of
from ibot.eval.probes.logistic_fit import Rows, fit_logistic
from ibot.eval.request import Mode

PENALTY = 0.1
"""Of the head that is fitted here, over the number of training images: the middle one of 8.3."""
PUBLISHED_BATCH = 1024
"""Images that share one draw in the published runs of occlusion and shuffling."""


def classifier_for(context: LabelledContext) -> LinearClassifier:
    """The classifier that the weights hold, else one fitted on the training images.

    The latter is a logistic regression on class tokens of length 1 without intercept (8.3); nothing
    is chosen.

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


def _fitted(context: LabelledContext) -> LinearClassifier:
    train = context.features(context.train, "train")[CLASS_TOKEN]
    rows, labels = Rows(train.rows.to(context.device), unit=True), train.labels.to(context.device)
    weight = fit_logistic(rows, labels, context.num_classes, PENALTY / len(rows))
    about = {"penalty": f"{PENALTY:g}/n", "fitted_on": str(context.train.root)}
    return classifier_of(context, weight, **about)


def head_notes(context: LabelledContext, classifier: LinearClassifier) -> list[str]:
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


def as_stored(context: LabelledContext) -> LabelledContext:
    """The context with images of the view's size taken as they are, as 9.2 and 9.4 do."""
    return replace(context, view=replace(context.view, keep=True))


def published_view(context: LabelledContext) -> LabelledContext:
    """In published mode the context with bilinear resizing, as 9.3, 9.5 and 9.6 do (8.0)."""
    if context.mode == "clean":
        return context
    return replace(context, view=replace(context.view, interpolation="bilinear"))


def draw_number(index: NDArray[np.int64], mode: Mode) -> NDArray[np.int64]:
    """Numbers of random draws for the images `index` int64 [b]: int64 [b].

    One for each image. In published mode `PUBLISHED_BATCH` neighbours share one.
    """
    return index if mode == "clean" else index // PUBLISHED_BATCH


def score_labelled(
    context: LabelledContext, images: LabelledImages, score: Score, name: str
) -> LabelledFeatures:
    """As `score_images`, with the labels."""
    return LabelledFeatures.of(score_images(context, images, score, name), images)


def logits_of(
    context: LabelledContext, classifier: LinearClassifier, images: LabelledImages, name: str
) -> LabelledFeatures:
    """Logits [n, C] of the images of a set as they are."""
    return score_labelled(context, images, lambda views, _: classifier.logits(views), name)
