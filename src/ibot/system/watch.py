"""Several processes end together: one that fails alone says why to the main process, which then
ends all others.

Otherwise they would wait in a collective for a process that never comes, until the collective gives
up. Every process holds a connection to the main one; a connection that breaks without a word
belongs to a process that was killed.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from ibot.errors import INTERRUPTED, IbotError, UserError
from ibot.system.failure import Failure
from ibot.system.portable import in_forked_child
from ibot.system.processes import Processes, launched_processes

log = logging.getLogger("ibot")

JOIN_TIMEOUT = timedelta(minutes=10)
"""For all processes to start: a queue may start them one by one, and each imports torch first."""
CONNECT_SECONDS = 20.0
"""For a connection to the main process, at each of its names."""
HELLO_SECONDS = 2.0
"""For a connected process to say which one it is; whatever else finds the port does not."""
GRACE_SECONDS = 1.0
"""For the main process to meet the same error by itself, as it does with most of them."""
WAIT_SECONDS = 3.0
"""For an answer of the main process, and for the reason of a collective that broke."""
LEAVE_SECONDS = 10.0
"""For the main process to print and end."""
KEEP_SECONDS = 2.0
"""For the reason to be written down; a disk that hangs holds no process back."""
VOTE_SECONDS = 15.0
"""For the others to come where this process has failed."""


class Watch:
    """The connection of this process with the main one; threads listen on it."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.store = _meet(processes)
        self._lock = threading.Lock()
        self._leaving = False
        self.hosts = [socket.gethostname()]
        """Of all processes, as far as they are known here: the main one knows all, each once."""
        self.keep: Callable[[Failure], None] | None = None
        """Writes down why the processes end, where there is a place for that."""
        self.last_words = ""
        """What the main process says where Ctrl-C ends it while it waits for the others."""
        self._heard, self._over = threading.Event(), threading.Event()
        self._others: list[socket.socket] = []
        self._listeners: list[threading.Thread] = []
        if processes.is_main:
            server = socket.create_server(("", 0), backlog=processes.world_size)
            self.store.set("watch", json.dumps([socket.gethostname(), server.getsockname()[1]]))
            self._accept(server)
        else:
            host, port = json.loads(self.store.get("watch"))
            connection = _connect((processes.address, host), port)
            if connection is not None:
                _send(connection, {"rank": processes.rank, "host": socket.gethostname()})
                self._others.append(connection)
                _in_background(self._follow, connection)

    def done(self) -> None:
        """Say that this process has done its part; the main process leaves last."""
        self._await_others(JOIN_TIMEOUT.total_seconds())
        if self._leave():
            self._tell({"done": True})

    def fail(self, error: BaseException) -> None:
        """Say why this process ends. `error.told` is set where the main process prints it."""
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            # Perhaps a collective that broke because another process failed: then that one's reason
            # comes now.
            time.sleep(WAIT_SECONDS)
        if not self._leave():
            time.sleep(WAIT_SECONDS)  # a thread is about to end this process
            return
        failure = Failure.of(error, self.processes.rank)
        self._tell({"failed": asdict(failure)})
        if self.processes.is_main:
            self._write_down(failure)
        elif self._heard.wait(WAIT_SECONDS):
            # Not before the main process: its collectives would break and hide the reason.
            self._over.wait(LEAVE_SECONDS)
            if isinstance(error, IbotError):
                error.told = True

    def let_go(self) -> None:
        """Close the connections here, in a copy of the process that listens on them."""
        for connection in self._others:
            with suppress(OSError):  # it is closed
                # Not `close`: that waits for the listener, whose thread was not copied.
                os.close(connection.detach())
        self._others.clear()

    def _leave(self) -> bool:
        """Whether nothing was said yet about the end of this process; from now on it was."""
        with self._lock:
            first, self._leaving = not self._leaving, True
        return first

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in list(self._others):
            _send(connection, message)

    def _await_others(self, seconds: float) -> None:
        """The main process: wait until the others have ended, or said that they will."""
        deadline = time.monotonic() + seconds
        for listener in self._listeners:
            listener.join(max(0.0, deadline - time.monotonic()))

    def _accept(self, server: socket.socket) -> None:
        """Let all others connect; they come at once, as all have met."""
        missing = list(range(1, self.processes.world_size))
        deadline = time.monotonic() + 2 * CONNECT_SECONDS
        with server, suppress(TimeoutError):
            while missing and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                connection, _ = server.accept()
                connection.settimeout(HELLO_SECONDS)
                messages = _messages(connection)
                hello = next(messages, {})
                rank, host = hello.get("rank"), str(hello.get("host"))
                if rank not in missing:  # a stranger
                    connection.close()
                    continue
                connection.settimeout(None)
                missing.remove(rank)
                if host not in self.hosts:
                    self.hosts.append(host)
                self._others.append(connection)
                lost = Failure.without_a_word(rank, host)
                self._listeners.append(_in_background(self._listen, connection, messages, lost))

    def _listen(self, connection: socket.socket, messages: Iterator[Any], lost: Failure) -> None:
        """The main process: hear how one of the others ends; without a word it is `lost`."""
        failure, last = lost, next(messages, {})
        if "done" in last:
            return
        if "failed" in last:
            failure = Failure(**last["failed"])
            _send(connection, {"heard": True})
        time.sleep(GRACE_SECONDS)
        if self._leave():
            self._tell({"failed": asdict(failure)})
            self._end(failure, say=True)

    def _follow(self, connection: socket.socket) -> None:
        """Another process: obey the main one, which ends first, so that its error is printed."""
        failure = None
        for message in _messages(connection):
            if "heard" in message:
                self._heard.set()
            elif "failed" in message:
                failure = Failure(**message["failed"])
                connection.settimeout(LEAVE_SECONDS)
            elif "done" in message:
                self._others.clear()
                return
        self._over.set()
        if self._leave():
            lost = failure or Failure.without_a_word(0, self.processes.address)
            self._end(lost, say=failure is None and self.processes.rank == 1)

    def _end(self, failure: Failure, say: bool) -> None:
        """End this process from a thread: the main thread may wait in a collective for ever."""
        with suppress(OSError, ValueError):  # whoever reads them may be gone
            if sys.stdout.isatty():
                print("\x1b[?25h")  # a progress bar hides the cursor
            sys.stdout.flush()
            if say:
                where = f"process {failure.rank} of {self.processes.world_size} on {failure.host}"
                print(f"ibot: error: {failure.text}\n  from: {where}", file=sys.stderr, flush=True)
            if failure.code == INTERRUPTED and self.last_words:
                print(self.last_words, file=sys.stderr, flush=True)
        if say:
            self._write_down(failure)
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(failure.code)

    def _write_down(self, failure: Failure) -> None:
        if self.keep is not None:
            _in_background(self.keep, failure).join(KEEP_SECONDS)


