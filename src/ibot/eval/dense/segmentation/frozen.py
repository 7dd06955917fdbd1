"""The fast variant: linear heads on features of whole images that stay (8.10, on your own data).

Nothing is augmented, so that the network sees each image once and its features come from the cache.
Each cell of the feature map is trained on the shares of the classes among its pixels: the
cross-entropy of all pixels, where those of a cell have the same scores. Tested like the others at
the size of each image, scores resized bilinearly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.decode import UnreadableImage
from ibot.data.workers import read_items
from ibot.errors import DataError
from ibot.eval.dense.segmentation.plan import RateImages, typical_shape
from ibot.eval.dense.segmentation.predictions import write_about
from ibot.eval.dense.segmentation.schedule import Sample, StepImages, poly_rate, rate_groups
from ibot.eval.dense.segmentation.settings import SegmentationSettings
from ibot.eval.dense.segmentation.validation import (
    PREDICTIONS,
    SegmentationResult,
    compared,
    validated,
)
from ibot.eval.dense.segmentation.windows import likeliest
from ibot.eval.features.rows import FeatureSet, places_of
from ibot.eval.features.views import View, evenly
from ibot.eval.fit import Fit, Validation
from ibot.eval.segmented import SegmentedContext
from ibot.models.contract import Backbone
from ibot.rng import Purpose, torch_seed

STANDARDISED_BY = 2**28
"""Bytes of features of training images, evenly spaced, that give mean and deviation."""
KEPT_BYTES = 2**30
"""Of shares that are kept in memory; others are counted anew from the label maps."""


@dataclass(frozen=True, slots=True)
class CellFeature:
    """What a cell of the grid of patch tokens is described by: a feature of the cache."""

    blocks: tuple[int, ...] = ()
    """Blocks whose normed maps are joined, counted from 1; none: the raw pixels of the cell."""

    def __str__(self) -> str:
        return "cells-" + ("-".join(map(str, self.blocks)) if self.blocks else "pixels")


def cell_features(
    backbone: Backbone, images: Tensor, features: Sequence[CellFeature]
) -> Mapping[CellFeature, Tensor]:
    """Rows float32 [b, h * w * d] of normalised images [b, 3, H, W], cell by cell.

    The grid is that of the patch tokens; finer maps are averaged in its cells.
    """
    grid = backbone.token_grid(*images.shape[-2:])
    found = {}
    for feature in features:
        if feature.blocks:
            maps = backbone.maps_after(images, feature.blocks, norm=True)
            cells = torch.cat([F.adaptive_avg_pool2d(m.float(), grid) for m in maps], dim=1)
        else:
            patch = backbone.patch_size
            cells = F.unfold(images, patch, stride=patch).unflatten(2, grid)
        found[feature] = cells.flatten(2).transpose(1, 2).flatten(1)
    return found


def class_shares(
    labels: NDArray[np.int16], grid: tuple[int, int], num_classes: int
) -> NDArray[np.float32]:
    """Share of all pixels that lie in a cell and have a class: float32 [h * w, C].

    labels int16 [H, W]. A pixel belongs to the cell that covers its upper left corner; pixels that
    are left out belong to no class, so that the shares of an image sum to less than 1.
    """
    (height, width), (rows, columns) = labels.shape, grid
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    cell = row[:, None] * columns + column
    kept = labels >= 0
    place = cell[kept] * num_classes + labels[kept]
    counts = np.bincount(place, minlength=rows * columns * num_classes)
    return (counts / labels.size).astype(np.float32).reshape(rows * columns, num_classes)


def share_loss(logits: Tensor, shares: Tensor, images: int) -> Tensor:
    """Cross-entropy in nats per pixel, those that are left out included (8.10).

    logits and shares [cells of all images, C].
    """
    return -(shares * logits.float().log_softmax(dim=1)).sum() / images


class CellClassifiers(nn.Module):
    """Standardised features of cells [n, d] -> logits [n, C] of a head for each learning rate."""

    mean: Tensor
    scale: Tensor

    def __init__(self, cells: Tensor, num_classes: int, seed: int, rates: int = 1) -> None:
        """`cells` [m, d] say how far features lie apart; all heads start from the same weights."""
        super().__init__()
        self.register_buffer("mean", cells.mean(dim=0))
        self.register_buffer("scale", 1 / cells.std(dim=0).clamp(min=1e-6))
        first = nn.Linear(cells.shape[1], num_classes)
        generator = torch.Generator().manual_seed(torch_seed(seed, 0, 0, Purpose.INIT))
        with torch.no_grad():
            first.weight.normal_(std=0.01, generator=generator)
            first.bias.zero_()
        self.classify = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(rates - 1))])

    def forward(self, cells: Tensor) -> list[Tensor]:
        """[n, d] -> [n, C] of each head."""
        cells = (cells - self.mean) * self.scale
        return [classify(cells) for classify in self.classify]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the images of a set that could be read."""

    features: FeatureSet
    """Of the whole set: what is large stays on the disk."""
    rows: NDArray[np.int64]
    """int64 [n] of `features`."""

    @property
    def index(self) -> NDArray[np.int64]:
        """Numbers int64 [n] of the images in the set."""
        return self.features.index[self.rows]

    def cells(self, place: int, count: int) -> Tensor:
        """Features [count, d] of the cells of one of them."""
        return self.features.rows[self.rows[place]].view(count, -1)


