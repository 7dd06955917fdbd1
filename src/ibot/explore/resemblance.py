"""What resembles what, by features: neighbours, outliers, similar patches.

Everything is exact: whatever may be an answer is compared, in blocks, so that memory grows with the
number of images and never with its square. Features may be mapped from a file: no copy of them is
held, even where they are scaled. Similarities are cosines; in float32 they carry an error of about
1e-6.
"""

from __future__ import annotations

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


def nearest_images(
    features: Tensor,
    queries: Tensor,
    k: int,
    exclude: Tensor | None = None,
    *,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
    progress: Progress | None = None,
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
        progress: called with the features compared and in all.

    Returns:
        Cosine [q, k] falling, and index int64 [q, k]. The order of equal ones is not defined.

    Raises:
        ValueError: shapes, types or indices that do not fit, rows that are not of length 1 or
            cannot be brought to it, or k below one.
    """
    check_rows(features, scale)
    check_rows(queries, scale)
    _check_positive("k", k)
    if features.shape[1] != queries.shape[1] or features.dtype != queries.dtype:
        raise ValueError(
            f"features {_describe(features)} cannot be compared with queries {_describe(queries)}: "
            "width and type must be equal"
        )
    if exclude is not None:
        _check_exclude(exclude, len(features), len(queries))
    return _nearest_others(
        features, queries, k, exclude, scale=scale, chunk=chunk, block=block, progress=progress
    )


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
    check_rows(features, scale)
    _check_positive("k", k)
    _check_positive("count", count)
    if len(features) < 2:
        raise ValueError("a single image has no neighbours")
    own = torch.arange(len(features), device=features.device)
    similarity, _ = _nearest_others(
        features, features, k, own, scale=scale, chunk=chunk, block=block, progress=progress
    )
    return strangest(similarity, count)


def strangest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of images with cosines [n, k] to their nearest others those with the lowest means.

    Mean [count] rising, and index int64 [count]; equal ones come by index.
    """
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
    """The k images with the patches most similar to a query; their best patch stands for them.

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
    similarity, patch = (torch.cat(part) for part in zip(*parts, strict=True))
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
    """Numbers int64 of the rows of features [n, D] that cannot be brought to length 1.

    They are not finite, or all zeros.
    """
    length = torch.linalg.vector_norm(features, dim=1)
    return (~((length >= SHORTEST) & length.isfinite())).nonzero()[:, 0]


def _nearest_others(
    features: Tensor,
    queries: Tensor,
    k: int,
    own: Tensor | None,
    *,
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


def _best_patch(patches: Tensor | NDArray[np.floating], direction: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine [b] over the patches of each image [b, N, D], and of which, int64 [b]."""
    # Copied, because a memory map may be read-only, which torch does not know.
    part = patches if isinstance(patches, Tensor) else torch.from_numpy(np.array(patches))
    part = part.to(direction)
    length = torch.linalg.vector_norm(part, dim=-1).clamp_min(torch.finfo(part.dtype).tiny)
    values, index = (part @ direction / length).max(dim=1)
    return values, index


def check_rows(features: Tensor, scale: bool) -> None:
    """Raise ValueError for features that are no float [n, D], n >= 1, of length 1.

    Where they are brought to length 1 on the way (`scale`), for those that cannot be.
    """
    floats = (torch.float32, torch.float64)
    if features.ndim != 2 or not len(features) or features.dtype not in floats:
        raise ValueError(
            f"features must be float32 or float64 [n, D] with n >= 1, not {_describe(features)}"
        )
    if scale:
        wrong, wanted = unscalable(features), "a length above 0"
    else:
        off = (torch.linalg.vector_norm(features, dim=1) - 1).abs()
        near = off <= UNIT_TOLERANCE  # not where there are no numbers
        wrong, wanted = (~near).nonzero()[:, 0], "length 1"
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
