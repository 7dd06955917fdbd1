"""What a search compares, as findings: nearest images and patches, outliers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.explore.findings import Nearest, Picture
from ibot.explore.resemblance import nearest_images, nearest_patches, strangest
from ibot.explore.searched import Query, Searched

ALIKE = 8
"""Nearest others of each image among which its copies are sought; groups may be larger."""
NEIGHBOURS = 5
"""Whose mean similarity says how strange an image is; more than one, so that a strange image
with a copy stays so."""

Index = NDArray[np.int64]
"""int64 [n]: numbers in the folder of the images whose features [n, D] are given, rising."""


def find_images(
    searched: Searched, rows: Tensor, index: Index, queries: Sequence[Query], k: int
) -> list[Nearest]:
    """The k most similar other images of each query."""
    vectors = searched.vectors(queries)
    own = [np.flatnonzero(index == query.index) for query in queries]
    answers: dict[int, list[Picture]] = {}
    # All at once, as every call reads the whole file: first those with a row to be left out, then
    # the others.
    for has_row in (True, False):
        asked = [place for place, row in enumerate(own) if bool(len(row)) == has_row]
        if asked:
            left_out = np.concatenate([own[place] for place in asked])
            exclude = torch.from_numpy(left_out).to(rows.device) if has_row else None
            found = nearest_images(rows, vectors[asked], k, exclude, scale=True)
            for place, similarity, numbers in zip(asked, *found, strict=True):
                answers[place] = searched.pictures(index[numbers.cpu().numpy()], similarity)
    return [
        Nearest(Picture(query.index, query.name), answers[place])
        for place, query in enumerate(queries)
    ]


def find_patches(
    searched: Searched, index: Index, queries: Sequence[Query], patch: tuple[int, int], k: int
) -> list[Nearest]:
    """The k images with the patches most similar to one of each query.

    Patch tokens of a few images exist at a time.
    """
    number = patch[0] * searched.grid[1] + patch[1]
    wanted = searched.vectors(queries, number)
    progress = searched.context.counter("patches")
    none = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    best = [none] * len(queries)
    done = 0
    for part in searched.views(index):
        if len(part.positions):
            patches = searched.tokens(part.views).patches
            for place, query in enumerate(queries):
                own = np.flatnonzero(part.positions == query.index).tolist()
                image, where, similarity = nearest_patches(
                    patches, wanted[place], k, own[0] if own else None
                )
                image = torch.from_numpy(part.positions)[image.cpu()]
                best[place] = _best(best[place], (image, where.cpu(), similarity.cpu()), k)
        done += len(part.positions) + len(part.bad)
        if progress is not None:
            progress(done, len(index))
    square = searched.square(number)
    return [
        Nearest(
            Picture(query.index, query.name, square=square),
            [
                searched.picture(i, value, searched.square(place))
                for i, place, value in zip(*(part.tolist() for part in answers), strict=True)
            ],
        )
        for query, answers in zip(queries, best, strict=True)
    ]


def _best(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k answers (image, patch, cosine) of two lists with the largest cosines.

    Of equal ones the first stays.
    """
    image, patch, similarity = (torch.cat(pair) for pair in zip(first, second, strict=True))
    order = similarity.argsort(descending=True, stable=True)[:k]
    return image[order], patch[order], similarity[order]


def find_neighbours(searched: Searched, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Cosines [n, k] falling and rows int64 [n, k] of the nearest others of each image [n, D].

    None where there are no others. All that looks at every pair rests on this one pass.
    """
    if len(rows) < 2:
        return None
    progress = searched.context.counter("nearest of all images")
    own = torch.arange(len(rows), device=rows.device)
    return nearest_images(rows, rows, ALIKE, own, scale=True, progress=progress)


def find_outliers(
    searched: Searched, similarity: Tensor, index: Index, count: int
) -> list[Picture] | None:
    """The strangest images, by cosines [n, k] to their nearest; None where none are asked for."""
    if not count:
        return None
    mean, places = strangest(similarity[:, :NEIGHBOURS], count)
    return searched.pictures(index[places.cpu().numpy()], mean)
