"""A real browser on a real server: the system's Chromium, driven by Playwright.

`page` is a tab of 1280 x 800 pixels whose addresses begin with `/#/`. It fails the test that used
it if the page wrote an error, or asked for anything that is not on this machine. It is the same tab
for all tests, as for a user; whatever needs a page that is loaded anew asks for `new_page()`.
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

SIZE = {"width": 1280, "height": 800}


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
        self.begin()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._read)
        page.on("request", lambda request: self.requests.append(request.url))

    def begin(self):
        """Forget what was."""
        self.errors, self.requests = [], []
        # One of the images is a link that leads out of the folder: its picture is refused.
        self._allowed = ["status of 403"]

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


@pytest.fixture(scope="session")
def context(browser, address):
    """What all tabs share: files of the page are read and compiled once."""
    opened = browser.new_context(base_url=address, viewport=SIZE)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def open_tab(context):
    """Opens a tab that nobody closes or checks."""
    return lambda: _tab(context)


def _tab(context):
    page = context.new_page()
    page.set_default_timeout(15000)
    page.watched = Watched(page)
    return page


@pytest.fixture
def new_page(context, address):
    """Opens tabs in which nothing is loaded: new_page(width=1280, height=800, scheme="light")."""
    opened = []

    def new(width=SIZE["width"], height=SIZE["height"], scheme="light"):
        page = _tab(context)
        opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        return page

    yield new
    for page in opened:
        page.close()
    for page in opened:
        page.watched.check(address)


@pytest.fixture(scope="session")
def tab(context):
    page = _tab(context)
    page.goto("/#/nowhere")
    page.wait_for_selector(".state")
    yield page
    page.close()


@pytest.fixture
def page(tab, address):
    """The tab that most tests share: addresses open views in the page that is already there."""
    tab.watched.begin()
    yield tab
    tab.unroute_all(behavior="ignoreErrors")
    tab.set_viewport_size(SIZE)
    tab.mouse.move(0, 0)
    tab.goto("/#/nowhere")
    tab.wait_for_selector(".state")
    tab.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    tab.watched.check(address)


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
