"""What the server is made of: turns, memory, work that takes long."""

import importlib
import shutil
import sys
import threading

import anyio
import pytest
from explored import apart
from starlette.testclient import TestClient

from ibot.errors import MissingExtra, UserError
from ibot.eval.request import Request
from ibot.explore.browser import answers_map, server
from ibot.explore.browser.api import GONE, in_turn
from ibot.explore.browser.asked import Asked
from ibot.explore.browser.jobs import Job
from ibot.explore.browser.kept import Kept
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session


class Waiting:
    """A request whose browser waits, or has left."""

    def __init__(self, left=False):
        self.left = left

    async def is_disconnected(self):
        return self.left


def test_requests_take_turns_and_those_who_left_cost_nothing():
    done, at_once, most = [], 0, 0
    lock = threading.Lock()
    first = threading.Event()

    def work(number):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        if number == 0:
            first.wait(10)
        done.append(number)
        with lock:
            at_once -= 1
        return {"number": number}

    async def asked():
        limit = anyio.CapacityLimiter(1)
        requests = [Waiting() for _ in range(6)]
        answers = {}

        async def ask(number):
            answers[number] = await in_turn(requests[number], limit, lambda: work(number))

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(ask, number)
                await anyio.sleep(0.01)
            for number in (2, 3, 4):  # the page moved on while they waited
                requests[number].left = True
            first.set()
        return answers

    answers = apart(lambda: anyio.run(asked))
    assert done == [0, 1, 5] and most == 1
    assert [answers[number].status_code for number in range(6)] == [200, 200, *[GONE] * 3, 200]


def test_what_was_used_longest_ago_goes_first():
    made = []

    def get(key):
        return kept.get(key, lambda: made.append(key) or bytes(40))

    kept = Kept(100, len)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert len(get(key)) == 40
    assert made == ["a", "b", "c", "b"]  # b went when c came, as a had been used since
    assert kept.bytes <= 100
    large = Kept(10, len)
    assert large.get("x", lambda: bytes(40)) is large.get("x", lambda: bytes(1))  # one is kept


def test_what_fails_is_kept_by_nobody():
    kept = Kept(100, len)
    with pytest.raises(ValueError, match="once"):
        kept.get("a", lambda: (_ for _ in ()).throw(ValueError("once")))
    assert kept.get("a", lambda: b"well") == b"well"


def test_a_job_tells_how_far_it_is_and_what_stopped_it():
    go = threading.Event()

    def make(progress):
        progress(1, 3)
        go.wait(10)
        return "made"

    job = Job("making", make)
    while job.state()["done"] == 0:
        pass
    assert job.get() is None
    assert job.state() == {"state": "computing", "done": 1, "total": 3, "why": "making"}
    go.set()
    job.wait(10)
    assert job.get() == "made"

    def fails(progress):
        raise UserError("no room")

    job = Job("making", fails)
    job.wait(10)
    with pytest.raises(UserError, match="no room"):
        job.get()


@pytest.mark.parametrize(
    "text", ["-1", "1.0", "1e2", " 1", "1 ", "٣", "0x1", "9" * 10, "NaN", "1_0"]
)
def test_numbers_are_read_strictly(text):
    with pytest.raises(Refused):
        Asked({"n": text}).number("n")


def test_parameters_have_defaults_and_limits():
    asked = Asked({"n": "7", "empty": "", "kind": "class", "ids": "1,2", "long": "x" * 301})
    assert asked.number("n") == 7 and asked.number("empty", 3) == asked.number("none", 3) == 3
    assert asked.one_of("kind", ("patch", "class")) == "class"
    assert asked.one_of("none", ("patch", "class")) == "patch"
    assert (
        asked.several("ids", 2) == ["1", "2"]
        and not asked.flag("none")
        and asked.flag("none", True)
    )
    for refused in (
        lambda: asked.number("none"),
        lambda: asked.number("n", 0, 8),
        lambda: asked.number("n", 0, 0, 6),
        lambda: asked.one_of("kind", ("patch",)),
        lambda: asked.several("ids", 1),
        lambda: asked.several("none", 1),
        lambda: asked.text("long"),
    ):
        with pytest.raises(Refused):
            refused()


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ibot.explore.browser.server", raising=False)
    with pytest.raises(MissingExtra, match="'uvicorn' is not installed") as missing:
        importlib.import_module("ibot.explore.browser.server")
    assert missing.value.fix.startswith('pip install "uvicorn>=')


def test_a_job_that_failed_is_started_anew():
    session, tries = Session(Request(weights="none")), []

    def make(progress):
        tries.append(1)
        if len(tries) == 1:
            raise UserError("no memory was left")
        return "made"

    def ask():
        return answers_map._made(session, "map", lambda: Job("making", make))

    with pytest.raises(UserError, match="no memory"):
        ask()
    assert ask() == ask() == "made" and len(tries) == 2


def test_the_page_stays_when_its_files_go(tmp_path, monkeypatch):
    """As when the package is upgraded under an explorer that runs."""
    page = shutil.copytree(server.PAGE, tmp_path / "page")
    monkeypatch.setattr(server, "PAGE", page)
    client = TestClient(
        server.Explorer(Session(Request(weights="none"))).app, base_url="http://localhost"
    )
    first = {path: (page / path).read_bytes() for path in ("index.html", "core.js", "style.css")}
    shutil.rmtree(page)
    assert client.get("/").content == first.pop("index.html")
    for path, content in first.items():
        assert client.get(f"/page/{path}").content == content
