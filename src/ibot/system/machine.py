"""What of its machine this process may take, beside the others that were started on it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from ibot.errors import UserError
from ibot.system.limits import core_limit
from ibot.system.portable import cores


def usable_cores() -> int:
    """Cores that the system lets this process run on, and a container lets it keep busy."""
    return max(1, math.ceil(min(len(cores()), core_limit() or math.inf)))


def threads_of_each(processes: int) -> int:
    """Threads for products in each of so many processes that share this machine's cores."""
    return max(1, usable_cores() // processes)


def own_cores(environment: Mapping[str, str] = os.environ) -> int:
    """This process's share of the cores, at least 1.

    Processes of one launcher share those that they may run on; srun may have bound each task to its
    own already.
    """
    given, usable = given_variables(environment), usable_cores()
    shared = usable
    if "LOCAL_WORLD_SIZE" not in given and started_by_srun(given) and "SLURM_CPUS_ON_NODE" in given:
        shared = max(usable, number(given, "SLURM_CPUS_ON_NODE"))
    return max(1, min(usable, shared // local_world_size(given)))


def local_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """Processes that were started together on this machine, this one included: torchrun's word,
    else SLURM's, else 1.

    Raises UserError for a variable that makes no sense.
    """
    given = given_variables(environment)
    if "LOCAL_WORLD_SIZE" in given:
        return max(1, number(given, "LOCAL_WORLD_SIZE"))
    if started_by_srun(given):
        for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"):
            counts = _tasks_of_nodes(given.get(name, ""))
            if counts:
                node = given.get("SLURM_NODEID", "0")
                known = node.isdecimal() and int(node) < len(counts)
                return max(1, counts[int(node)] if known else max(counts))
    return 1


def given_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that say something: empty ones count as absent."""
    return {name: value.strip() for name, value in environment.items() if value.strip()}


def started_by_srun(given: Mapping[str, str]) -> bool:
    """Whether this is a task of a job step, not a batch script or a shell in an allocation."""
    if not {"SLURM_PROCID", "SLURM_NTASKS"} <= given.keys() or _typed_in_task_0(given):
        return False
    # A batch script is task 0 of no step; a shell that salloc opened is a step of a single task.
    in_a_step = bool({"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"} & given.keys())
    by_hand = "SLURM_LOCALID" in given and "SLURM_JOB_ID" not in given
    return in_a_step or by_hand or given["SLURM_PROCID"] != "0"


def _typed_in_task_0(given: Mapping[str, str]) -> bool:
    """Whether somebody typed this in the shell that `srun -n 8 --pty bash` opened, whose other
    tasks have ended.

    Tasks that srun starts from such a shell inherit its variables, but not its terminal.
    """
    return given["SLURM_PROCID"] == "0" and "SLURM_PTY_PORT" in given and below_a_terminal()


def below_a_terminal() -> bool:
    """Whether this process has a terminal that somebody else leads: a shell."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return os.getsid(0) != os.getpid()


def number(given: Mapping[str, str], name: str) -> int:
    """A variable that must be a whole number; raises UserError."""
    if given[name].isdecimal():
        return int(given[name])
    raise UserError(
        f"{name}={given[name]} is not a number",
        why="a launcher sets it to say which of several processes this is",
        fix=f"unset {name} to run one process",
    )


def _tasks_of_nodes(text: str) -> list[int]:
    """Tasks of each node by SLURM's short form: `4(x2),3` -> [4, 4, 3]; empty for anything else."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(parts):
        return []
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]
