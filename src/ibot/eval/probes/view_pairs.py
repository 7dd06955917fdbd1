"""Two random views of an image, and where in it they lie (spec_evaluation 10.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ibot.config.schema import AugmentConfig
from ibot.data.decode import UnreadableImage
from ibot.data.params import view_params
from ibot.data.pixels import STD, render
from ibot.data.sets.images import Images
from ibot.data.workers import read_items
from ibot.eval.features.views import no_views, planar, view_bytes
from ibot.eval.probes.match_places import Placed
from ibot.rng import Purpose

PURPOSES = Purpose.MATCH_BOX, Purpose.MATCH_COLOR


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Both views of some images."""

    positions: NDArray[np.int64]
    """int64 [b], the images read."""
    views: tuple[Tensor, Tensor]
    """uint8 [b, 3, h, w] each, or float32 [b, C, h, w] of other channels than colours."""
    placed: tuple[Placed, Placed]
    sizes: Tensor
    """int64 [b, 2], height and width of the images in pixels."""
    bad: list[tuple[int, str]]
    """(position, reason) of those that cannot be read."""


def pair_config(size: tuple[int, int]) -> AugmentConfig:
    """What the published views of 10.3 do: 40 to 100 % of the area, flip, colours, gray; no blur.

    size: height and width of the views in pixels.
    """
    return AugmentConfig(
        num_global=2,
        num_local=0,
        global_size=size,
        global_scale=(0.4, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=0.8,
        jitter_strength=(0.4, 0.4, 0.2, 0.1),
        gray=0.2,
        blur=(0.0, 0.0, 0.0),
        solarize=(0.0, 0.0, 0.0),
    )


def pair_batches(
    images: Images,
    size: tuple[int, int],
    batches: Sequence[NDArray[np.int64]],
    seed: int,
    workers: int = 0,
    std: Sequence[float] = STD,
) -> Iterator[PairBatch]:
    """Pairs of the images whose numbers stand in `batches`; functions of (seed, image) alone.

    std: deviation of each channel, see `ibot.data.pixels.render`.
    """
    num_bytes = 2 * view_bytes(images.channels, size) * max(map(len, batches), default=0)
    pairs = _Pairs(images, size, batches, seed, std)
    yield from read_items(pairs, workers, num_bytes, batch_size=None)


class _Pairs(Dataset[PairBatch]):
    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        batches: Sequence[NDArray[np.int64]],
        seed: int,
        std: Sequence[float],
    ) -> None:
        self.images, self.config = images, pair_config(size)
        self.batches, self.seed, self.std = batches, seed, std

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> PairBatch:
        read, pixels, bad = [], [], []
        for index in self.batches[number].tolist():
            try:
                pixels.append(self.images.read(index))
                read.append(index)
            except UnreadableImage as error:
                bad.append((index, str(error)))
        positions = np.array(read, np.int64)
        sizes = np.array([image.shape[:2] for image in pixels], np.int64).reshape(-1, 2)
        if not read:
            blank = no_views(self.images.channels, self.config.global_size)
            nowhere = Placed(torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))
            return PairBatch(
                positions, (blank, blank), (nowhere, nowhere), torch.from_numpy(sizes), bad
            )
        params = view_params(self.config, self.seed, 0, positions, sizes, PURPOSES)
        views, placed = [], []
        drawn = [
            render(image, params, row, self.config, self.std) for row, image in enumerate(pixels)
        ]
        for view in range(2):
            views.append(planar([both[view] for both in drawn]))
            where = params.box[:, view], params.flip[:, view]
            placed.append(Placed(*(torch.from_numpy(part.copy()) for part in where)))
        return PairBatch(
            positions,
            (views[0], views[1]),
            (placed[0], placed[1]),
            torch.from_numpy(sizes),
            bad,
        )
