"""A real browser on a real server: the system's Chromium, driven by Playwright.

`page` is a tab of 1440 x 900 pixels whose addresses begin with `/#/`. It fails the test that used
it if the page wrote an error, or asked for anything that is not on this machine.
"""

import http.client
import json
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import start_ibot


@pytest.fixture(scope="session")
def chromium():
    """The path of the browser."""
    pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Inside of containers there is no sandbox, and little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def address(chromium, run, images):
    """`http://127.0.0.1:PORT` of `ibot explore` on the run and the images, ready."""
    arguments = ("--data", images, "--port", 0, "--no-browser", "--device", "cpu")
    server = start_ibot("explore", run, *arguments)
    try:
        yield _ready(server)
    finally:
        server.kill()


def _ready(server, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, server.ended().stderr
        written = Path(server.folder.name, "stdout")
        found = re.search(r"http://[\d.:]+", written.read_text() if written.exists() else "")
        if found and _state(found[0]) == "ready":
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"not ready within {seconds} s")


def _state(address):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request("GET", "/api/about")
    return json.loads(connection.getresponse().read())["state"]


class Watched:
    """What a tab did that a user would not see."""

    def __init__(self, page):
        self.errors, self.requests = [], []
        # One of the images is a link that leads out of the folder: its picture is refused.
        self._allowed = ["status of 403"]
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._read)
        page.on("request", lambda request: self.requests.append(request.url))

    def _read(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def allow(self, text):
        """The browser itself writes an error for each answer that is one."""
        self._allowed.append(text)

    def check(self, address):
        unexpected = [e for e in self.errors if not any(text in e for text in self._allowed)]
        assert not unexpected
        inside = (address + "/", "data:", "blob:", "file:")
        assert [url for url in self.requests if not url.startswith(inside)] == []


@pytest.fixture
def new_page(browser, address):
    """Opens tabs: new_page(width=1440, height=900, scheme="light")."""
    opened = []

    def new(width=1440, height=900, scheme="light"):
        context = browser.new_context(
            base_url=address, viewport={"width": width, "height": height}, color_scheme=scheme
        )
        page = context.new_page()
        page.set_default_timeout(15000)
        page.watched = Watched(page)
        opened.append(page)
        return page

    yield new
    for page in opened:
        page.context.close()
    for page in opened:
        page.watched.check(address)


@pytest.fixture
def page(new_page):
    return new_page()


@pytest.fixture(scope="session")
def ask(address):
    """The server's own answer: ask("/api/words") -> JSON."""

    def get(path):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    return get


@pytest.fixture
def drop():
    """Drops a file on the page: drop(page, name, bytes)."""
    script = """([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        for (const type of ["dragenter", "dragover", "drop"])
            document.querySelector("main").dispatchEvent(new DragEvent(
                type, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    return lambda page, name, content: page.evaluate(script, [name, list(content)])