class _Cells(Dataset["tuple[Tensor, Tensor] | DataError"]):
    """Features and class shares of training images by `Sample`."""

    def __init__(self, maps: LabelMaps, part: _Part, grid: tuple[int, int]) -> None:
        self.maps, self.part, self.grid = maps, part, grid
        self.kept: dict[int, Tensor] = {}
        share_bytes = 4 * math.prod(grid) * len(maps.classes)
        self.room = KEPT_BYTES // share_bytes

    def __len__(self) -> int:
        return len(self.part.rows)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor] | DataError:
        index = int(self.part.index[sample.index])
        try:
            shares = self.kept.get(index)
            if shares is None:
                labels = self.maps.label_map(index)
                counted = class_shares(labels, self.grid, len(self.maps.classes))
                shares = torch.from_numpy(counted)
                if len(self.kept) < self.room:
                    self.kept[index] = shares
        except UnreadableImage as error:
            return DataError(
                f"the label map '{self.maps.maps.path(index)}' cannot be read",
                why=str(error),
                fix="replace it, or remove it with its image",
            )
        except DataError as error:
            return error
        return self.part.cells(sample.index, len(shares)), shares


def _joined(items: Sequence[tuple[Tensor, Tensor] | DataError]) -> tuple[Tensor, ...] | DataError:
    pairs = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    return tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))


