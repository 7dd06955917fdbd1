"""The exact k largest inner products of queries with a bank of features, in bounded memory.

On a CPU most pairs are ruled out by a cheap product with a known bound of its error, in bfloat16 where the machine
multiplies that fast; those that it leaves are computed in full precision. The plain way is beside it: all pairs in full
precision. Both find the same neighbours, but for values that differ by their rounding alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.engine.device import has_native_bfloat16

CHUNK, BLOCK = 1024, 8192
"""Queries and rows of the bank compared at a time."""
FIRST_PER_K = 32
"""Rows per neighbour sought in the first block, which is compared the plain way: before it nothing can be ruled out."""
LOOK_SHARE, KEEP_SHARE = 1 / 4, 1 / 16
"""Where the screen must look at more than the first share of the pairs, or leaves more than the second, the product of
all pairs is cheaper."""
GROUPS_PER_K, MAX_GROUP = 8, 64
"""Groups per neighbour sought, and the largest group, of the selection in `largest`."""

Screen = torch.dtype | Literal["auto"] | None


def nearest(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
    screen: Screen = "auto",
) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query with the rows of a bank.

    `chunk` x `block` pairs exist at a time, and k answers for each query.

    Args:
        bank: [n, D], any float type. May be mapped from a file or lie on another device: it is read once, in blocks.
        queries: [q, D], any float type; the answers are on their device.
        k: answers; above n, all are given.
        scale: bring the rows of both to length 1 on the way.
        chunk: queries at a time.
        block: rows at a time.
        screen: type of the product that rules pairs out; None: the plain way, without; auto: on a CPU bfloat16 where
            that is fast, else float32, and on other devices None.

    Returns:
        Values [q, k] falling, in float32 or the wider type of the queries; index int64 [q, k]. The order of equal ones
        is not defined.
    """
    k, kind, device = min(k, len(bank)), torch.promote_types(queries.dtype, torch.float32), queries.device
    if screen == "auto":
        screen = _screen_type(device)
    values = queries.new_full((len(queries), k), -torch.inf, dtype=kind)
    index = torch.zeros(len(queries), k, dtype=torch.int64, device=device)
    product, screening = _Product(), _Product()
    first = block if screen is None else min(block, FIRST_PER_K * k)
    centre: Tensor | None = None
    for start in (0, *range(first, len(bank), block)):
        rows = bank[start : start + block if start else first].to(device, kind)
        rows = F.normalize(rows, dim=-1) if scale else rows
        rounded = None if screen is None or centre is None else _Rounded.of(rows, centre, screen)
        for part in (slice(at, at + chunk) for at in range(0, len(queries), chunk)):
            wanted = queries[part].to(kind)
            wanted = F.normalize(wanted, dim=-1) if scale else wanted
            pairs = None
            if rounded is not None and centre is not None:
                pairs = rounded.candidates(wanted, values[part, -1] - wanted @ centre, k, screening)
            found, place = largest(product(wanted, rows), k) if pairs is None else _products(wanted, rows, *pairs)
            found, place = torch.cat([values[part], found], 1), torch.cat([index[part], place + start], 1)
            values[part], order = found.topk(k, dim=1)
            index[part] = place.gather(1, order)
        # Any centre is right. Near the mean the centred rows are short, and so is the error of their products.
        centre = rows.mean(dim=0) if centre is None else centre
    return values, index


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k)` of rows [q, n], cut to n: values and indices [q, k], falling; faster for k far below n.

    The k largest lie in the k groups with the largest maxima, and a maximum costs less than a selection.
    """
    rows, count = values.shape
    size = min(count // (GROUPS_PER_K * k), MAX_GROUP)
    if size < 2:
        return values.topk(min(k, count), dim=1)
    grouped = _grouped(values, size)
    groups = grouped.shape[2]
    chosen = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = (chosen[:, None] + groups * torch.arange(size, device=values.device)[:, None]).flatten(1)
    rest = torch.arange(size * groups, count, device=values.device).expand(rows, -1)
    members = torch.cat([members, rest], dim=1)
    found, place = values.gather(1, members).topk(k, dim=1)
    return found, members.gather(1, place)


def _grouped(values: Tensor, size: int) -> Tensor:
    """A view [q, size, n // size] of values [q, n], without the rest.

    A group takes every (n // size)-th value, so that maxima are found along contiguous memory.
    """
    groups = values.shape[1] // size
    return values[:, : size * groups].unflatten(1, (size, groups))


def _screen_type(device: torch.device) -> torch.dtype | None:
    if device.type != "cpu":
        return None
    return torch.bfloat16 if has_native_bfloat16(device) else torch.float32


class _Product:
    """Inner products of rows, always in the same memory: fresh memory of this size costs more than the selection."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def __call__(self, queries: Tensor, rows: Tensor) -> Tensor:
        """[q, b] of queries [q, D] and rows [b, D]; valid until the next call."""
        size = len(queries) * len(rows)
        if self._memory.numel() < size:
            self._memory = queries.new_empty(size)
        return torch.mm(queries, rows.T, out=self._memory[:size].view(len(queries), len(rows)))


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A block of the bank, centred and rounded, and how wrong its products may be."""

    rows: Tensor
    """[b, D] in the type of the screen."""
    length: Tensor
    """Scalar, the largest length of a centred row."""
    residual: Tensor
    """Scalar, the largest length of what rounding took from a row."""

    @classmethod
    def of(cls, rows: Tensor, centre: Tensor, kind: torch.dtype) -> _Rounded:
        centred = rows - centre
        rounded = centred.to(kind)
        return cls(rounded, _length(centred).max(), _length(centred - rounded.to(centred.dtype)).max())

    def candidates(self, queries: Tensor, least: Tensor, k: int, product: _Product) -> tuple[Tensor, Tensor] | None:
        """Pairs (query, row), int64 [p] each, queries rising: all whose centred product may reach `least` [q].

        None: they are too many to look at each of them, or something is not finite.
        """
        rounded = queries.to(self.rows.dtype)
        least = least - self._error(queries, rounded.to(queries.dtype))
        # Once for the rounding of the products, once for that of `least` itself.
        least = least - 2 * torch.finfo(self.rows.dtype).eps * least.abs()
        if not least.isfinite().all():
            return None
        products, least = product(rounded, self.rows), least.to(self.rows.dtype)[:, None]
        count = len(self.rows)
        # The more groups there are, the more maxima to look at; the larger they are, the more members of the found.
        size = min(max(1, math.isqrt(count // (2 * k))), MAX_GROUP)
        maxima = _grouped(products, size).amax(dim=1)
        query, group = (maxima >= least).nonzero(as_tuple=True)
        if size * len(query) > LOOK_SHARE * products.numel():
            return None
        row = group[:, None] + maxima.shape[1] * torch.arange(size)
        pair, member = (products.view(-1)[query[:, None] * count + row] >= least[query]).nonzero(as_tuple=True)
        query, row = query[pair], row[pair, member]
        grouped = size * maxima.shape[1]
        if grouped < count:  # the rest is in no group
            rest, place = (products[:, grouped:] >= least).nonzero(as_tuple=True)
            query, order = torch.cat([query, rest]).sort(stable=True)
            row = torch.cat([row, grouped + place])[order]
        return (query, row) if len(row) <= KEEP_SHARE * products.numel() else None

    def _error(self, queries: Tensor, rounded: Tensor) -> Tensor:
        """Bound [q] of |q' b' - q b| for a query q, a centred row b and what rounding makes of them.

        By Cauchy and Schwarz |(q - q') b| + |q' (b - b')|, and for the sums of D terms in float32, in any order.
        """
        sums = 4 * queries.shape[1] * torch.finfo(torch.float32).eps * _length(queries) * self.length
        return _length(queries - rounded) * self.length + _length(rounded) * self.residual + sums


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1)


def _products(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of pairs (query, row), queries rising: values and rows [q, most pairs of one].

    Where a query has fewer, its last values are -inf.
    """
    count = torch.bincount(query, minlength=len(queries))
    start = F.pad(count.cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are)")
        places = torch.sparse_csr_tensor(
            start, row, queries.new_zeros(len(row)), (len(queries), len(rows)), check_invariants=False
        )
    found = torch.sparse.sampled_addmm(places, queries, rows.T, beta=0.0).values()
    values = queries.new_full((len(queries), int(count.max())), -torch.inf)
    place = torch.zeros(values.shape, dtype=torch.int64)
    column = torch.arange(len(row)) - start[query]
    values[query, column], place[query, column] = found, row
    return values, place
