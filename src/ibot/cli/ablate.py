"""`ibot ablate`: a table of the paper at the length the user chooses, beside the published figures."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.errors import ConfigError, DataError, IbotError
from ibot.recipes.ablations import ABLATIONS, Ablation, Row


@dataclass(frozen=True, slots=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int
    folder: Path
    command: list[str]
    """Arguments of `ibot`; the same command resumes, and does nothing when the run is done."""


def run(options: argparse.Namespace) -> int:
    """Train every row with every seed, one after the other, and print the table; finished rows are kept."""
    if options.name not in ABLATIONS:
        print("\n".join(f"{name:12}{table.title} ({table.source})" for name, table in ABLATIONS.items()))
        if options.name:
            raise ConfigError(f"unknown ablation '{options.name}'", fix="choose one of those above")
        return 0
    table = ABLATIONS[options.name]
    folder = Path(options.run_folder or f"runs/ablate-{options.name}")
    jobs = make_jobs(table, options, folder)
    if options.list:
        for job in jobs:
            print(shlex.join(["ibot", *job.command]))
        return 0
    if not options.data:
        raise DataError("an ablation needs --data", fix="name a labelled folder, so that k-NN can be measured")
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.row.name}, seed {job.seed}: {job.folder}", flush=True)
        quiet = ["--quiet"] if options.quiet or not sys.stdout.isatty() else []
        code = _finished([sys.executable, "-m", "ibot", *job.command, *quiet])
        if code:
            failed = IbotError(f"'{job.row.name}', seed {job.seed} failed", fix="mend the cause and run the same again")
            failed.exit_code = code
            raise failed
    text = render(table, options.name, jobs)
    (folder / "table.md").write_text(text)
    print(f"\n{text}\nwritten to {folder / 'table.md'}")
    return 0


def _finished(command: list[str]) -> int:
    """Exit code of a command."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the signal too, and saves
        raise


def make_jobs(table: Ablation, options: argparse.Namespace, folder: Path) -> list[Job]:
    """All rows with all seeds. The row's settings come last: they are what the table is about."""
    length = [f"--steps={options.steps}"] if options.steps else []
    length += [f"--epochs={options.epochs:g}"] if options.epochs else []
    jobs = []
    named = any(text.startswith("method.tokenizer=") for text in options.settings)
    for row in table.rows:
        if "method.patch_target=frozen" in row.settings and not named:
            continue
        for seed in options.seeds:
            out = folder / f"{re.sub('[^a-z0-9.]+', '-', row.name.lower()).strip('-')}-s{seed}"
            command = ["pretrain", options.recipe, "--data", options.data, "--run", str(out), "--seed", str(seed)]
            command += ["--val-data", options.val_data] if options.val_data else []
            command += ["--device", options.device] if options.device else []
            jobs.append(Job(row, seed, out, [*command, *length, *options.settings, *row.settings]))
    return jobs


def render(table: Ablation, name: str, jobs: list[Job]) -> str:
    """The table as Markdown: published figures, then k-NN and effective rank measured here."""
    seeds = sorted({job.seed for job in jobs})
    lines = [
        f"**{table.title}** (`ibot ablate {name}`; paper: {table.source})",
        "",
        f"| row | published k-NN | linear | k-NN here, seeds {', '.join(map(str, seeds))} | mean | effective rank |",
        "|---|---|---|---|---|---|",
    ]
    start: list[float] = []
    for row in dict.fromkeys(job.row for job in jobs):
        measured = [results(job.folder) for job in jobs if job.row is row]
        scores = [rows[-1]["value"] for rows in measured if rows]
        start += [rows[0]["value"] for rows in measured if rows and rows[0]["extra"].get("step") == 0]
        ranks = [rows[-1]["extra"]["effective_rank"] for rows in measured if rows]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        cells = [
            row.name,
            "-" if row.knn is None else f"{row.knn:.1f}",
            "-" if row.linear is None else f"{row.linear:.1f}",
            " / ".join(f"{score:.1f}" for score in scores) or "-",
            f"{statistics.mean(scores):.1f}{spread}" if scores else "-",
            f"{statistics.mean(ranks):.0f}" if ranks else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if start:
        lines.append(f"\nRandom network: {statistics.mean(start):.1f}.")
    if table.note:
        lines.append(f"\nNote: {table.note}.")
    return "\n".join(lines) + "\n"


def results(run: Path) -> list[dict[str, Any]]:
    """The k-NN records of a run, by step."""
    file = run / "results.jsonl"
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row["metric"] == "knn_top1" and "step" in row["extra"]]
