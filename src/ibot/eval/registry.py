"""The evaluations by name. The list costs nothing: who runs one imports its module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any


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
) -> Evaluation:
    context = f"ibot.eval.{context}"
    return Evaluation(summary, f"ibot.eval.{module}", settings, context, sized_by, pictures)


EVALUATIONS: dict[str, Evaluation] = {
    "knn": _ours("weighted k-nearest neighbours", "probes.knn", "KnnSettings"),
    "linear": _ours(
        "linear probe, 45 learning rates in one pass", "probes.linear", "LinearSettings"
    ),
    "logistic": _ours(
        "logistic regression on frozen features", "probes.logistic", "LogisticSettings"
    ),
    "cluster": _ours("unsupervised classification", "probes.cluster", "ClusterSettings"),
    "semi": _ours("the frozen protocols with few labels", "probes.semi", "SemiSettings"),
    "finetune": _ours(
        "fine-tuning of the whole network", "tune.finetune", "FinetuneSettings", pictures=True
    ),
    "transfer": _ours(
        "fine-tuning on smaller sets, as published",
        "tune.transfer",
        "FinetuneSettings",
        pictures=True,
    ),
    "part_linear": _ours(
        "linear probe on the most attended patches", "probes.part_linear", "PartLinearSettings"
    ),
    "backgrounds": _ours(
        "backgrounds challenge, ImageNet-9",
        "robustness.backgrounds",
        "BackgroundSettings",
        pictures=True,
    ),
    "calibration": _ours(
        "calibration of the classifier", "robustness.calibration", "CalibrationSettings"
    ),
    "natural_adversarial": _ours(
        "hard natural images, ImageNet-A",
        "robustness.natural_adversarial",
        "NaturalAdversarialSettings",
    ),
    "corruptions": _ours(
        "corrupted images, ImageNet-C",
        "robustness.corruptions",
        "CorruptionSettings",
        pictures=True,
    ),
    "occlusion": _ours("images with patches dropped", "robustness.occlusion", "OcclusionSettings"),
    "shuffle": _ours("images with blocks shuffled", "robustness.shuffle", "ShuffleSettings"),
    "dense_knn": _ours(
        "segmentation by the most similar labelled patches",
        "probes.dense_knn",
        "DenseKnnSettings",
        "segmented.SegmentedContext",
    ),
    "match": _ours(
        "patches found again in another view of their image",
        "probes.match",
        "MatchSettings",
        "context.ImagesContext",
    ),
    "segmentation": _ours(
        "a class for every pixel: linear head or UPerNet",
        "dense.segmentation.segmentation",
        "SegmentationSettings",
        "segmented.SegmentedContext",
    ),
    "detection": _ours(
        "boxes and masks of objects: Cascade Mask R-CNN",
        "dense.detection.detect",
        "DetectionSettings",
        "dense.detection.context.DetectionContext",
        sized_by="short",
    ),
    "video_segmentation": _ours(
        "objects of a video's first frame found again in the others, nothing trained",
        "dense.video.segment",
        "VideoSettings",
        "dense.video.context.VideosContext",
        sized_by="size",
    ),
    "retrieval": _ours(
        "image retrieval: mAP, precision, recall of rankings",
        "neighbours.retrieval",
        "RetrievalSettings",
        "neighbours.context.RetrievalContext",
    ),
    "copy_detection": _ours(
        "altered copies of images found among originals",
        "neighbours.copies",
        "CopySettings",
        "neighbours.context.CopyContext",
        pictures=True,
    ),
}
