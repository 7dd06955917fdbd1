"""What a search found as lines of a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ibot.explore.findings import Findings, Picture, Square
from ibot.system.tables import write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    kind: str
    """nearest, patch (nearest to one patch), near-duplicate or outlier."""
    group_or_query: str
    """Number of the group from 1, or name of the query; empty for outliers."""
    query_row: int | None = None
    """Patch of the query, counted from 0; as all four, None for whole images."""
    query_column: int | None = None
    rank: int
    """From 1, as on the page."""
    name: str
    row: int | None = None
    """Patch of the answer."""
    column: int | None = None
    similarity: float | None = None
    """Cosine: to the query, to the first of the group, or the mean of those to the neighbours."""


def csv_rows(findings: Findings) -> Iterator[Row]:
    """All findings as lines of the table, also those for which the page has no room."""
    for found in findings.nearest:
        kind = "nearest" if found.query.square is None else "patch"
        for rank, picture in enumerate(found.answers, 1):
            yield _row(kind, found.query.name, rank, picture, found.query.square)
    groups = findings.duplicates.groups if findings.duplicates else ()
    for number, group in enumerate(groups, 1):
        for rank, picture in enumerate(group.pictures, 1):
            yield _row("near-duplicate", str(number), rank, picture)
    for rank, picture in enumerate(findings.outliers or (), 1):
        yield _row("outlier", "", rank, picture)


def _row(
    kind: str, group_or_query: str, rank: int, picture: Picture, asked: Square | None = None
) -> Row:
    """A line of the table; `asked` is the query's patch."""
    answer = picture.square
    return Row(
        kind=kind,
        group_or_query=group_or_query,
        query_row=asked.row if asked else None,
        query_column=asked.column if asked else None,
        rank=rank,
        name=picture.name,
        row=answer.row if answer else None,
        column=answer.column if answer else None,
        similarity=picture.similarity,
    )


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the lines below a header with the names of Row's fields; see `write_table`."""
    write_table(path, [field.name for field in fields(Row)], map(_cells, rows))


def _cells(row: Row) -> list[Any]:
    *cells, similarity = astuple(row)
    return [*cells, None if similarity is None else f"{similarity:.6f}"]
