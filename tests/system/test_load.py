"""The share of the cores that other processes take, from what the system tells of them."""

import os

import pytest

from ibot.system import load
from ibot.system.load import Load


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A maker of what two of four cores and a few processes have done so far, in ticks."""
    clock = {"now": 0.0}
    monkeypatch.setattr(load.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(load, "cores", lambda: [0, 2])
    tick = os.sysconf("SC_CLK_TCK")

    def tell(now, cores, processes):
        clock["now"] = now
        lines = ["cpu  9 9 9 9 9 9 9 9 0 0"]
        for number, seconds in enumerate(cores):
            # A third each of user and system, and stolen; 5 s idle and 7 s of waiting do not count.
            part = round(seconds * tick / 3)
            lines.append(f"cpu{number} {part} 0 {part} 500 700 0 0 {part} 0 0")
        tmp_path.joinpath("stat").write_text("\n".join([*lines, "intr 1"]))
        for pid, (parent, seconds) in processes.items():
            (tmp_path / str(pid)).mkdir(exist_ok=True)
            half = round(seconds * tick / 2)
            line = f"{pid} (a (b) c) S {parent} 1 1 0 -1 0 0 0 0 0 {half} {half} 0 0 20 0"
            (tmp_path / str(pid) / "stat").write_text(line)
        return tmp_path

    return tell


def test_what_this_process_and_those_below_it_take_is_not_others(proc):
    own = os.getpid()
    tree = {own: (1, 1.0), 900001: (own, 3.0), 900002: (900001, 0.0), 900003: (1, 50.0)}
    watched = Load(proc(10.0, [30.0, 99.0, 3.0, 0.0], tree))
    tree = {own: (1, 3.0), 900001: (own, 6.0), 900002: (900001, 3.0), 900003: (1, 60.0)}
    proc(20.0, [39.0, 999.0, 9.0, 70.0], tree)
    # Of 10 s on two cores 15 s at work, 8 s of them our own.
    assert watched.read() == pytest.approx((15 - 8) / 20, abs=0.01)
    proc(20.05, [50.0, 0.0, 20.0, 0.0], tree)
    assert watched.read() == pytest.approx(7 / 20, abs=0.01), "too soon to tell anew"
    proc(30.0, [45.0, 0.0, 9.0, 0.0], {own: (1, 9.0)})
    assert watched.read() == pytest.approx(0.0, abs=0.01), "all of it was ours"
    proc(40.0, [66.0, 0.0, 29.0, 0.0], {own: (1, 9.0)})
    assert watched.read() == 1.0


def test_nothing_is_claimed_where_no_system_tells(tmp_path):
    assert Load(tmp_path / "nowhere").read() == 0.0


def test_nothing_is_claimed_where_it_tells_of_other_cores(proc, monkeypatch):
    watched = Load(proc(10.0, [1.0, 1.0], {os.getpid(): (1, 1.0)}))
    assert watched.read() == 0.0
    monkeypatch.delattr(os, "sysconf")
    assert Load(proc(20.0, [30.0, 99.0, 3.0, 0.0], {})).read() == 0.0


def test_the_system_at_hand_gives_a_share():
    watched = Load()
    end = load.time.perf_counter() + 0.15
    while load.time.perf_counter() < end:
        pass
    assert 0.0 <= watched.read() <= 1.0
