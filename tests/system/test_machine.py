"""Shares of a machine: what torchrun and SLURM say of the processes that divide it."""

import os
import pty

import pytest

from ibot.errors import UserError
from ibot.system.machine import below_a_terminal, local_world_size, own_cores

TASK = {"SLURM_PROCID": "5", "SLURM_NTASKS": "11", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": ""}, 1),
        ({"LOCAL_WORLD_SIZE": "0"}, 1),
        ({"LOCAL_WORLD_SIZE": " 4 "}, 4),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "8", "LOCAL_WORLD_SIZE": "2"}, 2),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "8"}, 8),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "1"}, 4),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"}, 3),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "2,4", "SLURM_NODEID": "7"}, 4),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "", "SLURM_TASKS_PER_NODE": "4(x2)"}, 4),
        ({**TASK, "SLURM_TASKS_PER_NODE": "many", "SLURM_NTASKS_PER_NODE": "6"}, 6),
        (TASK, 1),
        # A batch script, and a shell inside of an allocation, are one process.
        (
            {
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "8",
                "SLURM_JOB_ID": "1",
                "SLURM_TASKS_PER_NODE": "8",
            },
            1,
        ),
        # Tasks that srun started from an interactive shell of its own are not.
        ({**TASK, "SLURM_PTY_PORT": "4000", "SLURM_STEP_TASKS_PER_NODE": "8"}, 8),
    ],
)
def test_the_processes_of_this_machine_are_counted(environment, count):
    assert local_world_size(environment) == count


def test_what_a_shell_starts_is_below_its_terminal():
    process, terminal = pty.fork()
    if process == 0:  # as the shell does, it leads there
        found = [below_a_terminal(), in_a_child(below_a_terminal), in_a_child(detached)]
        os._exit(0 if found == [False, True, False] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(terminal)


def detached():
    os.setsid()
    return in_a_child(below_a_terminal)


def in_a_child(asked):
    process = os.fork()
    if process == 0:
        os._exit(asked())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1


def test_a_count_that_is_no_number_is_named():
    with pytest.raises(UserError, match="LOCAL_WORLD_SIZE=four is not a number"):
        local_world_size({"LOCAL_WORLD_SIZE": "four"})


@pytest.mark.parametrize(
    ("usable", "environment", "cores"),
    [
        (12, {}, 12),
        (12, {"LOCAL_WORLD_SIZE": "4"}, 3),
        (2, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (64, {**TASK, "SLURM_TASKS_PER_NODE": "8"}, 8),
        (64, {**TASK, "SLURM_TASKS_PER_NODE": "8", "SLURM_CPUS_ON_NODE": "64"}, 8),
        # srun has bound the task to cores of its own
        (8, {**TASK, "SLURM_TASKS_PER_NODE": "8", "SLURM_CPUS_ON_NODE": "64"}, 8),
        # torchrun in a single task that is bound
        (8, {**TASK, "SLURM_CPUS_ON_NODE": "64", "LOCAL_WORLD_SIZE": "4"}, 2),
    ],
)
def test_the_cores_are_divided_once(monkeypatch, usable, environment, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(usable)))
    assert own_cores(environment) == cores
