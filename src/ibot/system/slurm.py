"""Job scripts for SLURM: a training that saves before its time is over and queues itself again.

A script sets none of the variables by which processes find each other. `srun` gives each task its
own, and `ibot.system.processes` reads them: rank from SLURM_PROCID, meeting point from the list of
nodes, a port that follows from the number of the job. The one that it sets is of cores: since SLURM
22.05 `srun` does not take `--cpus-per-task` from the job, and a task would get a single core.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ibot.errors import ResourceError, UserError

SAVED_BEFORE = 300
"""Seconds before the end of the time at which the tasks are told to save."""
LATE = 60
"""Seconds by which SLURM may send a signal too early."""
TIME = re.compile(r"\d+(-\d+)?(:\d+){0,2}")
"""Minutes, minutes:seconds, hours:minutes:seconds, or days before any of them and a dash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked of SLURM."""

    name: str
    nodes: int = 1
    gpus: int = 8
    """Of each node, a process for each; 0: none, one process a node."""
    cpus: int = 12
    """Cores of each process."""
    time: str = "24:00:00"
    more: tuple[str, ...] = ()
    """Other options of sbatch, such as `partition=long`."""

    @property
    def tasks(self) -> int:
        """Processes of each node."""
        return max(1, self.gpus)


def job_script(job: Job, command: Sequence[str]) -> str:
    """The script that runs `command` in all processes of a job, and queues it again after a signal.

    Raises UserError for a time that SLURM does not read, or that leaves none to train in.
    """
    if not TIME.fullmatch(job.time):
        raise UserError(
            f"--time {job.time} is no time of SLURM", fix="such as --time 24:00:00, or 2-12 (days)"
        )
    signalled = any(option.removeprefix("--").startswith("signal") for option in job.more)
    if not signalled and 0 < seconds_of(job.time) <= SAVED_BEFORE + LATE:
        raise UserError(
            f"--time {job.time} leaves no time to train",
            why=f"the tasks are told to save {SAVED_BEFORE} seconds before its end, and the job "
            "would come back for ever",
            fix="such as --time 15 (minutes); a job that is done ends before",
        )
    options = [
        f"job-name={shlex.quote(job.name)}",
        f"nodes={job.nodes}",
        f"ntasks-per-node={job.tasks}",
        *([f"gpus-per-node={job.gpus}"] if job.gpus else []),
        f"cpus-per-task={job.cpus}",
        f"time={job.time}",
        "requeue",
        "open-mode=append",
        f"signal=USR1@{SAVED_BEFORE}",
        *(option.removeprefix("--") for option in job.more),
    ]
    head = "\n".join(f"#SBATCH --{option}" for option in options)
    return f"#!/bin/bash\n{head}\n\n{_CORES}\nsrun {shlex.join(command)}\n{_ENDING}"


def seconds_of(time: str) -> int:
    """Of a time that `TIME` matches; 0 is no limit."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not dash and len(parts) < 3:
        parts = [0, *parts]  # begins with minutes
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


_CORES = 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
"""Those of the job, for each task that srun starts."""
_ENDING = """\
code=$?
case $code in
75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $code
"""
"""Codes of what a signal ended: saved (`ibot.errors.STOPPED`), or before the first step."""


def submit(script: str) -> str:
    """Hand a script to sbatch; returns what it answers.

    Raises UserError where there is no sbatch, ResourceError where it refuses.
    """
    try:
        done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            "there is no sbatch here",
            why="SLURM's commands are on the machines from which jobs are submitted",
            fix="leave --submit out: the script is printed; run  sbatch job.sh  where they are",
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ResourceError("sbatch did not take the job", why=said[-1])
    return done.stdout.strip()
