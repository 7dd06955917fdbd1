"""Images with label maps at the input size of a network, their aspect kept as patches allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.decode import UnreadableImage
from ibot.data.workers import read_items
from ibot.errors import IbotError
from ibot.eval.features.views import MAX_ASPECT


@dataclass(frozen=True, slots=True)
class LabelledView:
    """One image as the network gets it, and its label map as it is stored."""

    position: int
    """Its number in the set."""
    view: Tensor
    """uint8 [3, h, w], whole patches."""
    labels: NDArray[np.int16]
    """[H, W], negative where pixels are left out."""


@dataclass(frozen=True, slots=True)
class LabelledViews:
    """Those of a batch."""

    read: list[LabelledView]
    bad: list[tuple[int, str]]
    """(position, reason) of those that cannot be read."""


def whole_patches(size: tuple[int, int], short: int, patch: int) -> tuple[int, int]:
    """Height and width in pixels of a view of an image of `size`, each a multiple of `patch`.

    The shorter side is the multiple nearest to `short`, the longer the one that keeps the aspect
    best. Raises UnreadableImage for a strip.
    """
    if max(size) > MAX_ASPECT * min(size):
        raise UnreadableImage(f"too thin: {size[1]} x {size[0]} pixels")
    cells = max(1, round(short / patch))
    height, width = (patch * max(1, round(cells * side / min(size))) for side in size)
    return height, width


def labelled_views(
    maps: LabelMaps,
    batches: Sequence[NDArray[np.int64]],
    short: int,
    patch: int,
    workers: int = 0,
) -> Iterator[LabelledViews]:
    """The images whose numbers stand in `batches`, resized bicubically; see `whole_patches`.

    Raises DataError for label maps that do not fit their images or hold unknown values.
    """
    # Views of common aspects; `read_items` wants to know whether shared memory will do.
    num_bytes = 2 * 3 * short**2 * max(map(len, batches), default=0)
    views = _Views(maps, batches, short, patch)
    yield from read_items(views, workers, num_bytes, batch_size=None)


def by_shape(views: Sequence[LabelledView]) -> Iterator[list[LabelledView]]:
    """Views of one size together, in the order in which the sizes come first."""
    found: dict[torch.Size, list[LabelledView]] = {}
    for one in views:
        found.setdefault(one.view.shape, []).append(one)
    yield from found.values()


class _Views(Dataset["LabelledViews | IbotError"]):
    def __init__(
        self, maps: LabelMaps, batches: Sequence[NDArray[np.int64]], short: int, patch: int
    ) -> None:
        self.maps, self.batches, self.short, self.patch = maps, batches, short, patch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> LabelledViews | IbotError:
        read, bad = [], []
        for index in self.batches[number].tolist():
            try:
                pixels, labels = self.maps.pair(index)
                height, width = whole_patches(labels.shape, self.short, self.patch)
            except UnreadableImage as error:
                bad.append((index, str(error)))
                continue
            except IbotError as error:  # told by the process that reads from this one
                return error
            view = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            tensor = torch.from_numpy(np.asarray(view).copy()).permute(2, 0, 1).contiguous()
            read.append(LabelledView(index, tensor, labels))
        return LabelledViews(read, bad)