def train_on_cells(
    context: SegmentedContext, settings: SegmentationSettings, shared: RateImages, folder: Path
) -> tuple[SegmentationResult, View]:
    """Train and score linear heads on cached features; `settings` without `none`.

    Returns what came out, and how the images were seen: all at one size of the set's typical shape.
    Raises as `train_segmenter`, and as the cache.
    """
    assert settings.crop and settings.iterations and settings.batch
    backbone, device = context.loaded.backbone, context.device
    size = typical_shape(context.train, settings.crop, backbone.patch_size)
    view = View(size, "squash")
    context = replace(context, view=view)
    blocks = tuple(dict.fromkeys(backbone.pyramid_blocks))
    feature = CellFeature(blocks if settings.features == "network" else ())

    def extract(images: Tensor, features: Sequence[CellFeature]) -> Mapping[CellFeature, Tensor]:
        return cell_features(backbone, images, features)

    # Of the images alone: other label maps leave the features as they are.
    train = context.feature_sets(context.train.images, "train", [feature], extract)[feature]
    val = context.feature_sets(context.val.images, "val", [feature], extract)[feature]
    grid = backbone.token_grid(*size)
    fitted = _Part(train, places_of(train, shared.fit))
    whole = _Part(val, np.arange(len(val.index)))
    judge = _Part(train, places_of(train, shared.judge)) if len(shared.judge) else whole
    for part, of in ((fitted, "training"), (judge, "held-out")):
        if not len(part.rows):
            raise DataError(f"none of the {of} images can be read", fix="look at the files")
    count = max(1, STANDARDISED_BY // (4 * train.rows.shape[1]))
    cells = train.rows[torch.from_numpy(fitted.rows[evenly(len(fitted.rows), count)])]
    model = CellClassifiers(
        cells.reshape(len(cells) * math.prod(grid), -1),
        context.num_classes,
        context.seed,
        len(settings.lr),
    ).to(device)
    task = _Task(
        context=context,
        settings=settings,
        model=model,
        fitted=fitted,
        judge=judge,
        val=whole,
        grid=grid,
        folder=folder,
    )
    fit = Fit(
        model=model,
        optimizer=torch.optim.AdamW(
            rate_groups(model.classify, settings.lr, settings.weight_decay), lr=0.0
        ),
        lr=task.lr,
        batches=task.batches,
        loss=task.loss,
        validate=task.validate,
        best_by="miou",
        epochs=settings.validations,
        steps_per_epoch=settings.iterations // settings.validations,
        folder=folder,
        identity={"seed": context.seed, "feature": str(feature), "view": str(view)}
        | {"settings": asdict(settings), "classes": list(context.train.classes)},
        processes=context.processes,
        checkpoint_steps=settings.checkpoint_steps,
        seed=context.seed,
        progress=context.counter("steps"),
    )
    fit.run()
    bad = [("train", *line) for line in train.bad] + [("val", *line) for line in val.bad]
    return SegmentationResult.of(fit, settings.lr, bad), view


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What the fit asks."""

    context: SegmentedContext
    settings: SegmentationSettings
    model: CellClassifiers
    fitted: _Part
    judge: _Part
    """Where one of several rates is chosen."""
    val: _Part
    grid: tuple[int, int]
    folder: Path

    def lr(self, step: int) -> float:
        """Its share of the rate of each head."""
        settings = self.settings
        assert settings.iterations and settings.warmup is not None
        return poly_rate(step, 1.0, settings.iterations, settings.warmup)

    def batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        settings, processes = self.settings, self.context.processes
        assert settings.batch and settings.iterations
        cells = _Cells(self.context.train, self.fitted, self.grid)
        order = StepImages(
            len(cells), settings.batch, settings.iterations, self.context.seed, processes, step
        )
        # Read in this process: features are mapped, and what is counted is kept.
        return read_items(cells, 0, 0, batch_sampler=order, collate_fn=_joined)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor], step: int, part: int
    ) -> Tensor:
        cells, shares = (tensor.to(self.context.device) for tensor in batch)
        images = len(cells) // math.prod(self.grid)
        return torch.stack([share_loss(one, shares, images) for one in network(cells)]).sum()

    def validate(self) -> Validation:
        context, found = self.context, self.folder / PREDICTIONS
        val = context.val.taken(self.val.index)  # as the rows are numbered
        if context.processes.is_main:
            write_about(found, val)
        chosen_on = val if self.judge is self.val else context.train.taken(self.judge.index)
        rates = self.settings.lr
        return validated(
            rates,
            lambda: self._compared(chosen_on, self.judge, range(len(rates)), None)[1],
            lambda head: self._compared(val, self.val, (head,), found),
        )

    def _compared(
        self, maps: LabelMaps, part: _Part, heads: Sequence[int], folder: Path | None
    ) -> tuple[Tensor, Tensor]:
        context = self.context

        def find(place: int, pixels: NDArray[np.uint8]) -> Tensor:
            logits = self.model(part.cells(place, math.prod(self.grid)).to(context.device))
            maps = [logits[head].T.unflatten(1, self.grid) for head in heads]
            return torch.stack([likeliest(one, pixels.shape[:2]) for one in maps])

        return compared(
            maps,
            find,
            heads=len(heads),
            bad=set(),
            folder=folder,
            processes=context.processes,
            workers=context.workers,
            device=context.device,
        )
