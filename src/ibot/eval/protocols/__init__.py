"""The evaluations by name. Their modules are imported by those who run them: the list itself costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ibot.config import evaluation as settings
from ibot.eval.finetune_settings import FinetuneSettings


@dataclass(frozen=True, slots=True)
class Protocol:
    """One evaluation: `run(context, settings)` of its module gives the records."""

    summary: str
    settings: Any
    """Its settings; where they depend on network and images (`fitted`), those of the paper's smallest network."""
    module: str
    fitted: bool = False

    def defaults(self, context: Any) -> Any:
        """The settings for a network and its images."""
        return import_module(f"{__name__}.{self.module}").defaults(context) if self.fitted else self.settings

    def load(self) -> Callable[[Any, Any], list[Any]]:
        """The function that runs it."""
        return import_module(f"{__name__}.{self.module}").run


PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol("weighted k-nearest neighbours", settings.KnnSettings(), "knn"),
    "linear": Protocol("linear probe, 45 learning rates in one pass", settings.LinearSettings(), "linear"),
    "logistic": Protocol("logistic regression on frozen features", settings.LogisticSettings(), "logistic"),
    "cluster": Protocol("unsupervised classification", settings.ClusterSettings(), "cluster"),
    "semi": Protocol("the frozen protocols with few labels", settings.SemiSettings(), "semi"),
    "finetune": Protocol("fine-tuning of the whole network", FinetuneSettings(), "finetune", fitted=True),
    "transfer": Protocol("fine-tuning on smaller sets, as published", FinetuneSettings(), "transfer", fitted=True),
    "part_linear": Protocol("linear probe on the most attended patches", settings.PartLinearSettings(), "part_linear"),
    "backgrounds": Protocol("backgrounds challenge, ImageNet-9", settings.BackgroundSettings(), "backgrounds"),
    "calibration": Protocol("calibration of the classifier", settings.CalibrationSettings(), "calibration"),
    "natural_adversarial": Protocol(
        "hard natural images, ImageNet-A", settings.NaturalAdversarialSettings(), "natural_adversarial"
    ),
    "corruptions": Protocol("corrupted images, ImageNet-C", settings.CorruptionSettings(), "corruptions"),
    "occlusion": Protocol("images with patches dropped", settings.OcclusionSettings(), "occlusion"),
    "shuffle": Protocol("images with blocks shuffled", settings.ShuffleSettings(), "shuffle"),
}