_current: Watch | None = None
_meetings, _groups = count(), count()
_servers: list[dist.Store] = []
"""Of meetings: the main process's would end with the last that refers to it, while others may be in
the next meeting already."""


def _let_go() -> None:
    """In a forked process: close the connections, or they would outlive its parent."""
    if _current is not None:
        _current.let_go()


in_forked_child(_let_go)


@contextmanager
def watched() -> Iterator[None]:
    """Processes that run the body end together; nothing for one alone, or inside another body."""
    global _current
    processes = launched_processes()
    if processes.world_size == 1 or _current is not None:
        yield
        return
    _current = Watch(processes)
    try:
        yield
        _current.done()
    except BaseException as error:
        _current.fail(error)
        raise
    finally:
        _current = None


@contextmanager
def kept_if_failed(keep: Callable[[Failure], None]) -> Iterator[None]:
    """`keep` gets why the body fails, or why its processes end meanwhile: once in all of them.

    It is called in the main process; where that one was lost, in another.
    """
    if _current is None:
        try:
            yield
        except BaseException as error:
            keep(Failure.of(error, 0))
            raise
        return
    _current.keep = keep
    yield
    _current.keep = None  # not after an error: `Watch.fail` comes to it, or to what caused it


def hosts() -> list[str]:
    """The machines of all processes that the main one has heard of; elsewhere one's own."""
    return _current.hosts if _current is not None else [socket.gethostname()]


