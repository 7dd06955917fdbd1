"""The exact k largest inner products of queries with a bank of features, in bounded memory.

On a CPU most pairs are ruled out by a cheap product with a known bound of its error, in bfloat16
where the machine multiplies that fast; those that it leaves are computed in full precision. The
plain way is beside it: all pairs in full precision. Both find the same neighbours, but for values
that differ by their rounding alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.system.device import has_native_bfloat16
from ibot.system.process_state import ignored_warnings
from ibot.system.progress import Progress

CHUNK, BLOCK = 1024, 8192
"""Queries and rows of the bank compared at a time."""
FIRST_PER_K = 128
"""Rows per neighbour sought in the first block, which is compared the plain way: before it
nothing can be ruled out."""
LOOK_SHARE, KEEP_SHARE = 1 / 4, 1 / 16
"""Where the screen must look at more than the first share of the pairs, or leaves more than the
second, the product of all pairs is cheaper."""
GROUPS_PER_K, MAX_GROUP = 8, 64
"""Groups per neighbour sought, and the largest group, of the selection in `largest`."""
SMALLEST, LARGEST = 1e-15, 1e15
"""Lengths of rows between which products of float32 stay within the bound's reach."""

UNIT_ROUNDING = 1e-6
"""How far from 1 the length of a row may be that was scaled in float32."""

Screen = torch.dtype | Literal["auto"] | None


