"""A table of the paper at the length the user chooses, beside the published figures."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ibot.errors import STOPPED, IbotError
from ibot.recipes.ablations import ABLATIONS, PUBLISHED_PATCHES, Ablation, Row
from ibot.studies.measured import knn_by_step
from ibot.system.files import write_named
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


def make_jobs(
    table: Ablation,
    folder: Path,
    *,
    recipe: str,
    data: str,
    seeds: Sequence[int],
    shared: Sequence[str] = (),
) -> list[Job]:
    """All rows with all seeds, each in a folder below `folder`.

    What a recipe adds to the paper's patch loss is taken out first, so that rows are what they are
    called. `shared` are further arguments of all of them. The row's settings come last: they are
    what the table is about. Rows that need a tokenizer are left out where none is named.
    """
    named = any(text.startswith("method.tokenizer=") for text in shared)
    jobs = []
    for row in table.rows:
        if "method.patch_target=frozen" in row.settings and not named:
            continue
        for seed in seeds:
            run = folder / f"{re.sub('[^a-z0-9.]+', '-', row.name.lower()).strip('-')}-s{seed}"
            command = ["pretrain", recipe, "--data", data, "--run", str(run), "--seed", str(seed)]
            jobs.append(Job(row, seed, run, [*command, *PUBLISHED_PATCHES, *shared, *row.settings]))
    return jobs


def train_all(name: str, jobs: Sequence[Job], folder: Path, quiet: bool) -> int:
    """Train one job after the other, print the table `name` and write it into `folder`.

    Returns the exit code. Raises IbotError where a job failed.
    """
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.row.name}, seed {job.seed}: {job.folder}", flush=True)
        if (code := train(job, quiet)) is not None:
            return code
    text, file = render(ABLATIONS[name], name, jobs), folder / "table.md"
    write_named(file, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"\n{text}\nwritten to {file}")
    return 0


def train(job: Job, quiet: bool) -> int | None:
    """Train one row; the exit code of all where a signal stopped it, else None.

    Raises IbotError where it failed.
    """
    name, stops = f"'{job.row.name}', seed {job.seed}", _stops(job.folder)
    ended, heard = _finished(
        [sys.executable, "-m", "ibot", *job.command, *(["--quiet"] if quiet else [])]
    )
    code = code_of(name, ended)
    if code in ENDED:
        return code
    if code == STOPPED or (not code and (heard or _stops(job.folder) > stops)):
        print("stopped by a signal; the same command goes on")
        return STOPPED
    if code:
        failed = IbotError(f"{name} failed", fix="mend the cause and run the same again")
        failed.exit_code = code
        raise failed
    return None


def _finished(command: list[str]) -> tuple[int, bool]:
    """How a command ended, and whether a signal came: one to this process alone is handed on."""
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


def render(table: Ablation, name: str, jobs: Sequence[Job]) -> str:
    """The table as Markdown: published figures, then k-NN and effective rank measured here."""
    seeds = ", ".join(map(str, sorted({job.seed for job in jobs})))
    columns = ["row", "published k-NN", "linear", f"k-NN here, seeds {seeds}", "mean"]
    lines = [
        f"**{table.title}** (`ibot ablate {name}`; paper: {table.source})",
        "",
        f"| {' | '.join([*columns, 'effective rank'])} |",
        "|---|---|---|---|---|---|",
    ]
    start: list[float] = []
    for row in dict.fromkeys(job.row for job in jobs):
        measured = [found for job in jobs if job.row is row and (found := knn_by_step(job.folder))]
        start += [found[0].knn for found in measured if found[0].step == 0]
        scores = [found[-1].knn for found in measured]
        ranks = [rank for found in measured if (rank := found[-1].effective_rank) is not None]
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
