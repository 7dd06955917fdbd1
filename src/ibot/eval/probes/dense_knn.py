"""Segmentation with nothing trained: a patch takes the labels of the most similar labelled patches.

After Balazevic et al. 2023, "Towards In-Context Scene Understanding" (beyond the paper). Images are
seen at any size, their aspect kept; masks are compared at the size of the stored label maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.pixels import Statistics, normalize
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.dense.segmentation.predictions import write_about, write_prediction
from ibot.eval.features.rows import unread
from ibot.eval.features.views import in_batches
from ibot.eval.label_scores import areas, confusion
from ibot.eval.neighbours.nearest import nearest, unit_rows
from ibot.eval.probes.dense_vote import drawn, enlarged, label_shares, voted
from ibot.eval.probes.labelled_views import LabelledView, by_shape, labelled_views, whole_patches
from ibot.eval.probes.patch_tokens import Encode, PatchMap, encoder
from ibot.eval.probes.settings import DenseKnnSettings
from ibot.eval.segmented import SegmentedContext
from ibot.models.contract import Backbone
from ibot.system.distributed import gather
from ibot.system.processes import Processes
from ibot.types import ResultRecord

BATCH = 16
"""Images of a forward pass; the same composition whatever the number of processes."""

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseKnn:
    """How patches are made, remembered and compared."""

    encode: Encode
    short: int
    """Pixels of the shorter side of the views."""
    patch: int
    statistics: Statistics
    """With which views are normalised."""
    k: int
    temperature: float
    bank: int
    seed: int = 0
    batch: int = BATCH
    device: torch.device | str = "cpu"
    workers: int = 0
    processes: Processes = field(default_factory=Processes)

    @classmethod
    def of(
        cls, backbone: Backbone, short: int, settings: DenseKnnSettings, **more: Any
    ) -> DenseKnn:
        """For the patches of a network, seen at `short` pixels.

        Raises ConfigError for settings that are not positive.
        """
        if settings.k < 1 or settings.bank < 1 or settings.temperature <= 0:
            raise ConfigError(
                f"k={settings.k}, bank={settings.bank} and temperature={settings.temperature:g} "
                "must be positive",
                fix="for example k=30 bank=100000 temperature=0.02",
            )
        return cls(
            encode=encoder(backbone, settings.features),
            short=short,
            patch=backbone.patch_size,
            statistics=backbone.statistics,
            k=settings.k,
            temperature=settings.temperature,
            bank=settings.bank,
            **more,
        )

    def remember(self, maps: LabelMaps, progress: Progress = None) -> Bank:
        """Labelled patches of the images of a set, as many of each.

        Every process computes some of the images and gets all. Raises DataError where no image can
        be read or no pixel counts.
        """
        found: list[tuple[int, Tensor, Tensor]] = []
        bad: list[tuple[int, str]] = []
        each, num_classes = -(-self.bank // len(maps)), len(maps.classes)
        for views, encoded in self._encoded(maps, bad, progress):
            for one, rows in zip(views, encoded.rows, strict=True):
                shares, pixels = label_shares(one.labels, encoded.grid, num_classes)
                counted = np.flatnonzero(pixels.numpy())
                taken = torch.from_numpy(drawn(counted, each, self.seed, one.position))
                kept = unit_rows(rows[taken.to(rows.device)]).cpu(), shares[taken]
                found.append((one.position, *kept))
        found = sorted(chain(*gather(found)), key=lambda item: item[0])
        bad = sorted(chain(*gather(bad)))
        _require_read(maps, len(found), bad)
        rows = torch.cat([rows for _, rows, _ in found])
        shares = torch.cat([shares for *_, shares in found])
        if not len(rows):
            raise DataError(f"no pixel of the {len(found)} label maps counts: all are left out")
        names = [(maps.name(position), reason) for position, reason in bad]
        return Bank(rows.to(self.device), shares.to(self.device), len(found), names)

    def segment(
        self, bank: Bank, maps: LabelMaps, progress: Progress = None, folder: Path | None = None
    ) -> Segmented:
        """Compare what the bank says of the images of a set with their label maps.

        Shared by the processes as `remember`; `folder`: for the label maps that were found. Raises
        DataError where no image can be read or no pixel counts.
        """
        counts: list[tuple[int, Tensor, tuple[int, int]]] = []
        bad: list[tuple[int, str]] = []
        for views, encoded in self._encoded(maps, bad, progress):
            rows = unit_rows(encoded.rows.flatten(0, 1))
            shares = voted(*nearest(bank.rows, rows, self.k), bank.shares, self.temperature)
            for one, of_image in zip(views, shares.chunk(len(views)), strict=True):
                height, width = one.labels.shape
                classes = enlarged(of_image, encoded.grid, (height, width)).cpu()
                own = confusion(classes, torch.from_numpy(one.labels), len(maps.classes))
                counts.append((one.position, areas(own), (height, width)))
                if folder is not None:
                    write_prediction(folder, maps, one.position, classes.numpy())
        counts = sorted(chain(*gather(counts)), key=lambda item: item[0])
        bad = sorted(chain(*gather(bad)))
        _require_read(maps, len(counts), bad)
        of_images = torch.stack([own for _, own, _ in counts])
        if not of_images[:, 1].sum():
            raise DataError(
                f"no pixel of the {len(counts)} label maps in '{maps.root}' counts",
                why="all are left out",
                fix="look at the values to leave out (ignore=VALUE)",
            )
        return Segmented(
            areas=of_images,
            sizes=[size for *_, size in counts],
            bad=[(maps.name(position), reason) for position, reason in bad],
        )

    def _encoded(
        self, maps: LabelMaps, bad: list[tuple[int, str]], progress: Progress
    ) -> Iterator[tuple[Sequence[LabelledView], PatchMap]]:
        """This process's share of a set, views of one size together, with rows of their patches.

        Notes in `bad` what cannot be read.
        """
        whole = in_batches(np.arange(len(maps)), self.batch)
        mine = whole[self.processes.rank :: self.processes.world_size]
        done, total = 0, sum(map(len, mine))
        for batch in labelled_views(maps, mine, self.short, self.patch, self.workers):
            for views in by_shape(batch.read):
                stacked = torch.stack([one.view for one in views]).to(self.device)
                with torch.inference_mode():
                    encoded = self.encode(normalize(stacked, self.statistics))
                yield views, encoded
            bad.extend(batch.bad)
            done += len(batch.read) + len(batch.bad)
            if progress is not None:
                progress(done, total)


class Bank(NamedTuple):
    """Labelled patches."""

    rows: Tensor
    """float32 [n, D] of length 1."""
    shares: Tensor
    """float32 [n, C], share of each class among their pixels."""
    images: int
    """Of which they are."""
    bad: list[tuple[str, str]]
    """(name, reason) of images that could not be read."""


class Segmented(NamedTuple):
    """What came out for the images of a set, in their order."""

    areas: Tensor
    """int64 [n, 3, C], see `ibot.eval.label_scores.areas`."""
    sizes: list[tuple[int, int]]
    """Height and width of the label maps."""
    bad: list[tuple[str, str]]

    def usual_size(self) -> tuple[int, int]:
        """Of a label map in the middle of all."""
        return sorted(self.sizes)[len(self.sizes) // 2]

    def compared_at(self) -> str:
        """At which size masks were compared, in words."""
        height, width = self.usual_size()
        return f"{'own sizes, as ' if len(set(self.sizes)) > 1 else ''}{height} x {width}"


def run(context: SegmentedContext, settings: DenseKnnSettings) -> list[ResultRecord]:
    """Three records: mean intersection over union, and accuracy by class and of all pixels.

    Raises ConfigError for settings that are not positive, DataError for label maps that do not fit,
    WeightsError for outputs that are not finite.
    """
    context = context.with_coding(settings.classes, settings.ignore)
    method = DenseKnn.of(
        context.loaded.backbone,
        min(context.view.size),
        settings,
        seed=context.seed,
        batch=min(BATCH, context.batch),
        device=context.device,
        workers=context.workers,
        processes=context.processes,
    )
    bank = method.remember(context.train, context.counter("bank"))
    folder = context.out / f"dense_knn-{context.identity('dense_knn', plain(settings))}" / "found"
    if context.processes.is_main:
        write_about(folder, context.val)
    found = method.segment(bank, context.val, context.counter("segmented"), folder)
    notes = unread([*bank.bad, *found.bad])
    if settings.k > len(bank.rows):
        notes.append(f"k is at most the {len(bank.rows)} patches of the bank")
    short = min(context.view.size)
    size = whole_patches(found.usual_size(), short, context.loaded.backbone.patch_size)
    seen = {"size": list(size), "short_side": short, "fit": "aspect", "interpolation": "bicubic"}
    return context.scores(
        "dense_knn",
        found.areas,
        {**seen, **plain(settings)},
        num_train=bank.images,
        notes=notes,
        patches=len(bank.rows),
        compared_at=found.compared_at(),
        predictions=str(folder),
    )


def _require_read(maps: LabelMaps, read: int, bad: Sequence[tuple[int, str]]) -> None:
    if not read:
        why = bad[0][1] if bad else ""
        raise DataError(f"none of the {len(maps)} images under '{maps.root}' can be read", why=why)