@torch.no_grad()
def nearest(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
    screen: Screen = "auto",
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query with the rows of a bank.

    `chunk` x `block` pairs exist at a time, in the type of the screen and in full precision, and k
    answers for each query.

    Args:
        bank: [n, D], any float type. May be mapped from a file or lie on another device: it is read
            once, in blocks.
        queries: [q, D], any float type; the answers are on their device.
        k: answers; above n, all are given.
        scale: bring the rows of both to length 1 on the way.
        chunk: queries at a time.
        block: rows at a time.
        screen: type of the product that rules pairs out, float32 or bfloat16; None: the plain way,
            without; auto: on a CPU bfloat16 where that is fast, else float32, and on other devices
            None.
        progress: called with the rows done and in all.

    Returns:
        Values [q, k] falling, in float32 or the wider type of the queries; index int64 [q, k]. The
        order of equal ones is not defined.

    Raises:
        ValueError: an empty bank, or k below one.
    """
    if not len(bank) or k < 1:
        raise ValueError(f"{k} neighbours among {len(bank)} rows cannot be found")
    k, device = min(k, len(bank)), queries.device
    kind = torch.promote_types(queries.dtype, torch.float32)
    if screen == "auto":
        screen = _screen_type(device)
    values = queries.new_full((len(queries), k), -torch.inf, dtype=kind)
    index = torch.zeros(len(queries), k, dtype=torch.int64, device=device)
    parts = [slice(at, at + chunk) for at in range(0, len(queries), chunk)]
    product, screens = _Product(), [_Patient() for _ in parts]
    first = block if screen is None else min(block, FIRST_PER_K * k)
    rounded: _Rounded | None = None
    centre: Tensor | None = None
    for start in (0, *range(first, len(bank), block)):
        rows = bank[start : start + block if start else first].to(device, kind)
        rows = unit_rows(rows) if scale else rows
        if screen is not None and centre is not None:
            rounded = _Rounded(rows, centre, screen, rounded)
        for part, patient in zip(parts, screens, strict=True):
            wanted = queries[part].to(kind)
            wanted = unit_rows(wanted) if scale else wanted
            pairs = None if rounded is None else patient.ask(rounded, wanted, values[part, -1], k)
            if pairs is None:
                found, place = largest(product(wanted, rows), k)
            else:
                found, place = _products(wanted, rows, *pairs)
            place = torch.cat([index[part], place + start], 1)
            values[part], order = torch.cat([values[part], found], 1).topk(k, dim=1)
            index[part] = place.gather(1, order)
        # Any centre is right. Near the mean the centred rows are short, and so is the error of
        # their products.
        centre = rows.mean(dim=0) if centre is None else centre
        if progress is not None:
            progress(start + len(rows), len(bank))
    return values, index


def unit_rows(rows: Tensor) -> Tensor:
    """Rows [n, D] brought to length 1; those that have it, up to rounding, stay as they are.

    So what was scaled before gives the same numbers, bit by bit. Rows of zeros stay zero.
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    off = (length - 1).abs() > UNIT_ROUNDING
    return rows / torch.where(off, length.clamp_min(1e-12), 1.0)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k)` of rows [q, n], cut to n, falling; faster for k far below n.

    The k largest lie in the k groups with the largest maxima, and a maximum costs less than a
    selection.
    """
    rows, count = values.shape
    size = min(count // (GROUPS_PER_K * k), MAX_GROUP)
    if size < 2:
        return values.topk(min(k, count), dim=1)
    grouped = _grouped(values, size)
    groups = grouped.shape[2]
    chosen = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = (
        chosen[:, None] + groups * torch.arange(size, device=values.device)[:, None]
    ).flatten(1)
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
    """Inner products of rows, in the same memory: fresh one costs more than the selection."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def __call__(self, queries: Tensor, rows: Tensor) -> Tensor:
        """[q, b] of queries [q, D] and rows [b, D]; valid until the next call."""
        size = len(queries) * len(rows)
        if self._memory.numel() < size:
            self._memory = queries.new_empty(size)
        return torch.mm(queries, rows.T, out=self._memory[:size].view(len(queries), len(rows)))


class _Rounded:
    """A block of the bank, centred and rounded, and how wrong the products with it may be.

    A product is q b = (q - c) (b - c) + c (b - c) + q c. The first term is rounded, the second
    stands beside each row as two more numbers, the third is the same for all rows.
    """

    def __init__(
        self, rows: Tensor, centre: Tensor, kind: torch.dtype, before: _Rounded | None
    ) -> None:
        """rows: [b, D]; centre: c [D]; kind: of the screen; before: whose memory is used again."""
        self._centre, self._kind = centre, kind
        self._product = _Product() if before is None else before._product
        centred = rows - centre
        offset = centred @ centre
        coarse = offset.to(kind)
        fine = (offset - coarse).to(kind)
        rounded = centred.to(kind)
        self.rows = torch.cat([rounded, coarse[:, None], fine[:, None]], dim=1)
        """[b, D + 2] in the type of the screen."""
        self._length = _length(centred).max()
        self._residual = _length(centred - rounded).max()
        self._offset_residual = (offset - coarse - fine).abs().max()
        self._reach = _length(rows).max() + _length(centre)

    def candidates(self, queries: Tensor, least: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
        """Pairs (query, row) whose product may reach `least` [q]: int64 [p] each, queries rising.

        None: they are too many to look at each of them, or something is out of range or not a
        number.
        """
        rounded, error = self.round_queries(queries)
        least = least - queries @ self._centre - error
        # Rounding does not change the order; the margin is for machines that would round otherwise
        # than to the nearest.
        least = least - torch.finfo(self._kind).eps / 2 * least.abs()
        if not least.isfinite().all():
            return None
        products, least = self._product(rounded, self.rows), least.to(self._kind)[:, None]
        count = len(self.rows)
        # The more groups there are, the more maxima to look at; the larger they are, the more
        # members of the found.
        size = min(max(1, math.isqrt(count // (2 * k))), MAX_GROUP)
        maxima = _grouped(products, size).amax(dim=1)
        found = maxima >= least
        if size * int(found.sum()) > LOOK_SHARE * products.numel():
            return None
        query, group = found.nonzero(as_tuple=True)
        row = group[:, None] + maxima.shape[1] * torch.arange(size, device=group.device)
        pair, member = (products.view(-1)[query[:, None] * count + row] >= least[query]).nonzero(
            as_tuple=True
        )
        query, row = query[pair], row[pair, member]
        grouped = size * maxima.shape[1]
        if grouped < count:  # the rest is in no group
            rest, place = (products[:, grouped:] >= least).nonzero(as_tuple=True)
            query, order = torch.cat([query, rest]).sort(stable=True)
            row = torch.cat([row, grouped + place])[order]
        return (query, row) if len(row) <= KEEP_SHARE * products.numel() else None

    def round_queries(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [q, D] as factors [q, D + 2] of `rows`, and a bound [q] of the products' error.

        By Cauchy and Schwarz |(q - q') b| + |q' (b - b')| for what rounding makes of centred q and
        b; what is lost of the numbers beside the rows; and sums of D terms, in any order. Infinite
        where numbers are so small or large that products could leave the range of float32.
        """
        centred = queries - self._centre
        rounded = centred.to(self._kind)
        short, length, far = _length(centred), _length(queries), _length(self._centre)
        error = (
            _length(centred - rounded) * self._length
            + _length(rounded.to(centred.dtype)) * self._residual
        )
        # Sums of this product and of the numbers beside the rows; those of the values known and of
        # the third term.
        error += self.rows.shape[1] * torch.finfo(torch.float32).eps * (short + far) * self._length
        error += self.rows.shape[1] * torch.finfo(queries.dtype).eps * length * self._reach
        usable = (length + far > SMALLEST) & (length + far < LARGEST) & (self._reach > SMALLEST)
        error = torch.where(
            usable & (self._reach < LARGEST), error + self._offset_residual, torch.inf
        )
        return F.pad(rounded, (0, 2), value=1), error


class _Patient:
    """Asks for candidates, and after a refusal waits: each time for twice as many blocks.

    Where features lie in tight clusters the screen rules out too little, block after block.
    """

    def __init__(self) -> None:
        self._refusals, self._wait = 0, 0

    def ask(
        self, rounded: _Rounded, queries: Tensor, least: Tensor, k: int
    ) -> tuple[Tensor, Tensor] | None:
        """As `_Rounded.candidates`."""
        if self._wait:
            self._wait -= 1
            return None
        pairs = rounded.candidates(queries, least, k)
        self._refusals = self._refusals + 1 if pairs is None else 0
        self._wait = 2**self._refusals - 1
        return pairs


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1)


def _products(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of pairs (query, row), queries rising: values and rows [q, most pairs of one].

    Where a query has fewer, its last values are -inf.
    """
    count = torch.bincount(query, minlength=len(queries))
    start = F.pad(count.cumsum(0), (1, 0))
    with ignored_warnings(message="Sparse (CSR tensor support is in beta|invariant checks are)"):
        size, zeros = (len(queries), len(rows)), queries.new_zeros(len(row))
        places = torch.sparse_csr_tensor(start, row, zeros, size, check_invariants=False)
    found = torch.sparse.sampled_addmm(places, queries, rows.T, beta=0.0).values()
    values = queries.new_full((len(queries), int(count.max())), -torch.inf)
    place = torch.zeros_like(values, dtype=torch.int64)
    column = torch.arange(len(row), device=row.device) - start[query]
    values[query, column], place[query, column] = found, row
    return values, place
