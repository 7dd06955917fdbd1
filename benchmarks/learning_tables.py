"""Tables of docs/learning.md and docs/results.md from records.

    python -m benchmarks.learning_tables [--check]

Reads benchmarks/results/learning/*.jsonl. In a page a table stands between `<!-- table STUDY
COLUMN ... -->` and `<!-- end -->`, what a row gains over another one seed by seed between
`<!-- gain STUDY: ROW over ROW: COLUMN ... -->` and the same, k-NN on the way of a study's rows, a
number for each seed, between `<!-- curve STUDY -->` and the same; all else there is written by
hand. A cell is the mean over the seeds, with the half-width of its 95 % interval over them
(Student's t) from two seeds on.
`--check` writes nothing and ends with 1 where a page is not what the records give.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import RECORDS
from benchmarks.learning_studies import STUDIES
from ibot.system.jsonl import read_jsonl

PAGES = tuple(Path(__file__).parents[1] / "docs" / name for name in ("learning.md", "results.md"))
TABLE = re.compile(r"(<!-- table (\w+)((?: \S+)+) -->\n).*?(<!-- end -->)", re.DOTALL)
GAIN = re.compile(
    r"(<!-- gain (\w+): ([^:]+) over ([^:]+): ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL
)
CURVE = re.compile(r"(<!-- curve (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
T_95 = {1: 12.7, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t of a 95 % interval by degrees of freedom."""
WHOLE = ("images", "seconds")
"""Columns of whole numbers, without intervals."""
NAMES = {
    "knn_cls": "k-NN, class token",
    "knn_mean": "k-NN, mean patch",
    "knn_joined": "k-NN, joined patches",
    "linear_cls": "linear, class token",
    "linear_mean": "linear, mean patch",
    "match_r0": "match r 0",
    "match_r1": "match r 1",
    "dense_miou": "CamVid mIoU",
    "rank_cls": "rank, class token",
    "rank_patches": "rank, patches",
    "within_images": "share within images",
    "words_same": "words agree",
    "words_chance": "by chance",
    "words_match_r1": "match r 1 of words",
    "words_used": "words used",
    "words_per_image": "words per image",
    "words_entropy": "entropy, nats",
    "images": "images",
    "seconds": "s",
}


def table(rows: Sequence[Mapping[str, Any]], order: Sequence[str], columns: Sequence[str]) -> str:
    """Markdown: a line for each row of a study that has records, in the order of the study."""
    heads = ["", "seeds", *(NAMES.get(column, column) for column in columns)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in order:
        own = [row for row in rows if row["row"] == name]
        if own:
            cells = [_cell([row[c] for row in own if c in row], c in WHOLE) for c in columns]
            seeds = " ".join(str(seed) for seed in sorted(row["seed"] for row in own))
            lines.append(f"| {' | '.join([name, seeds, *cells])} |")
    return "\n".join(lines) + "\n"


def gains(rows: Sequence[Mapping[str, Any]], row: str, base: str, columns: Sequence[str]) -> str:
    """Markdown: a row's scores less those of another with the same seed, and their mean."""
    by_seed = [{r["seed"]: r for r in rows if r["row"] == name} for name in (row, base)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    heads = ["", *(f"seed {seed}" for seed in seeds), "mean"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for column in columns:
        found = [by_seed[0][seed][column] - by_seed[1][seed][column] for seed in seeds]
        cells = [NAMES.get(column, column), *(f"{value:+.1f}" for value in found), _cell(found)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def curves(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """Markdown: k-NN of the class token after so many images, a column for each row of a study with
    its seeds one after the other.
    """
    own = {name: [row for row in rows if row["row"] == name and row["curve"]] for name in order}
    own = {name: sorted(found, key=lambda r: r["seed"]) for name, found in own.items() if found}
    heads = ["images seen", *(f"{name}, seeds {_joined(found)}" for name, found in own.items())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    steps = sorted({int(images) for found in own.values() for r in found for images in r["curve"]})
    for images in steps:
        cells = [
            " / ".join(f"{row['curve'].get(str(images), '-')}" for row in found)
            for found in own.values()
        ]
        lines.append(f"| {images:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _joined(rows: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(str(row["seed"]) for row in rows)


def _cell(values: Sequence[float], whole: bool = False) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):,.{0 if whole else 1}f}"
    if whole or len(values) == 1:
        return mean
    half = T_95[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.1f}"


def page(text: str, records: Path = RECORDS) -> str:
    """The page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        head, study, columns, end = match.groups()
        rows = read_jsonl(records / f"{study}.jsonl")
        return head + table(rows, list(STUDIES[study].rows), columns.split()) + end

    def gained(match: re.Match[str]) -> str:
        head, study, row, base, columns, end = match.groups()
        rows = read_jsonl(records / f"{study}.jsonl")
        return head + gains(rows, row, base, columns.split()) + end

    def curved(match: re.Match[str]) -> str:
        head, study, end = match.groups()
        rows = read_jsonl(records / f"{study}.jsonl")
        return head + curves(rows, list(STUDIES[study].rows)) + end

    return CURVE.sub(curved, GAIN.sub(gained, TABLE.sub(made, text)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = page(before)
        if options.check and before != after:
            sys.exit(f"{path} is not what the records give")
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
