"""What every evaluation gets - a network and the means to use it - and the record that it leaves.

A context knows no labels: evaluations of plain images take `ImagesContext`, those of labelled ones
`ibot.eval.labelled.LabelledContext`. A family whose images come with something else (boxes, label
maps) adds its own beside its evaluations and names it in their lines of the registry.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

import ibot
from ibot.config.reading import MAX_PIXELS, PICTURES, Channels
from ibot.data.annotated.pictures import pictures_of
from ibot.data.decode import Orientation
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.data.sets.trimmed import trimmed
from ibot.eval.features.cache import Extract, K, cached_features
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.together import Network, features_together
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import View
from ibot.eval.request import Mode, Request
from ibot.system.processes import Processes
from ibot.system.progress import Counter, no_counter
from ibot.system.versions import software
from ibot.types import ResultRecord
from ibot.weights.read import Loaded


@dataclass(frozen=True, slots=True)
class OpenedData:
    """What a kind of context holds beside the network and the means."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Of the context, by name."""
    told: list[str] = field(default_factory=list)
    """What a user should know of the data, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The network and the means of one evaluation."""

    loaded: Loaded
    """The backbone is in evaluation mode on `device`."""
    weights: str
    """Where it was read from."""
    key: str = "teacher"
    baseline: str = ""
    """What stands in the place of the network (`ibot.eval.baselines`); empty: nothing does."""
    weights_hash: str
    companions: tuple[Network, ...] = ()
    """Others whose features are made wherever those of this one are, in the same pass."""
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
    counter: Callable[[str], Counter] = no_counter
    """Makes a progress counter for a named part of the work."""
    exif_orientation: Orientation = "apply"
    max_pixels: int = MAX_PIXELS
    """How all images are read, those of further folders included."""
    reading: Channels = PICTURES
    """Which channels of them."""
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """What `request` names as data."""
        return OpenedData()

    def fingerprints(self) -> dict[str, str]:
        """What identifies the images, by a name for each part."""
        return {}

    def num_images(self) -> tuple[int, int]:
        """Images to train and to validate on."""
        return 0, 0

    def about_data(self) -> dict[str, Any]:
        """What a record says of the images; `summary`: in a few words, for people."""
        return {}

    def about_view(self) -> dict[str, Any]:
        """What a record says of how images were seen."""
        return {
            "size": list(self.view.size),
            "fit": self.view.fit,
            "interpolation": self.view.interpolation,
            "exif_orientation": self.exif_orientation,
        }

    def feature_sets(
        self,
        images: Images,
        name: str,
        features: Sequence[K] = (CLASS_TOKEN,),
        extract: Extract[K] | None = None,
    ) -> dict[K, FeatureSet]:
        """Features of a set, from the cache where they are there.

        `name` stands beside the progress; `extract` makes other features than class tokens and
        means, as for `cached_features`.
        """
        how: dict[str, Any] = {
            "batch": self.batch,
            "device": self.device,
            "workers": self.workers,
            "processes": self.processes,
            "progress": self.counter(name),
        }
        own = self.loaded.backbone, self.weights_hash
        if self.companions and extract is None:
            networks = [own, *self.companions]
            return features_together(networks, images, self.view, features, self.cache, **how)  # pyright: ignore
        return cached_features(
            *own, images, self.view, features, self.cache, extract=extract, **how
        )

    def record(
        self,
        protocol: str,
        metric: str,
        value: float,
        settings: dict[str, Any],
        *,
        row: str = "",
        interval: tuple[float, float] | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        chosen: str = "",
        notes: Sequence[str] = (),
        **extra: Any,
    ) -> ResultRecord:
        """A record with everything that this context knows; see the fields of `ResultRecord`."""
        known_train, known_val = self.num_images()
        num_train = known_train if num_train is None else num_train
        num_val = known_val if num_val is None else num_val
        seconds = time.perf_counter() - self.began
        made = software()
        return ResultRecord(
            protocol=protocol,
            metric=metric,
            value=value,
            settings={**self.about_view(), **settings},
            row=row,
            num_train=num_train,
            num_val=num_val,
            interval=interval,
            chosen=chosen,
            notes=tuple(notes),
            extra=extra,
            mode=self.mode,
            weights=self.weights,
            key=self.key,
            baseline=self.baseline,
            weights_hash=self.weights_hash,
            trained=self.loaded.step,
            architecture=str(self.loaded.config),
            data=self.about_data(),
            seed=self.seed,
            seconds=seconds,
            images_per_second=(num_train + num_val) / max(seconds, 1e-9),
            versions={**made["packages"], **{k: made[k] for k in ("ibot", "commit", "python")}},
            when=time.strftime("%Y-%m-%dT%H:%M:%S"),
        )

    def identity(self, protocol: str, settings: dict[str, Any]) -> str:
        """Names what an evaluation leaves on disk.

        Other settings, weights, images, views or seeds give another name.
        """
        about = [
            protocol,
            settings,
            self.weights_hash,
            *self.fingerprints().values(),
            self.mode,
            self.seed,
            str(self.view),
            self.batch,
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]

    def mark(self, protocol: str, settings: object) -> str:
        """Hash of an evaluation: with the same one it would give what it gave."""
        about = {
            "settings": repr(settings),
            "exif_orientation": self.exif_orientation,
            "max_pixels": self.max_pixels,
            "ibot": ibot.__version__,
        }
        return self.identity(protocol, about)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesContext(Context):
    """For evaluations of images without labels."""

    images: Images

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """The images that `request` names, of a set with parts those to train on."""
        images = open_images(
            pictures_of(request.data or request.images),
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
            channels=request.reading,
            windows=request.windows,
        )
        images = trimmed(images, request.trim_border)
        return OpenedData({"images": images}, list(images.notes))

    def fingerprints(self) -> dict[str, str]:
        """That of the images."""
        return {"the images": self.images.fingerprint()}

    def num_images(self) -> tuple[int, int]:
        """All count as validation images."""
        return 0, len(self.images)

    def about_data(self) -> dict[str, Any]:
        """Root and fingerprint."""
        return {"root": str(self.images.root), "images": self.images.fingerprint()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitContext(Context):
    """For evaluations that learn from some images and are judged on others.

    What is annotated in them is for its kinds to say.
    """

    train: Images
    val: Images

    def fingerprints(self) -> dict[str, str]:
        """Those of both sets."""
        return {
            "the training images": self.train.fingerprint(),
            "the validation images": self.val.fingerprint(),
        }

    def num_images(self) -> tuple[int, int]:
        """Of both sets."""
        return len(self.train), len(self.val)


def plain(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as what JSON holds."""
    return {f.name: getattr(settings, f.name) for f in fields(settings)}
