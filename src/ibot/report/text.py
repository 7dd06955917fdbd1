"""Tables as text: aligned for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from ibot.report.table import Cells
from ibot.words import encodable

TITLE_LETTERS, NETWORK_LETTERS = 44, 18
"""Width on the terminal from which the title of a row, and the name of a run or of weights,
takes another line."""


def folded(lines: Sequence[Sequence[str]]) -> Cells:
    """The cells of a table with long titles in several lines, so that they fit a terminal."""
    (protocol, row, *networks), *rest = lines
    names = [
        "\n".join(_fold(part, "[/_.-]", NETWORK_LETTERS) for part in name.split("\n"))
        for name in networks
    ]
    return [
        [protocol, row, *names],
        *([first, _fold(title, ", ", TITLE_LETTERS), *cells] for first, title, *cells in rest),
    ]


def _fold(text: str, end: str, width: int) -> str:
    """Text in lines of at most `width` letters where they may end: after matches of `end`."""
    lines = [""]
    for piece in re.split(f"(?<={end})", text):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of text with numbers to the right; a cell of several lines takes several."""
    parts = [[cell.split("\n") for cell in line] for line in lines]
    widths = [max(len(text) for line in parts for text in line[i]) for i in range(len(lines[0]))]
    numbers = _columns_of_numbers(lines)
    out = []
    for line in parts:
        for level in range(max(map(len, line))):
            texts = [cell[level] if level < len(cell) else "" for cell in line]
            padded = [
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(texts, widths, numbers, strict=True)
            ]
            out.append(encodable("  ".join(padded).rstrip()) + "\n")
    return "".join(out)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same as a table of Markdown."""
    titles, *rest = (
        [encodable(cell.replace("|", "\\|")) for cell in line] for line in _one_line_cells(lines)
    )
    rule = ["---:" if right else "---" for right in _columns_of_numbers(lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, rule, *rest))


def write_csv(path: Path, lines: Sequence[Sequence[str]]) -> None:
    """Write the lines; bytes of names that are no UTF-8 as they are. Raises OSError."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows(_one_line_cells(lines))


def _one_line_cells(lines: Sequence[Sequence[str]]) -> Cells:
    return [[", ".join(cell.split("\n")) for cell in line] for line in lines]


def _columns_of_numbers(lines: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold numbers alone, below their titles."""
    return [all(_is_number(line[i]) for line in lines[1:]) for i in range(len(lines[0]))]


def _is_number(text: str) -> bool:
    try:
        return not text or float(text) is not None
    except ValueError:
        return False
