"""Found and true label maps of a set, compared at the size of each image (8.11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.decode import UnreadableImage
from ibot.data.workers import read_items
from ibot.errors import DataError
from ibot.eval.dense.segmentation.predictions import write_prediction
from ibot.eval.label_scores import areas, confusion
from ibot.system.distributed import sum_in_place
from ibot.system.processes import Processes

PAIR_BYTES = 8 * 2**20
"""Of an image and its label map, for the loader processes."""

Pair = tuple[int, NDArray[np.uint8], NDArray[np.int16]]
"""Number, pixels [H, W, 3] and classes [H, W] of an image."""


def compared(
    maps: LabelMaps,
    find: Callable[[int, NDArray[np.uint8]], Tensor],
    *,
    bad: set[tuple[str, int, str]],
    folder: Path | None = None,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The areas of all images that can be read, the same in all processes.

    Args:
        maps: images with their true label maps.
        find: number and pixels uint8 [H, W, 3] of an image -> its classes int [H, W].
        bad: ("val", number, reason) of images that cannot be read are added.
        folder: for the maps that were found; None: they are not kept.
        processes: this process among those that share the images.
        workers: loader processes.
        device: of the sum over processes.
        progress: called with images done and in all, of this process.

    Returns:
        index int64 [n] of the images, and `areas` int64 [n, 3, C] of each, on the CPU.

    Raises:
        DataError: none can be read, or a map does not belong to its image.
    """
    own = range(processes.rank, len(maps), processes.world_size)
    classes = len(maps.classes)
    # Last: 1 for an image that was read. The shares are disjoint, so that a sum joins them.
    table = torch.zeros(len(maps), 3 * classes + 1, dtype=torch.int64, device=device)
    for done, item in enumerate(_pairs(maps, own, workers), 1):
        if isinstance(item[1], str):
            bad.add(("val", item[0], item[1]))
        else:
            index, pixels, labels = item
            found = find(index, pixels).cpu()
            counts = areas(confusion(found, torch.from_numpy(labels), classes))
            table[index] = torch.cat([counts.flatten(), torch.ones(1, dtype=torch.int64)])
            if folder is not None:
                write_prediction(folder, maps, index, found.numpy())
        if progress is not None:
            progress(done, len(own))
    table = sum_in_place(table).cpu()
    index = table[:, -1].nonzero()[:, 0]
    if not len(index):
        raise DataError(
            f"none of the {len(maps)} validation images can be read", fix="look at the files"
        )
    return index, table[index, :-1].view(len(index), 3, classes)


def _pairs(maps: LabelMaps, indices: range, workers: int) -> Iterator[Any]:
    pairs = _Pairs(maps, indices)
    return read_items(pairs, workers, PAIR_BYTES, batch_size=None, collate_fn=_as_it_is)


class _Pairs(Dataset["Pair | tuple[int, str] | DataError"]):
    """Images with their maps, or the reason why one cannot be read."""

    def __init__(self, maps: LabelMaps, indices: range) -> None:
        self.maps, self.indices = maps, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Pair | tuple[int, str] | DataError:
        index = self.indices[position]
        try:
            return index, *self.maps.pair(index)
        except UnreadableImage as error:
            return index, str(error)
        except DataError as error:
            return error


def _as_it_is(item: Any) -> Any:
    return item
