"""Processes that fail alone: they end the others, with the reason and the exit code."""

import os
import signal
import socket
import stat
import time
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from several import run_forked

from ibot.cli import main as command
from ibot.errors import IbotError, TrainingStopped, UserError
from ibot.system import watch
from ibot.system.launch import run_together
from ibot.system.processes import Processes
from ibot.system.watch import from_all, from_main


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Processes that do nothing need no second to meet the same error."""
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.4)


def in_several(body):
    """What `ibot` does in each of several processes with a command whose work is `body(rank)`."""

    def work(rank):
        try:
            return run_together(None, (), lambda: body(rank))
        except IbotError as error:
            return command._report(error)

    return work


def wait_for_ever():
    while True:
        time.sleep(60)  # as in a collective


def only(failing, act):
    return in_several(lambda rank: act() if rank == failing else wait_for_ever())


def refuse():
    raise UserError("the disk of this machine is gone", why="it was unplugged", fix="plug it in")


@pytest.mark.distributed
@pytest.mark.parametrize("failing", [0, 2])
def test_the_error_of_one_process_ends_all_and_is_printed_once(tmp_path, failing):
    codes, printed = run_forked(only(failing, refuse), tmp_path, count=3)
    assert codes == [2, 2, 2]
    assert "".join(printed).count("ibot: error: the disk of this machine is gone") == 1
    assert "why:  it was unplugged" in printed[0] and "plug it in" in printed[0]
    assert ("process 2 of 3" in printed[0]) == (failing == 2)


@pytest.mark.distributed
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_was_killed_ends_the_others_as_a_lack_of_resources(tmp_path, killed):
    codes, printed = run_forked(
        only(killed, lambda: os.kill(os.getpid(), signal.SIGKILL)), tmp_path
    )
    assert codes == ([-9, 4] if killed == 0 else [4, -9])
    assert f"process {killed} of 2" in printed[1 - killed] and "memory" in printed[1 - killed]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("act", "failing", "keeper", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 1, 0, 4),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 0, 1, 4),
        (refuse, 0, 0, 2),
        (refuse, 2, 0, 2),
    ],
)
def test_why_processes_ended_is_written_down_once(tmp_path, act, failing, keeper, code):
    def body(rank):
        def keep(failure):
            (tmp_path / f"kept{rank}").write_text(f"{failure.rank} {failure.code} {failure.host}")
            time.sleep(60)  # as on a disk that hangs

        with watch.kept_if_failed(keep):
            if rank == failing:
                act()
            wait_for_ever()

    codes, _ = run_forked(in_several(body), tmp_path, count=3)
    assert [file.name for file in tmp_path.glob("kept*")] == [f"kept{keeper}"]
    said = (tmp_path / f"kept{keeper}").read_text()
    assert said.startswith(f"{failing} {code} ") and codes.count(code) >= 2


def test_a_process_alone_keeps_why_its_body_failed_and_nothing_of_one_that_ended_well():
    kept = []
    with watch.kept_if_failed(kept.append):
        pass
    with pytest.raises(UserError), watch.kept_if_failed(kept.append):
        refuse()
    assert [(failure.code, failure.what, failure.fix) for failure in kept] == [
        (2, "the disk of this machine is gone", "plug it in")
    ]


def close_pipes():
    """By one of them `multiprocessing` knows that the process lives from which this one was
    forked.
    """
    for number in range(3, 256):
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.close(number)


@pytest.mark.distributed
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_noticed_although_a_process_that_it_forked_lives_on(tmp_path, killed):
    def fork_and_die():
        forked = os.fork()
        if forked == 0:
            close_pipes()
            time.sleep(60)
            os._exit(0)
        (tmp_path / "forked").write_text(str(forked))
        os.kill(os.getpid(), signal.SIGKILL)

    began = time.monotonic()
    codes, _ = run_forked(only(killed, fork_and_die), tmp_path)
    waited = time.monotonic() - began
    os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)
    assert codes == ([-9, 4] if killed == 0 else [4, -9]) and waited < 10


@pytest.mark.distributed
def test_ctrl_c_says_what_resumes_although_the_main_process_waits(tmp_path):
    def interrupt(rank):
        with watch.said_if_interrupted("the same command goes on"):
            if rank == 0:
                wait_for_ever()
            raise KeyboardInterrupt

    def work(rank):
        try:
            return in_several(interrupt)(rank)
        except KeyboardInterrupt:
            return 130

    codes, printed = run_forked(work, tmp_path)
    assert (
        codes == [130, 130] and printed[0].endswith("the same command goes on\n") and not printed[1]
    )


@pytest.mark.distributed
def test_a_bug_in_one_process_ends_the_others_too(tmp_path):
    def bug():
        raise ZeroDivisionError("a bug")

    def work(rank):
        try:
            return only(1, bug)(rank)
        except ZeroDivisionError:
            return 1  # as Python does after its traceback

    codes, printed = run_forked(work, tmp_path)
    assert (
        codes == [1, 1]
        and "ibot: error: ZeroDivisionError: a bug\n  from: process 1 of 2" in printed[0]
    )


@pytest.mark.distributed
def test_an_error_that_all_processes_meet_is_printed_once(tmp_path):
    def stopped(rank):
        time.sleep(0.3 * (1 - rank))
        raise TrainingStopped("the loss is not finite at step 7")

    codes, printed = run_forked(in_several(stopped), tmp_path)
    assert codes == [3, 3] and "".join(printed) == "ibot: error: the loss is not finite at step 7\n"


@pytest.mark.distributed
def test_what_is_asked_of_the_main_process_or_of_all_is_the_same_everywhere(tmp_path):
    def ask(rank):
        votes = from_all("protocol", f"problem {rank}" if rank else "")
        (tmp_path / f"heard{rank}").write_text(f"{from_main('step', 10 + rank)} {votes}")

    codes, printed = run_forked(in_several(ask), tmp_path)
    assert codes == [0, 0] and printed == ["", ""]
    assert [(tmp_path / f"heard{rank}").read_text() for rank in (0, 1)] == [
        "10 ['', 'problem 1']"
    ] * 2


@pytest.mark.distributed
def test_a_process_that_comes_late_to_the_launchers_store_is_heard(tmp_path, monkeypatch):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(watch, "CONNECT_SECONDS", 0.2)

    def work(rank):
        os.environ["MASTER_PORT"] = str(server.port)
        time.sleep(rank * 1.0)  # as long as importing torch takes more on the other node
        return only(1, refuse)(rank)

    codes, printed = run_forked(work, tmp_path)
    assert codes == [2, 2] and "process 1 of 2" in printed[0]


@pytest.mark.distributed
def test_strangers_at_the_port_take_nobodys_place(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "HELLO_SECONDS", 0.2)
    connect, strangers = watch._connect, []

    def after_strangers(hosts, port):
        for said in (b"", b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b'{"rank": 7}\n', b"\xff\n"):
            strangers.append(socket.create_connection(("127.0.0.1", port)))
            strangers[-1].sendall(said)
        return connect(hosts, port)

    monkeypatch.setattr(watch, "_connect", after_strangers)
    codes, printed = run_forked(only(1, refuse), tmp_path)
    assert codes == [2, 2] and "process 1 of 2" in printed[0]


def test_a_single_process_asks_nobody():
    assert from_main("step", 3) == 3 and from_all("protocol", "a problem") == ["a problem"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "knn: other processes did not end it"), ("no labels", "knn: no labels")],
)
def test_a_process_that_waits_in_vain_says_who_is_missing(monkeypatch, text, words):
    alone = SimpleNamespace(processes=Processes(0, 2), store=dist.HashStore())
    monkeypatch.setattr(watch, "_current", alone)
    monkeypatch.setattr(watch, "JOIN_TIMEOUT", timedelta(seconds=0.1))
    monkeypatch.setattr(watch, "VOTE_SECONDS", 0.1)
    with pytest.raises(UserError, match=words) as caught:
        from_all("knn", text)
    assert ("this process alone met it" in caught.value.why) == bool(text)
    assert ("has waited" in caught.value.why) != bool(text)


def test_other_processes_than_those_launched_cannot_be_asked_for(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="--processes 3 in one of 2 processes"):
        run_together(3, (), lambda: 0)
