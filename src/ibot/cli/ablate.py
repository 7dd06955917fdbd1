"""`ibot ablate`: a table of the paper at the length the user chooses, beside the published
figures.
"""

from __future__ import annotations

import argparse
import difflib
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
from ibot.system.jsonl import read_jsonl
from ibot.system.launch import ENDED, code_of, forwarding


@dataclass(frozen=True, slots=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int
    folder: Path
    command: list[str]
    """Arguments of `ibot`; the same command resumes, and does nothing when the run is done."""


def run(options: argparse.Namespace) -> int:
    """Train every row with every seed, one after the other, and print the table; finished rows are
    kept.
    """
    if options.name not in ABLATIONS:
        width = max(map(len, ABLATIONS))
        print(
            "\n".join(
                f"{name:{width}}  {table.title} ({table.source})"
                for name, table in ABLATIONS.items()
            )
        )
        if options.name:
            nearest = difflib.get_close_matches(options.name, ABLATIONS, 1)
            fix = f"did you mean {nearest[0]}?" if nearest else "choose one of those above"
            raise ConfigError(f"unknown ablation '{options.name}'", fix=fix)
        return 0
    table = ABLATIONS[options.name]
    folder = Path(options.run_folder or f"runs/ablate-{options.name}")
    jobs = make_jobs(table, options, folder)
    if options.list:
        for job in jobs:
            print(shlex.join(["ibot", *job.command]))
        return 0
    if not options.data:
        raise DataError(
            "an ablation needs --data", fix="name a labelled folder, so that k-NN can be measured"
        )
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.row.name}, seed {job.seed}: {job.folder}", flush=True)
        if (code := _train(job, options.quiet or not sys.stdout.isatty())) is not None:
            return code
    text = render(table, options.name, jobs)
    (folder / "table.md").write_text(text)
    print(f"\n{text}\nwritten to {folder / 'table.md'}")
    return 0


def _train(job: Job, quiet: bool) -> int | None:
    """Train one row; the exit code of all where a signal stopped it. Raises IbotError where it
    failed.
    """
    name, stops = f"'{job.row.name}', seed {job.seed}", _stops(job.folder)
    ended, heard = _finished(
        [sys.executable, "-m", "ibot", *job.command, *(["--quiet"] if quiet else [])]
    )
    code = code_of(name, ended)
    if code in ENDED:
        return code
    if code:
        failed = IbotError(f"{name} failed", fix="mend the cause and run the same again")
        failed.exit_code = code
        raise failed
    if heard or _stops(job.folder) > stops:
        print("stopped by a signal; the same command goes on")
        return 0
    return None


def _finished(command: list[str]) -> tuple[int, bool]:
    """How a command ended, and whether a signal came: sent to this process alone, it is handed
    on.
    """
    started: list[int] = []
    with forwarding(lambda: started) as heard:
        # In a session of its own it does not hear the terminal too: a second Ctrl-C ends it before
        # it has saved.
        process = subprocess.Popen(command, start_new_session=True)
        started.append(process.pid)
        return process.wait(), bool(heard)


def _stops(run: Path) -> int:
    """How often a signal has stopped a run."""
    return sum(row["event"] == "stopped by signal" for row in read_jsonl(run / "events.jsonl"))


def make_jobs(table: Ablation, options: argparse.Namespace, folder: Path) -> list[Job]:
    """All rows with all seeds. The row's settings come last: they are what the table is about.

    Without images the commands say DIR in their place.
    """
    data = options.data or "DIR"
    length = [f"--steps={options.steps}"] if options.steps else []
    length += [f"--epochs={options.epochs:g}"] if options.epochs else []
    jobs = []
    named = any(text.startswith("method.tokenizer=") for text in options.settings)
    for row in table.rows:
        if "method.patch_target=frozen" in row.settings and not named:
            continue
        for seed in options.seeds:
            out = folder / f"{re.sub('[^a-z0-9.]+', '-', row.name.lower()).strip('-')}-s{seed}"
            command = [
                "pretrain",
                options.recipe,
                "--data",
                data,
                "--run",
                str(out),
                "--seed",
                str(seed),
            ]
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
        f"| row | published k-NN | linear | k-NN here, seeds {', '.join(map(str, seeds))} | mean "
        "| effective rank |",
        "|---|---|---|---|---|---|",
    ]
    start: list[float] = []
    for row in dict.fromkeys(job.row for job in jobs):
        measured = [results(job.folder) for job in jobs if job.row is row]
        scores = [rows[-1]["value"] for rows in measured if rows]
        start += [
            rows[0]["value"] for rows in measured if rows and rows[0]["extra"].get("step") == 0
        ]
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
    rows = read_jsonl(run / "results.jsonl")
    return [row for row in rows if row["metric"] == "knn_top1" and "step" in row["extra"]]
