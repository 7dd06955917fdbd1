"""Which of several processes this one is, by the variables of torchrun, SLURM or ours."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ibot.errors import UserError
from ibot.system.machine import given_variables, number, started_by_srun

TORCH_PORT = 29_500
"""Where torch's processes meet if nobody says where."""
SLURM_PORTS = range(10_000, 30_000)
"""Ports of jobs that name none; below those that systems hand out by themselves."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = ""
    """Host of the main process, where all meet."""
    port: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def launched_processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Read the launch variables of torchrun, else those of SLURM, else one process; empty ones
    count as absent.

    Raises UserError for variables that make no sense.
    """
    given = given_variables(environment)
    if "RANK" in given and "WORLD_SIZE" in given:
        rank, world_size = number(given, "RANK"), number(given, "WORLD_SIZE")
        local_rank = number(given, "LOCAL_RANK") if "LOCAL_RANK" in given else 0
    elif started_by_srun(given):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in given else "SLURM_NTASKS"
        rank, world_size = number(given, "SLURM_PROCID"), number(given, tasks)
        # Where each task sees one GPU of its own (--gpus-per-task), that is number 0.
        alone = given.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
        local_rank = 0 if alone or "SLURM_LOCALID" not in given else number(given, "SLURM_LOCALID")
    else:
        return Processes()
    if rank >= max(world_size, 1):
        raise UserError(
            f"process {rank} of {world_size} processes",
            why="the first is 0, see RANK and WORLD_SIZE",
        )
    if world_size <= 1:
        return Processes(0, 1, local_rank)
    return Processes(rank, world_size, local_rank, _address(given), _port(given))


@contextmanager
def said_once() -> Iterator[None]:
    """Within, warnings are about what all processes see alike: the main one alone says them."""
    log, silent = logging.getLogger("ibot"), not launched_processes().is_main
    if silent:
        log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _address(given: Mapping[str, str]) -> str:
    """Host of task 0, the first of the step's nodes; SLURM's launch address comes last."""
    if "MASTER_ADDR" in given:
        return given["MASTER_ADDR"]
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if name in given:
            return first_host(given[name])
    if "SLURM_LAUNCH_NODE_IPADDR" in given:
        return given["SLURM_LAUNCH_NODE_IPADDR"]
    raise UserError(
        "several processes, but no MASTER_ADDR",
        why="they do not know where to meet",
        fix="start them with --processes N, torchrun or srun, or export MASTER_ADDR (the first "
        "host) and MASTER_PORT",
    )


def first_host(nodes: str) -> str:
    """The first host of SLURM's short form: `node[01-03,07],login` -> `node01`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group() if first else nodes)


def _port(given: Mapping[str, str]) -> int:
    if "MASTER_PORT" in given:
        return number(given, "MASTER_PORT")
    if "SLURM_JOB_ID" not in given:
        return TORCH_PORT
    # Steps of a job, and jobs that share a node, meet at different ports.
    step = number(given, "SLURM_STEP_ID") if "SLURM_STEP_ID" in given else 0
    return SLURM_PORTS[(number(given, "SLURM_JOB_ID") + 101 * step) % len(SLURM_PORTS)]
