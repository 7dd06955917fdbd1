"""What retrieval and copy detection get beside the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ibot.data.annotated.copies import CopySet, open_copies
from ibot.data.annotated.ground_truth import RetrievalSet, open_retrieval
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.data.sets.subsets import SubsetImages
from ibot.data.sets.windows import seen_whole
from ibot.eval.context import Context, OpenedData
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.views import View, evenly
from ibot.eval.neighbours.descriptors import Descriptor

if TYPE_CHECKING:
    from ibot.eval.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedContext(Context):
    """For evaluations that compare one feature of each image."""

    asked_size: int = 0
    """Pixels that `--size` names; 0: it was not given."""

    def seen_as(self, view: View) -> Self:
        """The same with images seen otherwise."""
        return replace(self, view=view)

    def describe(self, images: Images, name: str, descriptor: Descriptor) -> FeatureSet:
        """Rows that a descriptor makes of a set, from the cache where they are there."""
        backbone = self.loaded.backbone
        return self.feature_sets(
            images,
            name,
            (descriptor,),
            lambda views, wanted: {one: one.compute(backbone, views) for one in wanted},
        )[descriptor]

    def further(self, data: str) -> Images:
        """Images of a further folder, read as all others are."""
        return open_images(
            data,
            exif_orientation=self.exif_orientation,
            max_pixels=self.max_pixels,
            channels=self.reading,
        )


def _whole(request: Request) -> list[str]:
    """What to say where windows are asked for or were trained on; none of whole images."""
    return [seen_whole(request.windows)] if request.windows.side else []


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalContext(DescribedContext):
    """Queries, what is searched, and what is right."""

    task: RetrievalSet
    asked: NDArray[np.int64]
    """int64 [q], the queries that are asked."""

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """The task that `request` names; of more than `max_val` queries as many, evenly spaced."""
        task = open_retrieval(
            request.data or request.images,
            request.val_data,
            images=request.images,
            labels=request.labels,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
            channels=request.reading,
        )
        count = len(task.queries)
        asked = evenly(count, request.max_val) if request.max_val else np.arange(count)
        told = [*task.database.notes, *task.queries.notes, *_whole(request)]
        return OpenedData({"task": task, "asked": asked, "asked_size": request.size}, told)

    def fingerprints(self) -> dict[str, str]:
        """Those of both sets and of the answers."""
        return {
            "the queries": SubsetImages(self.task.queries, self.asked).fingerprint(),
            "the database": self.task.database.fingerprint(),
            "the right answers": self.task.right.fingerprint(),
        }

    def num_images(self) -> tuple[int, int]:
        """What is searched, and queries."""
        return len(self.task.database), len(self.asked)

    def about_data(self) -> dict[str, Any]:
        """Root and fingerprints."""
        queries, database, right = self.fingerprints().values()
        searched, asked = self.num_images()
        return {
            "root": str(self.task.root),
            "queries": queries,
            "database": database,
            "right": right,
            "summary": f"{asked} queries, {searched} images searched",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyContext(DescribedContext):
    """Originals and copies; without copies they are made by the evaluation."""

    task: CopySet

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """The originals and copies that `request` names."""
        task = open_copies(
            request.data or request.images,
            labels=request.labels,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
        )
        told = [*task.originals.notes, *_whole(request)]
        return OpenedData({"task": task, "asked_size": request.size}, told)

    def fingerprints(self) -> dict[str, str]:
        """Those of the originals and of each block."""
        blocks = {f"the block {name}": b.fingerprint() for name, b in self.task.blocks.items()}
        return {"the originals": self.task.originals.fingerprint(), **blocks}

    def num_images(self) -> tuple[int, int]:
        """Originals and copies."""
        copies = sum(len(block.images) for block in self.task.blocks.values())
        return len(self.task.originals), copies

    def about_data(self) -> dict[str, Any]:
        """Root and fingerprints."""
        originals, copies = self.num_images()
        made = f"{copies} copies in {len(self.task.blocks)} blocks" if copies else "copies are made"
        return {
            "root": str(self.task.root),
            **self.fingerprints(),
            "summary": f"{originals} originals, {made}",
        }
