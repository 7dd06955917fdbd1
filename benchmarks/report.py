"""docs/performance.md from the records of benchmarks: python -m benchmarks.report [--check]

Reads benchmarks/results/*.json, which benchmarks write with `--json`, and *.jsonl. Every table has
the command that made it, the machine and the commit. `--check` writes nothing and ends with 1 where
the page is not what the records give.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
TITLES = {
    "step": "A training step against the published arithmetic",
    "plan": "What `ibot plan` forecasts, and what was measured",
    "small": "Small networks, images a second",
    "input": "Making views",
    "losses": "The losses alone",
    "step_gpu": "A training step on a GPU",
    "feed_gpu": "Feeding a GPU",
}
"""Of known benchmarks, in the order of the page; others follow by name."""
HIDDEN = ("rounds", "others", "ratios", "peaks_mib", "machine", "when", "commit", "command")
"""What a table of unknown rows leaves out: it is in the record."""
ELSEWHERE = ("waiting",)
"""Benchmarks whose table stands in docs/results.md, with what it means."""
HEAD = """# Performance

Made by `python -m benchmarks.report` from the records in `benchmarks/results/`: the figures are
theirs, nothing is added by hand. What they mean stands in [results.md](results.md#is-it-fast), what
was tried and did not help in [log.md](log.md).

How it is measured: the variants of a case run in turn in one process, in rotated order, and each
round gives a ratio; given are medians. Rounds in which other processes took more than a tenth of a
core are left out where three others remain. Where the rounds of a variant differ by more than 10 %,
something else was running: no result. Below 1.1 a ratio means no difference unless ten rounds
agree. Share: products by formula over the time, as a share of a 2048-cubed product beside it, in
GFLOP/s.
"""
NO_GPU = """
## A GPU

There is no figure of a GPU on this page: nobody has run the benchmarks on one. What is said of GPUs
elsewhere, by `ibot plan --device h200` too, is reckoned from data sheets and marked so. Whoever has
one: `bash benchmarks/gpu.sh DATA OUT` measures ViT-S, B, L and Swin-T with each fast path on and
off; its records belong into `benchmarks/results/`.
"""


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By benchmark: records with their rows, the newest first.

    Lines of *.jsonl of one day, machine, commit and command are one record.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        whole = json.loads(file.read_text())
        if isinstance(whole.get("rows"), list) and whole["rows"]:
            found.setdefault(whole.get("benchmark", file.stem), []).append(whole)
    for file in sorted(folder.glob("*.jsonl")):
        if file.stem in ELSEWHERE:
            continue
        grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for line in file.read_text().splitlines():
            row = json.loads(line)
            place = row.get("machine") or row.get("device") or ""
            about = (row.get("when", ""), place, row.get("commit", ""), row.get("command", ""))
            grouped.setdefault(about, []).append(row)
        for about, rows in grouped.items():
            record = dict(zip(("when", "machine", "commit", "command"), about, strict=True))
            found.setdefault(file.stem, []).append({**record, "rows": rows})
    for known in found.values():
        known.sort(key=lambda record: record.get("when", ""), reverse=True)
    return found


def page(folder: Path) -> str:
    """The whole page."""
    known = records(folder)
    names = [*[name for name in TITLES if name in known], *sorted(set(known) - set(TITLES))]
    parts = [HEAD]
    for name in names:
        parts.append(f"\n## {TITLES.get(name, name)}\n")
        parts += ["\n" + "\n".join(section(name, record)) + "\n" for record in known[name]]
    if not any(name.endswith("_gpu") for name in names):
        parts.append(NO_GPU)
    return "".join(parts)


def section(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """One record: where it is from, and its table."""
    yield " ".join(origin(record))
    yield ""
    rows = [normal(row) for row in record["rows"]]
    yield table(name, rows)


def origin(record: Mapping[str, Any]) -> Iterator[str]:
    """Command, machine, commit and day."""
    if record.get("command"):
        yield f"`{record['command']}`"
    else:
        yield "By an earlier version, which did not note its command:"
    yield f"{record.get('machine') or 'on a machine that was not noted'};"
    yield f"commit {record['commit']}," if record.get("commit") else "commit not noted,"
    yield f"{record.get('when') or 'day not noted'}."


def normal(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the names of today."""
    row = dict(row)
    if "median_seconds" in row:
        row["rounds"] = row.pop("seconds", [])
        row["seconds"], row["ratio"] = row.pop("median_seconds"), row.pop("published_over_this")
        peaks = row.pop("peak_mib", [])
        row["peaks_mib"] = peaks if isinstance(peaks, list) else [peaks]
    return row


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Of a step, its own; of all else the numbers and words of each row."""
    if name == "step":
        return _grid(*_steps(rows))
    if name == "plan":
        return _grid(PLANNED, [_planned(row) for row in rows])
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in HIDDEN))
    keys = [key for key in keys if all(not isinstance(row.get(key), list | dict) for row in rows)]
    heads = [key.replace("_", " ") for key in keys]
    return _grid(heads, [[_cell(row.get(key, "-")) for key in keys] for row in rows])


def _steps(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "variant", "s a step", "images/s", "published : this", "of each round"]
    heads += ["spread", "share of product rate", "resident MiB", "tensors MiB"]
    lines = []
    for row in rows:
        noise = row.get("verdict", "")
        times = [_cell(row["seconds"]), _cell(row["images_per_second"]), f"{row['ratio']:.2f}"]
        share = f"{row['share']:.0%} of {row['product_gflops']:.0f}" if "share" in row else "-"
        if noise:
            times, share = [noise, "-", "-"], "-"
        each = " ".join(f"{ratio:.2f}" for ratio in row.get("ratios", []))
        spread = f"{row['spread']:.0%}" if "spread" in row else "-"
        peaks = sorted({round(peak) for peak in row.get("peaks_mib", [])})
        peak = " to ".join(map(str, dict.fromkeys((peaks[0], peaks[-1])))) if peaks else "-"
        tensors = _cell(row.get("tensors_mib", "-"))
        lines.append([row["case"], row["variant"], *times, each, spread, share, peak, tensors])
    return heads, lines


PLANNED = (
    *("case", "precision", "batch", "plan, s", "measured, s", "plan : measured", "of each round"),
    *("spread of the measured", "random images : measured", "formula : measured"),
    *("formula, MiB", "measured, MiB", "formula : measured"),
)


def _planned(row: Mapping[str, Any]) -> list[str]:
    times = [f"{row[key]:.3g}" for key in ("plan_seconds", "seconds")]
    each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
    times += [f"{row['plan_ratio']:.2f}", each, f"{row['spread']:.0%}"]
    times += [f"{row[key]:.2f}" for key in ("probe_ratio", "formula_ratio")]
    sizes = [f"{row['formula_mib']:.0f}", f"{row['peak_mib']:.0f}", f"{row['memory_ratio']:.2f}"]
    of = [str(row[key]) for key in ("case", "precision", "batch")]
    return [*of, *times, *sizes]


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" if cells else rule for cells in (heads, [], *lines))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = "write nothing; end with 1 where the page is not up to date"
    parser.add_argument("--check", action="store_true", help=words)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--out", type=Path, default=PAGE, metavar="FILE")
    options = parser.parse_args()
    text = page(options.results)
    if not options.check:
        options.out.write_text(text)
        print(f"{options.out} from {sum(map(len, records(options.results).values()))} records")
    elif not options.out.is_file() or options.out.read_text() != text:
        sys.exit(f"{options.out} is not what the records give: python -m benchmarks.report")


if __name__ == "__main__":
    main()
