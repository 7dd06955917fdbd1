"""Job scripts for SLURM: a training that saves before its time is over and queues itself again.

A script sets none of the variables by which processes find each other. `srun` gives each task its
own, and `ibot.system.processes` reads them: rank from SLURM_PROCID, meeting point from the list of
nodes, a port that follows from the number of the job.
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

    Raises UserError for a time that SLURM does not read, or in which nothing would be trained.
    """
    if not TIME.fullmatch(job.time):
        raise UserError(
            f"--time {job.time} is no time of SLURM", fix="such as --time 24:00:00, or 2-12 (days)"
        )
    if 0 < seconds_of(job.time) <= SAVED_BEFORE:
        raise UserError(
            f"--time {job.time} is too short",
            why=f"{SAVED_BEFORE // 60} minutes before the end it saves and queues itself again: at "
            "once, for ever",
            fix="such as --time 1:00:00",
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
    return f"#!/bin/bash\n{head}\n\nsrun {shlex.join(command)}\n{_ENDING}"


def seconds_of(time: str) -> int:
    """A time of the form `TIME`; 0 is none at all for SLURM."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts.insert(0, 0)  # a number alone, or the first of two, are minutes
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


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
