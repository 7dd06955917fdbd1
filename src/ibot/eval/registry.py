"""The evaluations by name. The list costs nothing: who runs one imports its module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from ibot.eval.request import BASELINES


@dataclass(frozen=True)
class Beside:
    """What a network is shown beside in an evaluation; see `ibot.eval.baselines`."""

    names: tuple[str, ...] = ()
    """Of the baselines, those that mean something there."""
    unasked: tuple[str, ...] = ()
    """Of these, those that cost little enough to be shown without being asked for."""
    own_pixels: bool = False
    """Whether the evaluation compares pixels itself: by its setting features=pixels."""

    @property
    def of_whole_images(self) -> bool:
        """Whether a baseline gives a row for each image, which the cache keeps."""
        return "colours" in self.names

    def chosen(self, wanted: str) -> tuple[str, ...]:
        """Those that `Request.baselines` names and that apply."""
        if wanted == "auto":
            return self.unasked
        return tuple(name for name in self.names if name in wanted.split(","))


IMAGES = Beside(BASELINES, unasked=BASELINES)
"""Whole images, frozen."""
IMAGES_FITTED = Beside(BASELINES, unasked=("random", "colours"))
"""The same; what is fitted to as many numbers as an image has pixels takes its time."""
IMAGES_TRAINED = Beside(BASELINES)
"""The same, with heads that take their time."""
SEARCHED = Beside(BASELINES, unasked=BASELINES, own_pixels=True)
PATCHES = Beside(("random", "pixels"), unasked=("random", "pixels"), own_pixels=True)
"""A histogram of the image says nothing of its parts."""
PATCHES_TRAINED = Beside(("random", "pixels"), own_pixels=True)
NETWORK = Beside(("random",), unasked=("random",))
"""What asks for the grid of patches of a network."""
NETWORK_TRAINED = Beside(("random",))
NOTHING = Beside()
"""Tests of a classifier: what another one would do is no answer."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: `run(context, settings)` of its module gives the records."""

    summary: str
    module: str
    settings_name: str
    """Class of its settings in `settings` beside the module."""
    context_name: str = "ibot.eval.labelled.LabelledContext"
    """Class of the context that opens what it needs."""
    sized_by: str = ""
    """The setting that says how large images are seen, where the size of the request does not."""
    pictures: bool = False
    """Whether it changes the colours of pictures: it takes no other channels."""
    beside: Beside = NOTHING
    lower: tuple[str, ...] = ()
    """How metrics begin, after the evaluation's name, that are the better the lower."""

    def context(self) -> Any:
        """The class of its context."""
        module, _, name = self.context_name.rpartition(".")
        return getattr(import_module(module), name)

    @cached_property
    def settings(self) -> Any:
        """Its settings as they stand, before `defaults` fits them."""
        beside = import_module(f"{self.module.rpartition('.')[0]}.settings")
        return getattr(beside, self.settings_name)()

    def defaults(self, context: Any) -> Any:
        """The settings for a network and its images: by `defaults` of the module, if it has one."""
        fit = getattr(import_module(self.module), "defaults", None)
        return self.settings if fit is None else fit(context)

    def load(self) -> Callable[[Any, Any], list[Any]]:
        """The function that runs it."""
        return import_module(self.module).run


def _ours(
    summary: str,
    module: str,
    settings: str,
    context: str = "labelled.LabelledContext",
    sized_by: str = "",
    pictures: bool = False,
    beside: Beside = NOTHING,
    lower: tuple[str, ...] = (),
) -> Evaluation:
    module, context = f"ibot.eval.{module}", f"ibot.eval.{context}"
    return Evaluation(summary, module, settings, context, sized_by, pictures, beside, lower)


