import logging

import pytest

from ibot.errors import UserError
from ibot.system import machine
from ibot.system.processes import SLURM_PORTS, first_host, launched_processes, said_once

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "node[01-03,07]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[01-03,07]", "node01"),
        ("node7", "node7"),
        ("gpu-a,gpu-b", "gpu-a"),
        ("rack[1-2]n[003,5-9],login", "rack1n003"),
        ("a[10]b", "a10b"),
    ],
)
def test_the_first_of_slurms_hosts_is_found(nodes, first):
    assert first_host(nodes) == first


def test_tasks_of_srun_meet_at_the_first_node_and_at_a_port_of_the_job():
    got = launched_processes(STEP)
    assert (got.rank, got.world_size, got.local_rank, got.address) == (5, 8, 1, "node01")
    assert (
        got.port in SLURM_PORTS
        and got.port == launched_processes({**STEP, "SLURM_PROCID": "0"}).port
    )
    assert got.port != launched_processes({**STEP, "SLURM_JOB_ID": "4712"}).port
    assert got.port != launched_processes({**STEP, "SLURM_STEP_ID": "1"}).port
    own = launched_processes({**STEP, "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1234"})
    assert (own.address, own.port) == ("elsewhere", 1234)
    assert launched_processes({**STEP, "SLURM_STEP_NODELIST": "node[02-03]"}).address == "node02"
    nowhere = {key: value for key, value in STEP.items() if key != "SLURM_JOB_NODELIST"}
    assert launched_processes(nowhere).address == "10.0.0.9"


def test_a_task_that_sees_one_gpu_takes_it():
    assert launched_processes({**STEP, "CUDA_VISIBLE_DEVICES": "3"}).local_rank == 0
    assert launched_processes({**STEP, "CUDA_VISIBLE_DEVICES": "0,1"}).local_rank == 1


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "SLURM_NTASKS": "4",
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": "n1",
        },  # salloc without a step
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {
            "SLURM_NTASKS": "4",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_JOB_ID": "1",
        },  # a batch script
        {**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # the shell that salloc opens
        {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "", "MASTER_ADDR": ""},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": ""},
        {"SLURM_PROCID": "", "SLURM_NTASKS": "4"},
    ],
)
def test_a_command_that_nobody_launched_in_several_processes_is_one(environment):
    got = launched_processes(environment)
    assert (got.rank, got.world_size, got.is_main) == (0, 1, True)


def test_tasks_that_srun_starts_from_its_own_shell_are_several(monkeypatch):
    inherited = {**STEP, "SLURM_PTY_PORT": "4000"}
    monkeypatch.setattr(machine, "below_a_terminal", lambda: False)
    for rank in ("0", "5"):
        got = launched_processes({**inherited, "SLURM_PROCID": rank})
        assert (got.rank, got.world_size) == (int(rank), 8)
    # `srun -n 8 --pty bash`: the shells of the other tasks have ended.
    monkeypatch.setattr(machine, "below_a_terminal", lambda: True)
    assert launched_processes({**inherited, "SLURM_PROCID": "0"}).world_size == 1
    assert launched_processes(inherited).world_size == 8
    assert launched_processes({**STEP, "SLURM_PROCID": "0"}).world_size == 8, "no shell of srun"


def test_what_all_processes_see_alike_the_main_one_says(monkeypatch, caplog):
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        with said_once():
            logging.getLogger("ibot").warning("heads guessed by process %s", rank)
    logging.getLogger("ibot").warning("afterwards")
    assert [record.getMessage() for record in caplog.records] == [
        "heads guessed by process 0",
        "afterwards",
    ]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"RANK": "zero", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "RANK=zero is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "two", "MASTER_ADDR": "a"}, "WORLD_SIZE=two is not a number"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "p"},
            "MASTER_PORT=p is not a number",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK=x is not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "process 2 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({**STEP, "SLURM_JOB_ID": "4_1"}, "SLURM_JOB_ID=4_1 is not a number"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4(x2)"}, "SLURM_STEP_NUM_TASKS"),
    ],
)
def test_launch_variables_that_make_no_sense_are_named(changed, named):
    with pytest.raises(UserError) as told:
        launched_processes(changed)
    assert named in str(told.value)
