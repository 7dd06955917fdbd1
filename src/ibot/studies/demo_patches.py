"""What the patches of the demo know: fish cut out and named by their nearest labelled patches.

On further, larger shoals, whose true species are known at every pixel. Nothing is trained: a patch
takes what the most similar patches of labelled images are (as `ibot eval dense_knn`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.reef import SPECIES, Shoal, draw_shoal
from ibot.eval.features.spectrum import whiten
from ibot.eval.features.tokens import evaluating
from ibot.eval.neighbours.nearest import nearest, unit_rows
from ibot.eval.probes.dense_vote import enlarged, label_shares, voted
from ibot.models.contract import Backbone
from ibot.studies.comparison import WHITENED_DIMS

SIDE = 96
"""Pixels: 12 x 12 patches of 8, whose fish are as large as in the images of the training."""
BANK, QUERIES = 120, 60
FIRST = 1_000_000
"""Number of the first of these images in their set, above all of the training."""
NEIGHBOURS, TEMPERATURE = 20, 0.07

Encode = Callable[[Sequence[Shoal]], Tensor]
"""Rows of the patches of images, float32 [n, N, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchScores:
    """In per cent; whitened: the best of `WHITENED_DIMS`, of each number for itself."""

    fish_iou: float
    """Of what was cut out with the true fish, pixels of all images together."""
    species: float
    """Pixels of fish of which the species is right."""
    fish_iou_whitened: float
    species_whitened: float

    def line(self, name: str) -> str:
        """A line of the table."""
        return f"{name:16}" + "".join(f"{value:10.1f}" for value in asdict(self).values())


@dataclass(frozen=True, slots=True)
class Found:
    """What nearest patches say of one image."""

    fish: NDArray[np.bool_]
    """[S, S]."""
    species: NDArray[np.int64]
    """[S, S], as in `Shoal.labels`, also where no fish was found."""

    def named(self) -> str:
        """The species of most of the fish that were found."""
        seen = self.species[self.fish]
        return SPECIES[np.bincount(seen).argmax() - 1] if len(seen) else "nothing"


def patch_images(seed: int) -> tuple[list[Shoal], list[Shoal]]:
    """Images to learn from and to be judged on."""
    every = [draw_shoal(seed, FIRST + i, size=SIDE) for i in range(BANK + QUERIES)]
    return every[:BANK], every[BANK:]


def tokens_of(backbone: Backbone) -> Encode:
    """Patch tokens of the last block."""

    def encode(shoals: Sequence[Shoal]) -> Tensor:
        parts = []
        with evaluating(backbone), torch.inference_mode():
            for start in range(0, len(shoals), 32):
                some = shoals[start : start + 32]
                tokens = backbone(as_input(some, backbone.statistics))
                parts.append(tokens.patches.float())
        return torch.cat(parts).clone()

    return encode


def pixels_of(patch: int) -> Encode:
    """The pixels of patches of `patch` x `patch`, each standardised over the images."""

    def encode(shoals: Sequence[Shoal]) -> Tensor:
        images = as_input(shoals, ((0.0,) * 3, (1.0,) * 3))
        rows = torch.nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)
        return (rows - rows.mean((0, 1))) / rows.std((0, 1)).clamp(min=1e-6)

    return encode


def as_input(
    shoals: Sequence[Shoal], statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> Tensor:
    """Normalised images, float32 [n, 3, S, S]."""
    images = np.stack([shoal.image for shoal in shoals])
    return normalize(torch.from_numpy(images).permute(0, 3, 1, 2), statistics)


def find(encode: Encode, bank: Sequence[Shoal], shoals: Sequence[Shoal]) -> list[Found]:
    """Cut out and name the fish of `shoals` by the labelled patches of `bank`."""
    rows, queries = encode(bank), encode(shoals)
    return _found(rows.flatten(0, 1), queries.flatten(0, 1), bank, len(shoals))


def patch_scores(
    encode: Encode, bank: Sequence[Shoal], shoals: Sequence[Shoal]
) -> tuple[PatchScores, list[Found]]:
    """How right that is, and what was found by the features as they are."""
    rows, queries = encode(bank).flatten(0, 1), encode(shoals).flatten(0, 1)
    found = _found(rows, queries, bank, len(shoals))
    iou, species = agreement(found, shoals)
    white = [
        agreement(_found(*whiten(rows, queries, dims), bank, len(shoals)), shoals)
        for dims in WHITENED_DIMS
        if dims <= rows.shape[1]
    ]
    best = [max(values) for values in zip(*white, strict=True)]
    scores = PatchScores(
        fish_iou=iou, species=species, fish_iou_whitened=best[0], species_whitened=best[1]
    )
    return scores, found


def agreement(found: Sequence[Found], shoals: Sequence[Shoal]) -> tuple[float, float]:
    """IoU of the fish, and pixels of fish whose species is right, in per cent."""
    fish = np.stack([one.fish for one in found])
    species = np.stack([one.species for one in found])
    true = np.stack([shoal.labels for shoal in shoals])
    there = true > 0
    iou = (fish & there).sum() / max(1, (fish | there).sum())
    right = (species == true)[there].mean() if there.any() else 0.0
    return 100 * float(iou), 100 * float(right)


def _found(rows: Tensor, queries: Tensor, bank: Sequence[Shoal], images: int) -> list[Found]:
    """By patches [m, D] of the bank and [images * N, D]."""
    side = round((len(queries) / images) ** 0.5)
    grid = side, side
    known = [label_shares(shoal.labels, grid, 1 + len(SPECIES))[0] for shoal in bank]
    near = nearest(unit_rows(rows), unit_rows(queries), NEIGHBOURS)
    shares = voted(*near, torch.cat(known), TEMPERATURE)
    return [_of_image(part, grid, bank[0].labels.shape) for part in shares.chunk(images)]


def _of_image(shares: Tensor, grid: tuple[int, int], size: tuple[int, ...]) -> Found:
    water, whole = shares[:, :1], (size[0], size[1])
    fish = enlarged(torch.cat([water, 1 - water], dim=1), grid, whole) > 0
    return Found(fish.numpy(), 1 + enlarged(shares[:, 1:], grid, whole).numpy())
