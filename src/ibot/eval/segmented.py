"""What evaluations of label maps get beside the network: images whose every pixel has a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ibot.data.annotated.label_coding import IGNORED
from ibot.data.annotated.label_maps import (
    LabelMaps,
    open_label_maps,
    recoded,
    with_counted_classes,
)
from ibot.data.decode import UnreadableImage
from ibot.errors import DataError
from ibot.eval.context import Context, OpenedData
from ibot.eval.features.views import evenly

if TYPE_CHECKING:
    from typing import Self

    from ibot.eval.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedContext(Context):
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
            _at_most(train, request.max_train), _at_most(val, request.max_val)
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

    def fingerprints(self) -> dict[str, str]:
        """Those of both sets."""
        return {
            "the training images": self.train.fingerprint(),
            "the validation images": self.val.fingerprint(),
        }

    def num_images(self) -> tuple[int, int]:
        """Of both sets."""
        return len(self.train), len(self.val)

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


def _at_most(maps: LabelMaps, limit: int) -> LabelMaps:
    """At most `limit` images, evenly spaced; 0: all."""
    if not limit or limit >= len(maps):
        return maps
    return maps.taken(evenly(len(maps), limit))
