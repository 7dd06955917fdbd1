"""Loader processes that cannot work, with real processes, files and signals."""

import gc
import logging
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
import torch
from torch.utils.data import Dataset

from ibot.data import workers
from ibot.data.workers import fitting, read_items
from ibot.errors import DataError, ResourceError

MIB = 2**20
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}


class Numbers(Dataset):
    """Small tensors; `strange` numbers do what is given to them instead."""

    def __init__(self, strange=None):
        self.strange = strange or {}

    def __len__(self):
        return 12

    def __getitem__(self, number):
        return self.strange[number]() if number in self.strange else torch.full((4,), number)


class Unsendable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("processes", [0, 2])
def test_items_come_in_order_and_an_error_among_them_is_raised(processes):
    assert [int(item[0]) for item in read_items(Numbers(), processes, 32, batch_size=None)] == list(
        range(12)
    )
    broken = read_items(Numbers({5: lambda: DataError("broken")}), processes, 32, batch_size=None)
    with pytest.raises(DataError, match="broken"):
        list(broken)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError(
                "unable to allocate shared memory(shm) for file </t>: No space left on device (28)"
            ),
            "is full",
        ),
        (OSError("AF_UNIX path too long"), "cannot hand over"),
        (FileNotFoundError(2, "No usable temporary directory found"), "cannot hand over"),
        (OSError(24, "Too many open files"), "cannot hand over"),
    ],
)
def test_what_a_worker_cannot_send_is_an_error_not_a_wait_for_ever(error, words):
    items = read_items(Numbers({3: lambda: Unsendable(error)}), 1, 32, batch_size=None)
    with pytest.raises(ResourceError, match=words) as caught:
        list(items)
    assert str(error) in caught.value.why and "system.workers=0" in caught.value.fix


@pytest.mark.parametrize(
    ("free", "expected"),
    [(None, (4, 4)), (100 * MIB, (4, 4)), (15 * MIB, (4, 2)), (7 * MIB, (3, 1)), (5 * MIB, (1, 1))],
)
def test_fewer_items_are_read_ahead_where_shared_memory_is_small(
    monkeypatch, caplog, free, expected
):
    monkeypatch.setattr(workers, "shared_memory", lambda: free)
    monkeypatch.setattr(workers, "BESIDE", (1.0, 0))
    with caplog.at_level(logging.WARNING, "ibot"):
        assert fitting(4, 4, MIB, held=4) == expected
    assert ("/dev/shm" in caplog.text) == (expected != (4, 4))


@pytest.mark.parametrize(
    "launched",
    [{"LOCAL_WORLD_SIZE": "4"}, {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}],
)
def test_shared_memory_is_divided_among_the_processes_of_a_machine(monkeypatch, launched):
    monkeypatch.setattr(workers, "shared_memory", lambda: 40 * MIB)
    monkeypatch.setattr(workers, "BESIDE", (1.0, 0))
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert fitting(2, 4, MIB, held=2) == (2, 4)
    with pytest.raises(ResourceError, match=r"shared memory \(/dev/shm\) is too small") as caught:
        fitting(2, 4, 4 * MIB, held=2)
    assert "10.0 MiB" in caught.value.why and "4.0 MiB" in caught.value.why
    assert "--shm-size=1g" in caught.value.fix and "system.workers=0" in caught.value.fix


def in_a_small_shm(size, code):
    """Run Python where /dev/shm is of this size."""
    place = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} -c '{code}'"
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", place], capture_output=True, text=True, timeout=100
    )


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="needs root for a mount of its own"
)
def test_shared_memory_that_fills_later_is_reported():
    code = """
import subprocess, torch
from torch.utils.data import Dataset
from ibot.data.workers import read_items
from ibot.errors import ResourceError
class Large(Dataset):
    def __len__(self): return 4000
    def __getitem__(self, number): return torch.zeros(500000, dtype=torch.uint8)
fill = "exec 2>/dev/null; while :; do head -c 100000 /dev/zero >> /dev/shm/other; done"
try:
    for number, item in enumerate(read_items(Large(), 1, 500000, batch_size=None)):
        if number == 5: other = subprocess.Popen(["bash", "-c", fill])
except ResourceError as error: print(error)
finally: other.kill()
"""
    done = in_a_small_shm("4m", code)
    assert "shared memory (/dev/shm) is full" in done.stdout and "No space left" in done.stdout, (
        done.stderr
    )


@pytest.mark.skipif(sys.platform != "linux", reason="what a process does is known on Linux only")
@pytest.mark.parametrize("processes", [0, 1])
def test_a_reader_that_is_stuck_is_named_with_its_file(monkeypatch, caplog, tmp_path, processes):
    """A pipe is a file that gives nothing for as long as one likes."""
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    pipe = tmp_path / "stuck.jpg"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", "exec sleep 60 > $0", pipe])
    items = read_items(
        Numbers({2: lambda: pipe.open("rb").read(1)}), processes, 32, batch_size=None
    )

    def free_it():
        while caplog.text.count("no images for") < 2:
            time.sleep(0.05)
        writer.kill()

    with caplog.at_level(logging.WARNING, "ibot"):
        thread = threading.Thread(target=free_it)
        thread.start()
        assert len(list(items)) == 12
        thread.join()
    writer.wait()
    assert f"'{pipe}' is open" in caplog.text and "sleeps" in caplog.text


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where the tests run behind a shell that has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopped_with_locks_held():
    """In a worker: stops it while it looks whether its reader is done."""
    time.sleep(0.3)  # what came before is on its way until then
    with ExitStack() as held:
        for found in gc.get_objects():
            if type(found) is multiprocessing.synchronize.Event:
                held.enter_context(found._cond)
        os.kill(os.getpid(), signal.SIGSTOP)
    return torch.zeros(4)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process does is known on Linux only")
def test_a_worker_that_was_stopped_with_a_lock_in_hand_does_not_keep_its_reader(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    items = read_items(Numbers({1: stopped_with_locks_held}), 1, 32, batch_size=None)
    next(items)
    (worker,) = multiprocessing.active_children()
    while workers._state(worker.pid) != "T":
        time.sleep(0.01)
    items.close()
    worker.join(10)
    assert worker.exitcode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="what a process does is known on Linux only")
def test_a_stopped_worker_is_named_and_ends_with_its_reader(interruptible, monkeypatch, caplog):
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    monkeypatch.setattr(
        torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5
    )  # how long torch waits for its end
    items = read_items(Numbers(), 1, 32, batch_size=None)
    next(items)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    # What was read ahead may still come; then this thread waits until it is told to stop.
    threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    with caplog.at_level(logging.WARNING, "ibot"), pytest.raises(KeyboardInterrupt):
        list(items)
    assert f"process {worker.pid} is stopped" in caplog.text
    worker.join(10)
    assert worker.exitcode is not None
