"""What every evaluation gets, and the record that it leaves."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ibot.config.schema import MAX_PIXELS
from ibot.data.decode import Orientation
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.variants import Labelled, read_as
from ibot.eval.features.cache import FeatureSet, cached_features
from ibot.eval.features.tokens import CLASS_TOKEN, Feature
from ibot.eval.features.views import View
from ibot.eval.scores import balanced_accuracy, bootstrap_mean, topk_hits
from ibot.system.processes import Processes
from ibot.system.versions import software
from ibot.types import ResultRecord
from ibot.weights.read import Loaded

Mode = Literal["clean", "published"]
Counter = Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True)
class Context:
    """The network, the images and the means of one evaluation."""

    loaded: Loaded
    """The backbone is in evaluation mode on `device`."""
    weights: str
    """Where it was read from."""
    key: str
    weights_hash: str
    train: LabelledImages
    val: LabelledImages
    view: View
    device: torch.device
    cache: Path
    out: Path
    """Folder for what an evaluation leaves: states to resume from, classifiers, pictures."""
    mode: Mode = "clean"
    seed: int = 0
    batch: int = 256
    """Images per forward pass where features are extracted."""
    workers: int = 0
    processes: Processes = field(default_factory=Processes)
    counter: Callable[[str], Counter] = lambda name: None
    """Makes a progress counter for a named part of the work."""
    data: str = ""
    """What the user named as data, a set's name included."""
    exif_orientation: Orientation = "apply"
    max_pixels: int = MAX_PIXELS
    """How all images are read, those of further folders included."""
    began: float = field(default_factory=time.perf_counter)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.train.classes)

    def read_alike(self, images: Labelled) -> Labelled:
        """Images of a further folder, read as all others are."""
        return read_as(images, self.exif_orientation, self.max_pixels)

    def features(
        self, images: LabelledImages, name: str, features: Sequence[Feature] = (CLASS_TOKEN,)
    ) -> dict[Feature, FeatureSet]:
        """Features of a set by name ("train", "val"), from the cache where they are there."""
        return cached_features(
            self.loaded.backbone,
            self.weights_hash,
            images,
            self.view,
            features,
            self.cache,
            batch=self.batch,
            device=self.device,
            workers=self.workers,
            processes=self.processes,
            progress=self.counter(name),
        )

    def record(
        self,
        protocol: str,
        metric: str,
        value: float,
        settings: dict[str, Any],
        *,
        interval: tuple[float, float] | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        **extra: Any,
    ) -> ResultRecord:
        """A record with everything that this context knows."""
        num_train = len(self.train) if num_train is None else num_train
        num_val = len(self.val) if num_val is None else num_val
        seconds = time.perf_counter() - self.began
        view = {
            "size": list(self.view.size),
            "fit": self.view.fit,
            "interpolation": self.view.interpolation,
            "exif_orientation": self.exif_orientation,
        }
        largest_class = float(100 * np.bincount(self.val.labels).max() / len(self.val))
        made = software()
        return ResultRecord(
            protocol,
            metric,
            value,
            {**view, **settings},
            num_train,
            num_val,
            self.weights,
            seconds,
            extra,
            interval,
            self.mode,
            self.weights_hash,
            self.key,
            str(self.loaded.config),
            {
                "root": str(self.val.root),
                "train": self.train.fingerprint(),
                "val": self.val.fingerprint(),
                "classes": self.num_classes,
                "largest_class": largest_class,
            },
            (num_train + num_val) / max(seconds, 1e-9),
            self.seed,
            {**made["packages"], **{name: made[name] for name in ("ibot", "commit", "python")}},
            time.strftime("%Y-%m-%dT%H:%M:%S"),
        )

    def identity(self, protocol: str, settings: dict[str, Any]) -> str:
        """Names what a protocol leaves on disk: other settings, weights, images, views or seeds
        give another one.
        """
        about = [
            protocol,
            settings,
            self.weights_hash,
            self.train.fingerprint(),
            self.val.fingerprint(),
            self.mode,
            self.seed,
            str(self.view),
            self.batch,
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]

    def accuracy(
        self,
        protocol: str,
        hits: Tensor,
        labels: Tensor,
        settings: dict[str, Any],
        num_train: int | None = None,
        **extra: Any,
    ) -> ResultRecord:
        """A record of top-1 accuracy in per cent from `hits` bool [n], with its interval and the
        balanced accuracy.
        """
        right = 100 * hits.double()
        return self.record(
            protocol,
            f"{protocol}_top1",
            right.mean().item(),
            settings,
            interval=bootstrap_mean(right, self.seed),
            num_train=num_train,
            num_val=len(hits),
            balanced=balanced_accuracy(hits, labels),
            **extra,
        )

    def top(
        self, protocol: str, logits: Tensor, labels: Tensor, settings: dict[str, Any], **extra: Any
    ) -> ResultRecord:
        """A record of the accuracy of `logits` [n, C], with top-5 where there are five classes."""
        top5 = None
        if logits.shape[1] >= 5:
            top5 = 100 * topk_hits(logits, labels, 5).double().mean().item()
        return self.accuracy(
            protocol, topk_hits(logits, labels, 1), labels, settings, top5=top5, **extra
        )


def unreadable(*sets: FeatureSet) -> list[str]:
    """A note that names what could not be read, or none."""
    return unread([line for part in sets for line in part.bad])


def unread(bad: Sequence[tuple[str, str]]) -> list[str]:
    """The same of names with reasons."""
    if not bad:
        return []
    count = (
        "1 image cannot be read"
        if len(bad) == 1
        else f"{len(bad)} images cannot be read, the first"
    )
    return [f"{count}: {bad[0][0]}: {bad[0][1]}"]


def plain(settings: object) -> dict[str, Any]:
    """The fields of a settings dataclass as what JSON holds."""
    return {f.name: getattr(settings, f.name) for f in fields(settings)}  # pyright: ignore[reportArgumentType]