@contextmanager
def said_if_interrupted(text: str) -> Iterator[None]:
    """The main process prints `text` on the error output where Ctrl-C ends the body."""
    if _current is not None and _current.processes.is_main:
        _current.last_words = text
    try:
        yield
    except KeyboardInterrupt:
        if launched_processes().is_main:
            print(text, file=sys.stderr)
        raise


def fresh_store() -> dist.Store | None:
    """A store of all processes in which nobody has written; None outside of `watched`.

    A group of processes that were one before would find there where they could be reached then, and
    wait for ever.
    """
    if _current is None:
        return None
    return dist.PrefixStore(f"group/{next(_groups)}", _current.store)


def from_main(name: str, value: int) -> int:
    """The main process's `value`; in a single process, or outside of `watched`, one's own."""
    if _current is None:
        return value
    if _current.processes.is_main:
        _current.store.set(name, str(value))
    return int(_current.store.get(name))


def from_all(name: str, text: str) -> list[str]:
    """`text` of every process by rank, without a collective; not empty means that this process
    failed at `name`.

    Then the others may be waiting elsewhere for it. Raises UserError if they do not come.
    """
    if _current is None:
        return [text]
    watch, names = _current, [f"{name}/{rank}" for rank in range(_current.processes.world_size)]
    watch.store.set(names[watch.processes.rank], text)
    try:
        watch.store.wait(names, timedelta(seconds=VOTE_SECONDS) if text else JOIN_TIMEOUT)
    except dist.DistStoreError:
        if text:
            raise UserError(f"{name}: {text}", why="this process alone met it") from None
        raise UserError(
            f"{name}: other processes did not end it",
            why=f"this one has waited {JOIN_TIMEOUT.total_seconds() / 60:g} minutes for them",
            fix="see what they say, then run the same command again",
        ) from None
    return [watch.store.get(name).decode() for name in names]


def _meet(processes: Processes) -> dist.Store:
    """The store at the address of the main process, or of torch's launcher, once all are there."""
    launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            processes.address,
            processes.port,
            processes.world_size,
            is_master=processes.is_main and not launched,
            timeout=JOIN_TIMEOUT,
            multi_tenant=not launched,
        )
        _servers.append(store)
        # The launcher's outlives a meeting, and the processes that it starts again.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"ibot/{attempt}/{next(_meetings)}", store)
        # A server waits for the others by itself, but nobody does at the launcher's.
        if store.add("here", 1) >= processes.world_size:
            store.set("all", "here")
        store.wait(["all"], JOIN_TIMEOUT)
        return store
    except RuntimeError as error:
        raise UserError(
            f"process {processes.rank} of {processes.world_size} did not meet the others",
            why=str(error).splitlines()[0],
            fix=f"were all started, and does MASTER_ADDR={processes.address} "
            f"MASTER_PORT={processes.port} fit?",
        ) from None


def _connect(hosts: tuple[str, ...], port: int) -> socket.socket | None:
    for host in hosts:
        with suppress(OSError):
            connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
            connection.settimeout(None)
            return connection
    log.warning(
        "port %d of %s cannot be reached: a process that fails will be noticed late", port, hosts[0]
    )
    return None


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the other end is gone
        connection.sendall(json.dumps(message).encode() + b"\n")


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What comes, until the connection ends or something else comes."""
    with suppress(OSError, ValueError), connection.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                return
            yield message


def _in_background(work: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread
