"""The job scripts of docs/cluster.md, as they stand there, with stand-ins for what a cluster has.

`srun` starts its tasks here with the variables of SLURM, `scontrol` notes what it is asked, `ssh`
runs its command on this machine. Words are only added at the end, so that trainings stay small; the
number of processes of each host is one here.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.system.jsonl import read_jsonl

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.S | re.M)
TRIED_HERE = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.S | re.M)
ONE_NODE, TWO_NODES, BY_SSH = range(3)
RUN = Path("runs/vit_b16")
ADDED = (
    "--device cpu --steps 400 train.batch=8 head.out_dim=32 head.patch_out_dim=32 "
    "augment.global_size=32 augment.num_local=0 system.workers=0 evaluate.match=0 log.every=1 "
    "log.tensorboard=false checkpoint.every='5 steps' model.width=24 model.depth=1 model.heads=2 "
    "head.hidden_dim=32 head.bottleneck_dim=16 train.precision=float32"
)
SECONDS = 30
"""Within which all end where one was killed."""

SRUN = """
import os, signal, subprocess, sys
count, each = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
nodes, tasks = count // each, []
for rank in range(count):
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each}
    step = {"SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": count}
    step["SLURM_CPUS_PER_TASK"] = os.environ.get("SRUN_CPUS_PER_TASK", 1)  # not the job's
    place = {"SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})"}
    given = {name: str(value) for name, value in {**own, **step, **place}.items()}
    words = [*sys.argv[1:], *__import__("shlex").split(os.environ["ADDED"])]
    tasks.append(subprocess.Popen(words, env={**os.environ, **given}))
with open("tasks.tmp", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
os.rename("tasks.tmp", "tasks")
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """
import sys
with open("asked", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
"""
SSH = """
import os, sys
command = sys.argv[-1].replace("--nproc-per-node=8", "--nproc-per-node=1")
os.execvp("bash", ["bash", "-c", f"{command} {os.environ['ADDED']}"])
"""
IBOT = "import sys; from ibot.cli.main import main; sys.exit(main())"
ENDS = "import os, sys; sys.exit(int(os.environ['CODE']))"
NOTES_CORES = "import os; open('cores', 'w').write(os.environ['SLURM_CPUS_PER_TASK'])"


def stand_in(place, name, code, options=" -IS"):
    """A command of this name, which needs nothing but the library of Python itself."""
    file = place / name
    file.write_text(f"#!{sys.executable}{options}\n{code}")
    file.chmod(0o755)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder with photos/, and the variables of a job of two tasks."""
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    for name, code in (("srun", SRUN), ("scontrol", SCONTROL), ("ssh", SSH)):
        stand_in(tmp_path / "bin", name, code)
    stand_in(tmp_path / "bin", "ibot", IBOT, options="")
    Path("photos").mkdir()
    random = np.random.default_rng()
    for i in range(16):
        levels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(levels).save(f"photos/{i}.png")
    there = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{there}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {
        "SLURM_JOB_ID": "4711",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "12",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_PROCID": "0",  # as in a batch script
        "MASTER_PORT": port,
        "ADDED": ADDED,
    }.items():
        monkeypatch.setenv(name, value)
    return port


def start(script, replaced=()):
    text = SCRIPTS[script]
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    Path("job.sh").write_text(text)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", "job.sh"], **pipes, start_new_session=True)


def ended(started, seconds=180):
    """Its exit code and what it said."""
    try:
        said = started.communicate(timeout=seconds)[0]
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    return started.returncode, said


def until_trained(started, step):
    """Wait until the run has done some steps; the number of its last one."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        rows = read_jsonl(RUN / "metrics.jsonl")
        if rows and rows[-1]["step"] > step:
            return rows[-1]["step"]
        assert started.poll() is None, ended(started)
        time.sleep(0.05)
    raise AssertionError(ended(started, 1))


def asked():
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


def test_the_page_has_a_script_for_a_node_for_several_and_for_ssh():
    assert len(SCRIPTS) == 3 and all(text.startswith("#!/bin/bash\n") for text in SCRIPTS)
    for text, nodes in zip(SCRIPTS, (1, 2, None), strict=False):
        wanted = [f"--nodes={nodes}", "--requeue", "--signal=USR1@300", "--open-mode=append"]
        assert nodes is None or all(f"#SBATCH {option}" in text for option in wanted)
    from ibot.errors import STOPPED

    assert f"| {STOPPED} |" in PAGE.read_text()


@pytest.mark.parametrize("script", [ONE_NODE, TWO_NODES])
def test_tasks_have_the_cores_that_the_job_asked_for(job, script):
    stand_in(Path("bin").absolute(), "ibot", NOTES_CORES)
    assert ended(start(script))[0] == 0
    assert Path("cores").read_text() == "12"


@pytest.mark.parametrize("script", [ONE_NODE, TWO_NODES])
@pytest.mark.parametrize("code", [0, 2, 3, 4, 75, 130, 138, 143])
def test_a_job_is_queued_again_after_a_signal_alone(job, monkeypatch, script, code):
    stand_in(Path("bin").absolute(), "ibot", ENDS)
    monkeypatch.setenv("CODE", str(code))
    assert ended(start(script))[0] == code
    assert asked() == (["requeue 4711"] if code in (75, 138, 143) else [])


@pytest.mark.distributed
@pytest.mark.slow  # starts and stops two processes twice
@pytest.mark.parametrize(
    ("script", "number"), [(ONE_NODE, signal.SIGUSR1), (TWO_NODES, signal.SIGTERM)]
)
def test_a_job_saves_at_a_signal_goes_back_into_the_queue_and_goes_on(
    job, monkeypatch, script, number
):
    if script == TWO_NODES:
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
        monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost,other")
    first = start(script)
    until_trained(first, 2)
    for task in Path("tasks").read_text().split():
        os.kill(int(task), number)
    code, said = ended(first)
    assert code == 75 and asked() == ["requeue 4711"], said
    assert "2 processes x 4" in said and "saved; the same command resumes it" in said
    stood = read_jsonl(RUN / "metrics.jsonl")[-1]["step"]
    state = json.loads(max(RUN.glob("checkpoints/step_*/state.json")).read_text())
    assert 2 < state["step"] == stood < 400
    monkeypatch.setenv("ADDED", ADDED.replace("--steps 400", f"--steps {stood + 5}"))
    code, said = ended(start(script))
    assert code == 0 and f"resumed from step {stood}" in said, said
    assert asked() == ["requeue 4711"]
    assert [row["step"] for row in read_jsonl(RUN / "metrics.jsonl")] == [*range(1, stood + 6)]


@pytest.mark.distributed
@pytest.mark.slow  # two processes, three times
def test_the_miniature_is_stopped_goes_on_and_ends_with_the_same_weights(job, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith(("SLURM", "MASTER"))]:
        monkeypatch.delenv(name)
    (shell, script), (python, code) = TRIED_HERE
    assert (shell, python) == ("sh", "python")
    Path("mini.sh").write_text(script)
    done = subprocess.run(["bash", "mini.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "code 75" in done.stdout, (done.stdout, done.stderr)
    assert "saved; the same command resumes it" in done.stdout
    assert "resumed from step" in done.stdout
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "True\n"


@pytest.mark.distributed
@pytest.mark.slow  # two launchers with a process each, twice
def test_two_hosts_by_ssh_end_together_where_one_lost_its_process_and_go_on(job, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "MASTER"))]:
        monkeypatch.delenv(name)
    here = [("host1 host2", "127.0.0.1 127.0.0.1"), ("29500", job)]
    first = start(BY_SSH, here)
    until_trained(first, 6)
    launchers = children(first.pid)
    assert len(launchers) == 2
    # The one whose process is not the main one, which holds the lock of the run.
    main = int((RUN / "lock").read_text().split()[1])
    workers = [worker for launcher in launchers for worker in children(launcher)]
    (other,) = [worker for worker in workers if worker != main and "ibot" in command_of(worker)]
    os.kill(other, signal.SIGKILL)
    code, said = ended(first, SECONDS)
    assert code == 1 and "a process was ended from outside" in said, said
    assert f"from: process 1 of 2 on {socket.gethostname()}" in said
    saved = int(max(RUN.glob("checkpoints/step_*")).name.removeprefix("step_"))
    monkeypatch.setenv("ADDED", ADDED.replace("--steps 400", f"--steps {saved + 7}"))
    code, said = ended(start(BY_SSH, here))
    assert code == 0 and f"resumed from step {saved}" in said, said
    assert [row["step"] for row in read_jsonl(RUN / "metrics.jsonl")] == [*range(1, saved + 8)]


def children(pid):
    """Numbers of the processes that one has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()
