"""Search in one's own images by their features: neighbours, near-duplicates, outliers, similar patches.

Everything is exact: all pairs are compared, in blocks, so that memory grows with the number of images and never with
its square. Similarities are cosines; in float32 they carry an error of about 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ibot.eval.knn import nearest

UNIT_TOLERANCE = 1e-3
"""How far the length of a feature may be from 1: a thousandfold of what float32 leaves, far below any other length."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that a chain of near-duplicate pairs joins."""

    index: Tensor
    """int64 [m], m >= 2, rising."""
    smallest: float
    """Cosine of the least similar two, below the threshold where only a chain joins them."""


def nearest_images(
    features: Tensor, queries: Tensor, k: int, exclude: Tensor | None = None, *, chunk: int = 1024, block: int = 4096
) -> tuple[Tensor, Tensor]:
    """The k most similar images of each query.

    Args:
        features: [n, D], rows of length 1, float32 or float64; any device.
        queries: [q, D], as `features`.
        k: answers per query; above what there is, all are given.
        exclude: int64 [q], index of each query among the features, left out of its own answers; None: none is.
        chunk: queries at a time.
        block: features at a time.

    Returns:
        Cosine [q, k] falling, and index int64 [q, k]. The order of equal ones is not defined.

    Raises:
        ValueError: shapes, types or indices that do not fit, rows that are not of length 1, or k below one.
    """
    _check_unit(features)
    _check_unit(queries)
    _check_positive("k", k)
    if features.shape[1] != queries.shape[1] or features.dtype != queries.dtype:
        raise ValueError(
            f"features {_describe(features)} cannot be compared with queries {_describe(queries)}: "
            "width and type must be equal"
        )
    if exclude is not None:
        _check_exclude(exclude, len(features), len(queries))
    parts = []
    for start in range(0, len(queries), chunk):
        own = None if exclude is None else exclude[start : start + chunk]
        parts.append(_nearest_others(features, queries[start : start + chunk], k, own, block))
    return torch.cat([similarity for similarity, _ in parts]), torch.cat([index for _, index in parts])


def near_duplicates(features: Tensor, threshold: float, *, block: int = 2048) -> list[DuplicateGroup]:
    """Groups of images joined by pairs whose cosine is at least `threshold`.

    A group is a connected component: two of its images may be less similar than the threshold when others lie between
    them. `block` x `block` pairs exist at a time.

    Args:
        features: [n, D], rows of length 1, float32 or float64; any device.
        threshold: -1..1. Rounding makes 1 miss some exact copies; 0.9999 finds them all.
        block: features at a time.

    Returns:
        Groups, the largest first, equally large ones by their first image. Images without a near-duplicate are in none.

    Raises:
        ValueError: shapes or types that do not fit, rows that are not of length 1, or a threshold that is no cosine.
    """
    _check_unit(features)
    if not -1 <= threshold <= 1:
        raise ValueError(f"a threshold of cosines lies in -1..1, not at {threshold}")
    root = torch.arange(len(features), device=features.device)
    for top in range(0, len(features), block):
        rows = features[top : top + block]
        for left in range(top, len(features), block):
            columns = features[left : left + block]
            # What is joined already is passed over: where all images look alike, nearly every pair is close.
            apart = root[top : top + block, None] != root[left : left + block]
            first, second = (apart & (rows @ columns.T >= threshold)).nonzero(as_tuple=True)
            _join(root, first + top, second + left)
    groups = [DuplicateGroup(index, _smallest(features, index, block)) for index in _components(root)]
    return sorted(groups, key=lambda group: -len(group.index))


def outliers(features: Tensor, k: int, count: int, *, chunk: int = 1024, block: int = 4096) -> tuple[Tensor, Tensor]:
    """The images that resemble even their k nearest neighbours least, the strangest first.

    Args:
        features: [n, D], n >= 2, rows of length 1, float32 or float64; any device.
        k: neighbours, the image itself not counted; those above n - 1 become n - 1.
        count: images to name; above n, all are given.
        chunk: images at a time whose neighbours are sought.
        block: features at a time.

    Returns:
        Mean cosine to the neighbours [count] rising, and index int64 [count]. Equal ones come by index.

    Raises:
        ValueError: shapes or types that do not fit, rows that are not of length 1, a single image, or a k or count
            below one.
    """
    _check_unit(features)
    _check_positive("k", k)
    _check_positive("count", count)
    if len(features) < 2:
        raise ValueError("a single image has no neighbours")
    own = torch.arange(len(features), device=features.device)
    mean = torch.cat(
        [_nearest_others(features, features[part], k, part, block)[0].mean(dim=1) for part in own.split(chunk)]
    )
    order = mean.argsort(stable=True)[:count]
    return mean[order], order


def nearest_patches(
    patches: Tensor | NDArray[np.floating], query: Tensor, k: int, exclude: int | None = None, *, block: int = 2**24
) -> tuple[Tensor, Tensor, Tensor]:
    """The k images with the patches most similar to a query; the best patch of each image stands for it.

    Args:
        patches: [n, N, D], any float type; an array may be memory-mapped, a tensor may lie on another device than the
            query. They may have any length: a store of 16 bits would not keep a length of 1.
        query: [D], any length, float32 or float64; its type and device are those of the computation.
        k: answers; above what there is, all are given.
        exclude: index of an image that is left out, such as the query's own.
        block: numbers of `patches` in memory at a time, 64 MiB of float32 by default; at least those of one image.

    Returns:
        Image int64 [k], patch int64 [k] in 0..N - 1, and cosine [k] falling. Equal images come by index.

    Raises:
        ValueError: shapes, types or indices that do not fit, patches that are not finite, or k below one.
    """
    _check_positive("k", k)
    _check_patches(patches, query)
    num_images, num_patches, width = patches.shape
    if exclude is not None and not 0 <= exclude < num_images:
        raise ValueError(f"image {exclude} cannot be left out of {num_images}")
    images = max(1, block // (num_patches * width))
    direction = F.normalize(query, dim=0)
    parts = [_best_patch(patches[start : start + images], direction) for start in range(0, num_images, images)]
    similarity, patch = torch.cat([values for values, _ in parts]), torch.cat([index for _, index in parts])
    finite = similarity.isfinite()
    if not finite.all():
        raise ValueError(f"the query or the patches of image {int((~finite).nonzero()[0])} are not finite")
    image = torch.arange(num_images, device=query.device)
    if exclude is not None:
        image = image[image != exclude]
    image = image[similarity[image].argsort(descending=True, stable=True)[:k]]
    return image, patch[image], similarity[image]


def _nearest_others(features: Tensor, queries: Tensor, k: int, own: Tensor | None, block: int) -> tuple[Tensor, Tensor]:
    """Cosines and indices [q, k] of the nearest features, without the query's `own` [q]."""
    if own is None:
        return nearest(features, queries, k, block)
    similarity, index = nearest(features, queries, k + 1, block)
    # Among many copies the query itself may not be one of the first k + 1; then the last one goes.
    order = (index == own[:, None]).long().argsort(dim=1, stable=True)[:, : index.shape[1] - 1]
    return similarity.gather(1, order), index.gather(1, order)


def _join(root: Tensor, first: Tensor, second: Tensor) -> None:
    """Merge, in place, the components of each pair (first [p], second [p]).

    root: int64 [n], the smallest member of each one's component, before and after.
    """
    while True:
        first, second = root[first], root[second]
        apart = first != second
        if not apart.any():
            return
        first, second = first[apart], second[apart]
        # A root that is hooked to several others keeps the smallest; the next round sees to the rest.
        root.scatter_reduce_(0, torch.maximum(first, second), torch.minimum(first, second), "amin")
        while not torch.equal(flat := root[root], root):
            root.copy_(flat)


def _components(root: Tensor) -> list[Tensor]:
    """Members, rising, of each component of at least two, by their first one."""
    size = torch.bincount(root, minlength=len(root))
    member = (size[root] > 1).nonzero()[:, 0]
    member = member[root[member].argsort(stable=True)]
    return list(member.split(size[size > 1].tolist()))


def _smallest(features: Tensor, index: Tensor, block: int) -> float:
    """Smallest cosine between two different ones of features[index]."""
    lowest = []
    parts = index.split(block)
    for number, rows in enumerate(parts):
        for columns in parts[number:]:
            similarity = features[rows] @ features[columns].T
            if columns is rows:
                similarity.fill_diagonal_(torch.inf)
            lowest.append(similarity.min())
    return torch.stack(lowest).min().item()


def _best_patch(patches: Tensor | NDArray[np.floating], direction: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine [b] over the patches of each image [b, N, D], and which patch int64 [b] it is."""
    # Copied, because a memory map may be read-only, which torch does not know.
    part = patches if isinstance(patches, Tensor) else torch.from_numpy(np.array(patches))
    part = part.to(direction)
    length = torch.linalg.vector_norm(part, dim=-1).clamp_min(torch.finfo(part.dtype).tiny)
    values, index = (part @ direction / length).max(dim=1)
    return values, index


def _check_unit(features: Tensor) -> None:
    if features.ndim != 2 or not len(features) or features.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"features must be float32 or float64 [n, D] with n >= 1, not {_describe(features)}")
    length = torch.linalg.vector_norm(features, dim=1)
    wrong = ~((length - 1).abs() <= UNIT_TOLERANCE)  # also those that are not numbers
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(f"features must have length 1, that of number {first} is {length[first].item():.4g}")


def _check_patches(patches: Tensor | NDArray[np.floating], query: Tensor) -> None:
    if patches.ndim != 3 or query.shape != patches.shape[2:] or 0 in patches.shape:
        raise ValueError(f"patches of shape {tuple(patches.shape)} do not fit a query of shape {tuple(query.shape)}")
    if query.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the query must be float32 or float64, not {query.dtype}")


def _check_exclude(exclude: Tensor, num_features: int, num_queries: int) -> None:
    if exclude.dtype != torch.int64 or exclude.shape != (num_queries,):
        raise ValueError(f"exclude must be int64 [{num_queries}], one per query, not {_describe(exclude)}")
    if exclude.min() < 0 or exclude.max() >= num_features:
        raise ValueError(f"exclude names images outside of 0..{num_features - 1}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
