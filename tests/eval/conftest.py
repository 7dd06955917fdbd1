"""A world for robustness: tinted scenes of ten classes, a ViT of two blocks, not trained."""

import colorsys
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.data.scenes import write_folder
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.open import open_labelled
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import View
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.models.backbone import build_backbone
from ibot.weights.read import KeyReport, Loaded

SIZE = (32, 32)
VIT = ModelConfig(width=24, depth=2, heads=3, patch=8, pos_size=SIZE)
SWIN = ModelConfig(
    kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), window=4, patch=4, pos_size=SIZE
)


@pytest.fixture
def one_thread():
    """The threads of the other processes: sums of several are in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Scenes with the class in their colour: a head on random weights is right now and then."""
    folder = tmp_path_factory.mktemp("scenes")
    write_folder(folder, train=100, val=60, size=32)
    classes = sorted(path.name for path in (folder / "train").iterdir())
    for file in folder.glob("*/*/*.png"):
        tint = colorsys.hsv_to_rgb(classes.index(file.parent.name) / len(classes), 0.5, 1.0)
        Image.fromarray((np.asarray(Image.open(file)) * tint).astype(np.uint8)).save(file)
    return folder


@dataclass
class Lab:
    """What the tests of several protocols share."""

    context: LabelledContext
    folder: Path

    def with_network(self, **changes):
        """The context with another network: fields of the ViT's configuration, or kind="swin"."""
        config = SWIN if changes.get("kind") == "swin" else replace(VIT, **changes)
        torch.manual_seed(0)
        backbone = build_backbone(config, SIZE).eval()
        with torch.no_grad():  # fresh weights attend almost evenly; these do not
            for value in backbone.parameters():
                value.mul_(3 if value.ndim > 1 else 1)
        network = Loaded(backbone, config, SIZE, KeyReport())
        return replace(self.context, loaded=network, weights_hash=weights_hash(network))

    def with_classes(self, names):
        """The context with data of these classes (two black images)."""
        pixels, labels = np.zeros((2, *SIZE, 3), np.uint8), np.array([0, 1], np.int32)
        images = ArrayImages(self.folder, "train", pixels, labels, tuple(names))
        return replace(self.context, train=images, val=images)

    def store(self, context, classes=None, weight=None, bias=None):
        """The context with weights that hold a classifier, random unless given."""
        classes = classes or context.train.classes
        torch.manual_seed(1)
        weight = (
            torch.randn(len(classes), context.loaded.backbone.embed_dim)
            if weight is None
            else weight
        )
        bias = torch.zeros(len(classes)) if bias is None else bias
        made = LinearClassifier(
            backbone=context.loaded.backbone,
            config=context.loaded.config,
            weight=weight,
            bias=bias,
            feature=CLASS_TOKEN,
            unit=False,
            view=context.view,
            classes=classes,
            about={},
        )
        made.save(self.folder / "classifier.safetensors")
        return replace(context, weights=str(self.folder / "classifier.safetensors"))

    def store_constant(self, context, *best):
        """As `store`: class best[0] has the largest score whatever the image, then best[1], ..."""
        bias = torch.zeros(len(context.train.classes))
        bias[list(best)] = torch.arange(len(best), 0, -1.0)
        return self.store(context, weight=torch.zeros(len(bias), VIT.width), bias=bias)

    @staticmethod
    def write_noise(folder, count=2, seed=0, classes=9):
        """Class folders 000_x, 001_x, ... of noise; up to the tenth each has its own brightness."""
        random = np.random.default_rng(seed)
        for label in range(classes):
            (folder / f"{label:03d}_x").mkdir(parents=True)
            for i in range(count):
                pixels = (random.integers(0, 100, (*SIZE, 3)) + 15 * min(label, 9)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{label:03d}_x" / f"{i}.png")

    @staticmethod
    def views(images):
        """All images of a set, normalised [n, 3, h, w]."""
        pixels = np.stack([images.read(i) for i in range(len(images))])
        return normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    @staticmethod
    @torch.no_grad()
    def accuracy(classifier, views, images):
        """Per cent."""
        return (
            100
            * (classifier.logits(views).argmax(1) == torch.from_numpy(images.labels))
            .double()
            .mean()
            .item()
        )

    @staticmethod
    def by_metric(records):
        return {record.metric: record for record in records}

    @staticmethod
    @contextmanager
    def refused(kind, pattern):
        """An error for users whose first part is one line that `pattern` describes."""
        with pytest.raises(kind) as caught:
            yield caught
        assert re.search(pattern, caught.value.what) and "\n" not in caught.value.what


@pytest.fixture
def lab(scenes, tmp_path):
    train, val = open_labelled(str(scenes))
    empty = LabelledContext(
        loaded=None,
        weights="random.safetensors",
        weights_hash="",
        train=train,
        val=val,
        view=View(SIZE),
        device=torch.device("cpu"),
        cache=tmp_path / "cache",
        out=tmp_path,
        batch=16,
    )
    made = Lab(empty, tmp_path)
    made.context = made.with_network()
    return made


@pytest.fixture
def context(lab):
    """No classifier in the weights: one is fitted."""
    return lab.context
