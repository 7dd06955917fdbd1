"""Search in one's own images by their features: neighbours, near-duplicates, outliers, similar
patches.

Everything is exact: whatever may be an answer is compared, in blocks, so that memory grows with the
number of images and never with its square. Features may be mapped from a file: no copy of them is
held, even where they are scaled. Similarities are cosines; in float32 they carry an error of about
1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ibot.eval.neighbours.nearest import BLOCK, CHUNK, Progress, nearest

UNIT_TOLERANCE = 1e-3
"""How far the length of a feature may be from 1: a thousandfold of what float32 leaves, far
below any other length."""
SHORTEST = 1e-12
"""Rows below this length cannot be scaled: `F.normalize` leaves them shorter than 1."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Near-duplicates of their first image, which leads them."""

    index: Tensor
    """int64 [m], m >= 2, rising; the leader is the first."""
    similarity: Tensor
    """Cosine to the leader [m], the threshold or above; that of the leader is 1."""


def nearest_images(
    features: Tensor,
    queries: Tensor,
    k: int,
    exclude: Tensor | None = None,
    *,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """The k most similar images of each query.

    Args:
        features: [n, D], rows of length 1, float32 or float64; any device.
        queries: [q, D], as `features`.
        k: answers per query; above what there is, all are given.
        exclude: int64 [q], index of each query among the features, left out of its own answers;
            None: none is.
        scale: take rows of any length, of features and queries, and bring them to length 1 on the
            way.
        chunk: queries at a time.
        block: features at a time.

    Returns:
        Cosine [q, k] falling, and index int64 [q, k]. The order of equal ones is not defined.

    Raises:
        ValueError: shapes, types or indices that do not fit, rows that are not of length 1 or
            cannot be brought to it, or k below one.
    """
    _check_rows(features, scale)
    _check_rows(queries, scale)
    _check_positive("k", k)
    if features.shape[1] != queries.shape[1] or features.dtype != queries.dtype:
        raise ValueError(
            f"features {_describe(features)} cannot be compared with queries {_describe(queries)}: "
            "width and type must be equal"
        )
    if exclude is not None:
        _check_exclude(exclude, len(features), len(queries))
    return _nearest_others(features, queries, k, exclude, scale, chunk, block)


def near_duplicates(
    features: Tensor,
    threshold: float,
    *,
    scale: bool = False,
    block: int = 2048,
    progress: Progress | None = None,
) -> list[DuplicateGroup]:
    """Groups of images whose cosine to the first of the group is at least `threshold`.

    The images are gone through in order: each joins the earliest leader that is similar enough, or
    else leads those that come after it. So no two leaders are near-duplicates of each other, while
    two that follow one leader may be less similar to each other than the threshold. `block` x
    `block` pairs exist at a time.

    Args:
        features: [n, D], rows of length 1, float32 or float64; any device.
        threshold: -1..1. Rounding makes 1 miss some exact copies; 0.9999 finds them all.
        scale: take rows of any length and bring them to length 1 on the way.
        block: features at a time.
        progress: called with the pairs compared and in all.

    Returns:
        Groups, the largest first, equally large ones by their first image. Images without a
        near-duplicate are in none.

    Raises:
        ValueError: shapes or types that do not fit, rows that are not of length 1 or cannot be
            brought to it, or a threshold that is no cosine.
    """
    _check_rows(features, scale)
    if not -1 <= threshold <= 1:
        raise ValueError(f"a threshold of cosines lies in -1..1, not at {threshold}")
    least = _at_least(threshold, features.dtype)
    leader = torch.arange(len(features), device=features.device)
    similarity = features.new_ones(len(features))
    found = [leader[:0]]  # the leaders of each block

    def rows(index: Tensor) -> Tensor:
        return F.normalize(features[index], dim=1) if scale else features[index]

    for image in torch.arange(len(features), device=features.device).split(block):
        alone = image
        for leaders in torch.cat(found).split(block):
            alone = _follow(rows, alone, leaders, least, leader, similarity)
        found.append(_lead(rows, alone, least, leader, similarity))
        if progress is not None:
            done = int(image[-1]) + 1
            progress(done * done, len(features) ** 2)
    size = torch.bincount(leader, minlength=len(leader))
    member = (size[leader] > 1).nonzero()[:, 0]
    member = member[leader[member].argsort(stable=True)]
    groups = [
        DuplicateGroup(index, similarity[index]) for index in member.split(size[size > 1].tolist())
    ]
    return sorted(groups, key=lambda group: -len(group.index))


def outliers(
    features: Tensor,
    k: int,
    count: int,
    *,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The images that resemble even their k nearest neighbours least, the strangest first.

    Args:
        features: [n, D], n >= 2, rows of length 1, float32 or float64; any device.
        k: neighbours, the image itself not counted; those above n - 1 become n - 1.
        count: images to name; above n, all are given.
        scale: take rows of any length and bring them to length 1 on the way.
        chunk: images at a time whose neighbours are sought.
        block: features at a time.
        progress: called with the features compared and in all.

    Returns:
        Mean cosine to the neighbours [count] rising, and index int64 [count]. Equal ones come by
        index.

    Raises:
        ValueError: shapes or types that do not fit, rows that are not of length 1 or cannot be
            brought to it, a single image, or a k or count below one.
    """
    _check_rows(features, scale)
    _check_positive("k", k)
    _check_positive("count", count)
    if len(features) < 2:
        raise ValueError("a single image has no neighbours")
    own = torch.arange(len(features), device=features.device)
    similarity, _ = _nearest_others(features, features, k, own, scale, chunk, block, progress)
    mean = similarity.mean(dim=1)
    order = mean.argsort(stable=True)[:count]
    return mean[order], order


def nearest_patches(
    patches: Tensor | NDArray[np.floating],
    query: Tensor,
    k: int,
    exclude: int | None = None,
    *,
    block: int = 2**24,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k images with the patches most similar to a query; the best patch of each image stands
    for it.

    Args:
        patches: [n, N, D], any float type; an array may be memory-mapped, a tensor may lie on
            another device than the query. They may have any length: a store of 16 bits would not
            keep a length of 1.
        query: [D], any length, float32 or float64; its type and device are those of the
            computation.
        k: answers; above what there is, all are given.
        exclude: index of an image that is left out, such as the query's own.
        block: numbers of `patches` in memory at a time, 64 MiB of float32 by default; at least
            those of one image.

    Returns:
        Image int64 [k], patch int64 [k] in 0..N - 1, and cosine [k] falling. Equal images come by
        index.

    Raises:
        ValueError: shapes, types or indices that do not fit, patches that are not finite, or k
            below one.
    """
    _check_positive("k", k)
    _check_patches(patches, query)
    num_images, num_patches, width = patches.shape
    if exclude is not None and not 0 <= exclude < num_images:
        raise ValueError(f"image {exclude} cannot be left out of {num_images}")
    images = max(1, block // (num_patches * width))
    direction = F.normalize(query, dim=0)
    parts = [
        _best_patch(patches[start : start + images], direction)
        for start in range(0, num_images, images)
    ]
    similarity, patch = (
        torch.cat([values for values, _ in parts]),
        torch.cat([index for _, index in parts]),
    )
    finite = similarity.isfinite()
    if not finite.all():
        raise ValueError(
            f"the query or the patches of image {int((~finite).nonzero()[0])} are not finite"
        )
    image = torch.arange(num_images, device=query.device)
    if exclude is not None:
        image = image[image != exclude]
    image = image[similarity[image].argsort(descending=True, stable=True)[:k]]
    return image, patch[image], similarity[image]


def unscalable(features: Tensor) -> Tensor:
    """Numbers int64 of the rows of features [n, D] that cannot be brought to length 1: not finite,
    or all zeros.
    """
    length = torch.linalg.vector_norm(features, dim=1)
    return (~((length >= SHORTEST) & length.isfinite())).nonzero()[:, 0]


def _nearest_others(
    features: Tensor,
    queries: Tensor,
    k: int,
    own: Tensor | None,
    scale: bool,
    chunk: int,
    block: int,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and indices [q, k] of the nearest features, without the query's `own` [q]."""
    asked = k if own is None else k + 1
    similarity, index = nearest(
        features, queries, asked, scale=scale, chunk=chunk, block=block, progress=progress
    )
    if own is None:
        return similarity, index
    # Among many copies the query itself may not be one of the first k + 1; then the last one goes.
    order = (index == own[:, None]).long().argsort(dim=1, stable=True)[:, : index.shape[1] - 1]
    return similarity.gather(1, order), index.gather(1, order)


def _at_least(threshold: float, dtype: torch.dtype) -> float:
    """The smallest number of a type that is not below a threshold, which rounding to the type may
    be.
    """
    rounded = torch.tensor(threshold, dtype=dtype)
    return (
        rounded
        if rounded.item() >= threshold
        else rounded.nextafter(torch.tensor(torch.inf).to(rounded))
    ).item()


def _follow(
    rows: Callable[[Tensor], Tensor],
    image: Tensor,
    leaders: Tensor,
    least: float,
    leader: Tensor,
    similarity: Tensor,
) -> Tensor:
    """Let images [b] follow the first of the leaders [c] whose cosine is `least` or more; those
    left without one.

    `rows` gives the features of images, of length 1. The places of those that follow are written
    into leader [n] and similarity [n].
    """
    if not len(image) or not len(leaders):
        return image
    cosine = rows(image) @ rows(leaders).T
    first = (cosine >= least).to(torch.uint8).argmax(dim=1)  # 0 where there is none
    value = cosine.gather(1, first[:, None])[:, 0]
    follows = value >= least
    leader[image[follows]] = leaders[first[follows]]
    similarity[image[follows]] = value[follows]
    return image[~follows]


def _lead(
    rows: Callable[[Tensor], Tensor],
    image: Tensor,
    least: float,
    leader: Tensor,
    similarity: Tensor,
) -> Tensor:
    """Let images [b] that follow none before them lead each other, in order; those that lead, or
    might.

    `rows` gives the features of images, of length 1. The places of those that follow are written
    into leader [n] and similarity [n].
    """
    own_rows = rows(image)
    cosine = own_rows @ own_rows.T
    near = np.triu((cosine >= least).cpu().numpy(), 1)
    own = np.arange(len(near))
    place = own.copy()
    for row in np.flatnonzero(near.any(axis=1)):
        if place[row] == row:
            place[near[row] & (place == own)] = row
    chosen = torch.from_numpy(place).to(image)
    follows = chosen != torch.arange(len(image), device=image.device)
    leader[image[follows]] = image[chosen[follows]]
    similarity[image[follows]] = cosine[chosen[follows], follows.nonzero()[:, 0]]
    return image[~follows]


def _best_patch(patches: Tensor | NDArray[np.floating], direction: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine [b] over the patches of each image [b, N, D], and which patch int64 [b] it
    is.
    """
    # Copied, because a memory map may be read-only, which torch does not know.
    part = patches if isinstance(patches, Tensor) else torch.from_numpy(np.array(patches))
    part = part.to(direction)
    length = torch.linalg.vector_norm(part, dim=-1).clamp_min(torch.finfo(part.dtype).tiny)
    values, index = (part @ direction / length).max(dim=1)
    return values, index


def _check_rows(features: Tensor, scale: bool) -> None:
    if (
        features.ndim != 2
        or not len(features)
        or features.dtype not in (torch.float32, torch.float64)
    ):
        raise ValueError(
            f"features must be float32 or float64 [n, D] with n >= 1, not {_describe(features)}"
        )
    if scale:
        wrong, wanted = unscalable(features), "a length above 0"
    else:
        off = (torch.linalg.vector_norm(features, dim=1) - 1).abs()
        wrong, wanted = (
            (~(off <= UNIT_TOLERANCE)).nonzero()[:, 0],
            "length 1",
        )  # also those that are not numbers
    if len(wrong):
        length = torch.linalg.vector_norm(features[wrong[0]]).item()
        raise ValueError(
            f"features must have {wanted}, that of number {int(wrong[0])} is {length:.4g}"
        )


def _check_patches(patches: Tensor | NDArray[np.floating], query: Tensor) -> None:
    if patches.ndim != 3 or query.shape != patches.shape[2:] or 0 in patches.shape:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)} do not fit a query of shape "
            f"{tuple(query.shape)}"
        )
    if query.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the query must be float32 or float64, not {query.dtype}")


def _check_exclude(exclude: Tensor, num_features: int, num_queries: int) -> None:
    if exclude.dtype != torch.int64 or exclude.shape != (num_queries,):
        raise ValueError(
            f"exclude must be int64 [{num_queries}], one per query, not {_describe(exclude)}"
        )
    if exclude.min() < 0 or exclude.max() >= num_features:
        raise ValueError(f"exclude names images outside of 0..{num_features - 1}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
