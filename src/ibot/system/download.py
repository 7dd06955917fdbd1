"""Files from the web by the standard library: gone on with, fetched by one process, whole or
absent.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ibot.errors import UserError
from ibot.system.files import disk_full, is_disk_full
from ibot.system.jsonl import write_json
from ibot.system.places import make_writable
from ibot.system.portable import lock, sync, unlock
from ibot.system.progress import counter

log = logging.getLogger("ibot")

TRIES = 4
"""Attempts in a row that bring nothing, before it is given up."""
WAIT = 2.0
"""Seconds before the second of them, twice as many before the third, and so on."""
POLL = 0.5
"""Seconds between two looks at whether another process has the file."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
PIECE = 2**20
_LOST = (URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)
"""What a connection ends with that is refused, breaks, or says nothing any more."""
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""Answers of servers to which the same question may get another one."""


def fetch(address: str, file: Path, title: str, check: Callable[[Path], object]) -> None:
    """Download a file, or wait for another process that does so; folders above it are made.

    What an interrupted attempt left in `.NAME.part` is gone on with, as far as the server says that
    the file is the same. Proxies are those of the environment (`https_proxy`, `no_proxy`).

    Args:
        address: http, https, or file.
        file: where to.
        title: what is downloaded, for progress and messages.
        check: raises UserError for what is not the file that was wanted, which is then deleted; it
            gets the whole file before that has its name.

    Raises:
        UserError: it cannot be had; what to copy where is said. ResourceError: the disk is full.
    """
    try:
        make_writable(file.parent)
    except OSError as error:
        raise _no_place(address, error) from None
    try:
        with _alone(file, title):
            if not file.is_file():
                _fetch_alone(_Part(address, file), title, check)
    except PermissionError as error:  # of what another user left in a folder that both may write to
        raise _no_place(address, error) from None


@dataclass(frozen=True, slots=True)
class _Part:
    """What is there of a file that is being fetched."""

    address: str
    file: Path

    @property
    def path(self) -> Path:
        return self.file.with_name(f".{self.file.name}.part")

    @property
    def about(self) -> Path:
        """What the server said of the file: its size, and a word by which it knows this version."""
        return self.file.with_name(f".{self.file.name}.part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def said(self) -> dict[str, Any]:
        """As `about` has it; empty where that belongs to another address or is not to be had."""
        try:
            said = json.loads(self.about.read_text())
            return said if said["address"] == self.address else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def _fetch_alone(part: _Part, title: str, check: Callable[[Path], object]) -> None:
    """Nobody else is at it. Raises as `fetch`."""
    _complete(part, title)
    try:
        check(part.path)
    except UserError:
        part.forget()
        raise
    sync(part.path)
    part.path.replace(part.file)
    sync(part.file.parent)
    part.forget()


def _complete(part: _Part, title: str) -> None:
    """Attempts until the file is whole. Raises as `fetch`."""
    idle, most, answered = 0, part.size(), False
    while True:
        try:
            if _receive(part, title):
                return
            why, answered = "the connection ended before the file did", True
        except HTTPError as error:
            why = f"the server answers {error.code} {error.reason}".splitlines()[0]
            if error.code not in _TEMPORARY:
                raise _out_of_reach(part, why) from None
            answered = True
        except _LOST as error:
            why = _reason(error)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(part.file.parent, resumes="it goes on with the download") from None
            raise
        # More than there ever was: a server that contradicts itself begins again without end.
        idle = 0 if part.size() > most else idle + 1
        most = max(most, part.size())
        # Where nothing ever came there is no network to wait for.
        if idle >= TRIES or not (most or answered):
            raise _out_of_reach(part, why)
        log.warning("%s: %s; trying again", title, why)
        time.sleep(WAIT * 2 ** (idle - 1) if idle else 0)


def _receive(part: _Part, title: str) -> bool:
    """One attempt to fetch what is missing; returns whether the file is whole."""
    held, said = part.size(), part.said()
    if held and held == said.get("bytes"):
        return True
    headers = {"User-Agent": "ibot", "Accept-Encoding": "identity"}
    if held and said.get("version"):  # without one the rest may be of another file
        # Of another version the whole file comes again.
        headers |= {"Range": f"bytes={held}-", "If-Range": said["version"]}
    try:
        answer = urlopen(Request(part.address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.forget()  # it is longer than the file, which is another one now
        return False
    with answer:
        begin = held if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = answer.headers.get("Content-Length") or ""
        whole = begin + int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        if begin and whole != said.get("bytes"):
            part.forget()
            return False
        if not begin:
            version = _version(answer.headers)
            part.path.unlink(missing_ok=True)  # before it is described as another's beginning
            write_json(part.about, {"address": part.address, "bytes": whole, "version": version})
        return _store(answer, part.path, begin, whole, title)


def _version(headers: Any) -> str:
    """The word by which a server knows a file again, byte for byte."""
    tag = headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def _store(answer: IO[bytes], path: Path, begin: int, whole: int | None, title: str) -> bool:
    """Write what comes behind the `begin` bytes that are there; returns whether that was all."""
    show, done = counter(f"{title}, MiB"), begin
    with path.open("ab" if begin else "wb") as out:
        while piece := answer.read(PIECE):
            out.write(piece)
            done += len(piece)
            show(done >> 20, (whole or done) >> 20)
    return whole is None or done == whole


def _reason(error: Exception) -> str:
    """What became of a connection, in a line."""
    cause = error.reason if isinstance(error, URLError) else error
    words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(words).splitlines()[0]


def _no_place(address: str, error: OSError) -> UserError:
    return UserError(
        f"'{address}' has no place to go to",
        why=f"{error.filename}: {error.strerror}",
        fix="name another folder for what is downloaded:  export XDG_CACHE_HOME=DIR",
    )


def _out_of_reach(part: _Part, why: str) -> UserError:
    """What to do by hand about a file that cannot be had."""
    held = part.size() if part.said().get("version") else 0
    kept = (
        f" ({held / 2**20:.1f} MiB are here, and the same command goes on from there)"
        if held
        else ""
    )
    return UserError(
        f"'{part.address}' cannot be downloaded",
        why=f"{why}{kept}",
        fix=f"fetch that address where there is a network, and copy the file to '{part.file}'",
    )


@contextmanager
def _alone(file: Path, title: str) -> Iterator[None]:
    """Wait for another process that fetches the same file, then keep others out."""
    told = False
    with file.with_name(f".{file.name}.lock").open("a") as held:
        while not _locked(held):
            if not told:
                log.warning("waiting for another process that downloads %s", title)
                told = True
            time.sleep(POLL)
        try:
            yield
        finally:
            with suppress(OSError):
                unlock(held)


def _locked(file: IO[str]) -> bool:
    """Take the lock if it is free, or there are none on its file system."""
    try:
        lock(file)
    except BlockingIOError:
        return False
    except OSError:
        pass  # two downloads are but a waste
    return True
