import os
import time

import pytest

from ibot.system import stopwatch
from ibot.system.stopwatch import Stopwatch


def burn(seconds):
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_laps_add_up_and_sleep_is_no_work():
    began, watch = time.perf_counter(), Stopwatch()
    burn(0.02)
    first = watch.lap()
    time.sleep(0.02)
    second = watch.lap()
    assert first >= 0.02 and second >= 0.02
    assert first + second <= time.perf_counter() - began
    assert 0.02 <= watch.busy() < first + 0.01


@pytest.mark.skipif(not stopwatch.SCHEDULED.is_file(), reason="the system does not tell")
def test_what_others_compute_on_the_same_core_is_waiting_for_a_core():
    """Two processes on one core: each has it half of the time, and waits for it in the other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        other = os.fork()
        if not other:
            burn(10)
            os._exit(0)
        watch = Stopwatch()
        burn(0.1)
        wall, busy, queued = watch.lap(), watch.busy(), watch.queued()
    finally:
        os.kill(other, 9)
        os.waitpid(other, 0)
        os.sched_setaffinity(0, cores)
    assert queued >= 0.05 and busy + queued == pytest.approx(wall, rel=0.1)


def test_where_the_system_does_not_tell_nothing_was_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(stopwatch, "SCHEDULED", tmp_path / "absent")
    assert Stopwatch().queued() == 0.0