EVALUATIONS: dict[str, Evaluation] = {
    "knn": _ours(
        "weighted k-nearest neighbours",
        "probes.knn",
        "KnnSettings",
        beside=IMAGES,
    ),
    "linear": _ours(
        "linear probe, 45 learning rates in one pass",
        "probes.linear",
        "LinearSettings",
        beside=IMAGES_TRAINED,
    ),
    "logistic": _ours(
        "logistic regression on frozen features",
        "probes.logistic",
        "LogisticSettings",
        beside=IMAGES_FITTED,
    ),
    "cluster": _ours(
        "unsupervised classification",
        "probes.cluster",
        "ClusterSettings",
        beside=IMAGES,
    ),
    "semi": _ours(
        "the frozen protocols with few labels",
        "probes.semi",
        "SemiSettings",
        beside=IMAGES_TRAINED,
    ),
    "finetune": _ours(
        "fine-tuning of the whole network",
        "tune.finetune",
        "FinetuneSettings",
        pictures=True,
        beside=NETWORK_TRAINED,
    ),
    "transfer": _ours(
        "fine-tuning on smaller sets, as published",
        "tune.transfer",
        "FinetuneSettings",
        pictures=True,
        beside=NETWORK_TRAINED,
    ),
    "part_linear": _ours(
        "linear probe on the most attended patches",
        "probes.part_linear",
        "PartLinearSettings",
        beside=NETWORK_TRAINED,
    ),
    "backgrounds": _ours(
        "backgrounds challenge, ImageNet-9",
        "robustness.backgrounds",
        "BackgroundSettings",
        pictures=True,
        lower=("gap",),
    ),
    "calibration": _ours(
        "calibration of the classifier",
        "robustness.calibration",
        "CalibrationSettings",
        lower=("rms",),
    ),
    "natural_adversarial": _ours(
        "hard natural images, ImageNet-A",
        "robustness.natural_adversarial",
        "NaturalAdversarialSettings",
        lower=("rms",),
    ),
    "corruptions": _ours(
        "corrupted images, ImageNet-C",
        "robustness.corruptions",
        "CorruptionSettings",
        pictures=True,
        lower=("",),
    ),
    "occlusion": _ours("images with patches dropped", "robustness.occlusion", "OcclusionSettings"),
    "shuffle": _ours("images with blocks shuffled", "robustness.shuffle", "ShuffleSettings"),
    "dense_knn": _ours(
        "segmentation by the most similar labelled patches",
        "probes.dense_knn",
        "DenseKnnSettings",
        "segmented.SegmentedContext",
        beside=PATCHES,
    ),
    "match": _ours(
        "patches found again in another view of their image",
        "probes.match",
        "MatchSettings",
        "context.ImagesContext",
        beside=PATCHES,
    ),
    "segmentation": _ours(
        "a class for every pixel: linear head or UPerNet",
        "dense.segmentation.segmentation",
        "SegmentationSettings",
        "segmented.SegmentedContext",
        beside=PATCHES_TRAINED,
    ),
    "detection": _ours(
        "boxes and masks of objects: Cascade Mask R-CNN",
        "dense.detection.detect",
        "DetectionSettings",
        "dense.detection.context.DetectionContext",
        sized_by="short",
        beside=NETWORK_TRAINED,
    ),
    "video_segmentation": _ours(
        "objects of a video's first frame found again in the others, nothing trained",
        "dense.video.segment",
        "VideoSettings",
        "dense.video.context.VideosContext",
        sized_by="size",
        beside=NETWORK,
    ),
    "retrieval": _ours(
        "image retrieval: mAP, precision, recall of rankings",
        "neighbours.retrieval",
        "RetrievalSettings",
        "neighbours.context.RetrievalContext",
        beside=SEARCHED,
    ),
    "copy_detection": _ours(
        "altered copies of images found among originals",
        "neighbours.copies",
        "CopySettings",
        "neighbours.context.CopyContext",
        pictures=True,
        beside=SEARCHED,
    ),
}


def lower_is_better(protocol: str, metric: str) -> bool:
    """Whether a metric counts errors or the like; false of what no evaluation here is known for."""
    known = EVALUATIONS.get(protocol)
    return known is not None and metric.removeprefix(f"{protocol}_").startswith(known.lower)
