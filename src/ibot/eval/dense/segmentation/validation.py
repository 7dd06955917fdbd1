"""Found and true label maps of a set, compared at the size of each image (8.11).

Where several learning rates were tried, their heads are compared first, and the best is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from ibot.eval.fit import Fit, Validation
from ibot.eval.label_scores import LabelScores, areas, confusion
from ibot.system.distributed import sum_in_place
from ibot.system.processes import Processes

PREDICTIONS = "predictions"
"""Folder of the label maps that the last validation found."""
PAIR_BYTES = 8 * 2**20
"""Of an image and its label map, for the loader processes."""

Pair = tuple[int, NDArray[np.uint8], NDArray[np.int16]]
"""Number, pixels [H, W, 3] and classes [H, W] of an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationResult:
    """What a training leaves, beside the trained network."""

    scores: tuple[dict[str, float], ...]
    """Of each validation: `train_loss` in nats, a mean over the rates, and `miou`, `macc`, `aacc`
    in per cent of the chosen one, `lr`."""
    index: Tensor
    """int64 [n], the validation images that can be read."""
    areas: Tensor
    """int64 [n, 3, C] of the last validation, see `ibot.eval.label_scores`."""
    rate_mious: dict[float, float]
    """By learning rate, on the images on which one of several was chosen; empty: there was one."""
    bad: tuple[tuple[str, str, str], ...] = ()
    """(part of the data, name of the image, reason) of what could not be read."""

    @classmethod
    def of(
        cls, fit: Fit[Any], rates: Sequence[float], bad: Sequence[tuple[str, str, str]]
    ) -> SegmentationResult:
        """Of a training that ended and whose validations were `validated`."""
        last = fit.output(len(fit.scores) - 1)
        return cls(
            scores=tuple({**s, "train_loss": s["train_loss"] / len(rates)} for s in fit.scores),
            index=last["index"],
            areas=last["areas"],
            rate_mious=dict(zip(rates, last["rate_mious"], strict=False)),
            bad=tuple(bad),
        )


def validated(
    rates: Sequence[float],
    judge: Callable[[], Tensor],
    report: Callable[[int], tuple[Tensor, Tensor]],
) -> Validation:
    """Scores in per cent of the head with the highest mIoU, of equal ones the first.

    Args:
        rates: learning rates, of a head each.
        judge: areas int64 [n, heads, 3, C] of the images on which one is chosen; not called for a
            single one.
        report: number of a head -> `compared` for that one alone, of the images to report.

    Raises:
        DataError: no pixel counts where one is to be chosen.
    """
    mious, head = [], 0
    if len(rates) > 1:
        of_heads = judge().sum(dim=0)
        if not of_heads[0, 1].sum():
            raise DataError(
                "no pixel counts of the images on which the rate is chosen",
                why="all are left out",
                fix="a larger holdout, or one lr",
            )
        mious = [LabelScores.of(of_head).miou for of_head in of_heads]
        head = mious.index(max(mious))
    index, of_images = report(head)
    scores = LabelScores.of(of_images[:, 0].sum(dim=0))
    metrics: dict[str, float | None] = {"miou": scores.miou, "macc": scores.macc}
    metrics |= {"aacc": scores.aacc, "lr": rates[head]}
    return Validation(metrics, {"index": index, "areas": of_images[:, 0], "rate_mious": mious})


def compared(
    maps: LabelMaps,
    find: Callable[[int, NDArray[np.uint8]], Tensor],
    *,
    heads: int = 1,
    bad: set[tuple[str, int, str]],
    part: str = "val",
    folder: Path | None = None,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The areas of all images that can be read, the same in all processes.

    Args:
        maps: images with their true label maps.
        find: number and pixels uint8 [H, W, 3] of an image -> its classes int [heads, H, W].
        heads: that find something each.
        bad: (part, number, reason) of images that cannot be read are added.
        part: of the data that `maps` are, for `bad`.
        folder: for the maps that the first head found; None: they are not kept.
        processes: this process among those that share the images.
        workers: loader processes.
        device: of the sum over processes.
        progress: called with images done and in all, of this process.

    Returns:
        index int64 [n] of the images, and `areas` int64 [n, heads, 3, C] of each, on the CPU.

    Raises:
        DataError: none can be read, or a map does not belong to its image.
    """
    own = range(processes.rank, len(maps), processes.world_size)
    classes = len(maps.classes)
    # Last: 1 for an image that was read. The shares are disjoint, so that a sum joins them.
    table = torch.zeros(len(maps), heads * 3 * classes + 1, dtype=torch.int64, device=device)
    for done, item in enumerate(_pairs(maps, own, workers), 1):
        if isinstance(item[1], str):
            bad.add((part, item[0], item[1]))
        else:
            index, pixels, labels = item
            found = find(index, pixels).cpu()
            truth = torch.from_numpy(labels)
            counts = [areas(confusion(one, truth, classes)).flatten() for one in found]
            table[index] = torch.cat([*counts, torch.ones(1, dtype=torch.int64)])
            if folder is not None:
                write_prediction(folder, maps, index, found[0].numpy())
        if progress is not None:
            progress(done, len(own))
    table = sum_in_place(table).cpu()
    index = table[:, -1].nonzero()[:, 0]
    if not len(index):
        raise DataError(
            f"none of the {len(maps)} images to be judged on can be read", fix="look at the files"
        )
    return index, table[index, :-1].view(len(index), heads, 3, classes)


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
