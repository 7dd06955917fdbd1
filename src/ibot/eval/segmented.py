"""What evaluations of label maps get beside the network: images whose every pixel has a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ibot.data.annotated.label_coding import IGNORED
from ibot.data.annotated.label_maps import (
    LabelMaps,
    open_label_maps,
    recoded,
    with_counted_classes,
)
from ibot.data.decode import UnreadableImage
from ibot.errors import DataError
from ibot.eval.context import OpenedData, SplitContext
from ibot.eval.features.views import at_most
from ibot.eval.label_scores import LabelScores, miou_interval
from ibot.types import ResultRecord

if TYPE_CHECKING:
    from typing import Self

    from ibot.eval.request import Request

SHOWN_CLASSES = 15
"""Best and worst classes of a long list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedContext(SplitContext):
    """The network, its means, and images with label maps."""

    train: LabelMaps
    val: LabelMaps

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """Training and validation images of `request`, evenly thinned out where it says so."""
        train, val = open_label_maps(
            request.data,
            request.val_data,
            images=request.images,
            labels=request.labels,
            split=request.split,
            seed=request.seed,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
        )
        train, val = with_counted_classes(
            at_most(train, request.max_train, train.taken),
            at_most(val, request.max_val, val.taken),
        )
        return OpenedData({"train": train, "val": val}, [*train.notes, *val.notes])

    def with_coding(self, classes: str = "", ignore: Sequence[int] = ()) -> Self:
        """The same with the classes that a file names, and other values left out; empty: as is.

        Raises DataError for such a file, and where every pixel is left out.
        """
        train, val = recoded((self.train, self.val), classes, ignore)
        _require_counted(train, "training")
        _require_counted(val, "validation")
        return replace(self, train=train, val=val)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.train.classes)

    def about_view(self) -> dict[str, Any]:
        """Images keep their shape, so that no view says how they are seen."""
        return {"exif_orientation": self.exif_orientation}

    def about_data(self) -> dict[str, Any]:
        """Root, fingerprints and classes."""
        train, val = self.fingerprints().values()
        return {
            "root": str(self.val.root),
            "train": train,
            "val": val,
            "classes": self.num_classes,
            "left_out": list(self.val.coding.ignored),
            "summary": f"{self.num_classes} classes, {len(self.train)} + {len(self.val)} images",
        }

    def scores(
        self,
        protocol: str,
        of_images: Tensor,
        settings: dict[str, Any],
        *,
        row: str = "",
        notes: Sequence[str] = (),
        **more: Any,
    ) -> list[ResultRecord]:
        """Records of mIoU (with its interval), mAcc and aAcc in per cent, at the images' own size.

        Args:
            protocol: name of the evaluation.
            of_images: `areas` int64 [n, 3, C] of the validation images that could be read.
            settings: of the evaluation.
            row: before the names of the scores, where there are several of each.
            notes: what a reader should know.
            more: as of `record`.
        """
        found = LabelScores.of(of_images.sum(dim=0))
        by_class = found.by_class(self.val.classes)
        values = {"mIoU": found.miou, "mAcc": found.macc, "aAcc": found.aacc}
        return [
            self.record(
                protocol,
                f"{protocol}_{name.lower()}",
                value,
                {"compared": "at the size of each image", **settings},
                row=f"{row} {name}".strip(),
                interval=miou_interval(of_images, self.seed) if name == "mIoU" else None,
                num_val=len(of_images),
                notes=(*notes, class_note(by_class)),
                iou=by_class,
                **more,
            )
            for name, value in values.items()
        ]


def class_note(iou: Mapping[str, float | None]) -> str:
    """A sentence on the scores of the classes, of many only the best and the worst.

    Names stand apart from scores: without a file of classes they are numbers too.
    """
    known = sorted(((share, name) for name, share in iou.items() if share is not None))[::-1]
    shown = known if len(known) <= 2 * SHOWN_CLASSES else []
    shown = shown or [*known[:SHOWN_CLASSES], *known[-SHOWN_CLASSES:]]
    listed = ", ".join(f"{name}: {share:.1f}" for share, name in shown)
    absent = len(iou) - len(known)
    lacking = f"; {absent} classes are in no image" if absent else ""
    return f"IoU of {len(shown)} of {len(iou)} classes, best first: {listed}{lacking}"


def _require_counted(maps: LabelMaps, part: str) -> None:
    """Raise DataError where no pixel of any map has a class; mostly one map tells."""
    for index in range(len(maps)):
        try:
            if (maps.label_map(index) != IGNORED).any():
                return
        except UnreadableImage:
            continue
    raise DataError(
        f"every pixel of the {len(maps)} {part} label maps is left out",
        why=f"values left out: {', '.join(map(str, maps.coding.ignored))}, and those below "
        f"{maps.coding.first}",
        fix="say which values to leave out: ignore=VALUE",
    )
