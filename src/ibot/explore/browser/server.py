"""The explorer's server: a page at once, and answers as soon as everything is open.

What takes long - torch, the images, the network - is loaded in a thread while the page is there.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibot.errors import MissingExtra, UserError
from ibot.explore.browser.guard import Guard
from ibot.explore.browser.one_file import LOOK, PAGE
from ibot.explore.browser.session import Session, about
from ibot.system.progress import print_notes
from ibot.words import encodable

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route
except ModuleNotFoundError as error:
    raise MissingExtra(str(error.name).partition(".")[0], "explore") from None

log = logging.getLogger("ibot")

HOST, PORT = "127.0.0.1", 8420
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Files of the page that are handed out, and what they are."""


class Explorer:
    """The application, and what it has open."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.error: BaseException | None = None
        """Why nothing could be opened."""
        self._api: Any = None
        self.app = Guard(
            Starlette(  # pyright: ignore[reportArgumentType]
                routes=[
                    Route("/", _file(PAGE / "index.html")),
                    Route("/look.css", _file(LOOK)),
                    *(Route(f"/page/{path.name}", _file(path)) for path in _files()),
                    Route("/api/about", self._about),
                    Mount("/api", self._answer),
                ]
            )
        )

    def open(self) -> None:
        """Open everything; whatever fails is told to the page, and kept as `error`."""
        session = self.session
        try:
            from ibot.explore.browser.opening import open_session

            open_session(session)
            from ibot.explore.browser.api import api

            self._api = api(session)
            session.state, session.why = "ready", ""
            about(session)  # reads the newest network, so that the first click need not wait
        except BaseException as error:
            session.state = "failed"
            session.why = str(error) or type(error).__name__
            self.error = error

    def close(self) -> bool:
        """End what still works for the page; whether some of it cannot be ended."""
        busy = self.session.state == "loading"
        for made in list(self.session.made.values()):
            if hasattr(made, "close"):
                made.close()
            busy |= not getattr(made, "done", True)
        return busy

    def _about(self, request: Request) -> Response:
        return JSONResponse(about(self.session), headers={"cache-control": "no-store"})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if self._api is not None:
            await self._api(scope, receive, send)
            return
        session = self.session
        content = {"error": "not ready yet", "why": session.why, "fix": "", "state": session.state}
        await JSONResponse(content, 503, {"retry-after": "1"})(scope, receive, send)


def _files() -> list[Path]:
    """Files of the page, as they are now: nothing else in its folder is handed out."""
    return sorted(path for path in PAGE.iterdir() if path.suffix in KINDS and path.is_file())


def _file(path: Path) -> Any:
    content = path.read_bytes()  # an upgrade may take the file away under a server that runs

    def handle(request: Request) -> Response:
        headers = {"cache-control": "no-cache"}
        return Response(content, media_type=KINDS[path.suffix], headers=headers)

    return handle


def serve(session: Session, port: int | None, *, browser: bool = True, quiet: bool = False) -> None:
    """Answer until Ctrl-C; the address is said, and the browser opened, once the page answers.

    port: None: the usual one, or a free one where that is taken.
    Raises UserError for a port that is taken, and what could not be opened.
    """
    explorer = Explorer(session)
    with _bound(port) as bound:
        address = f"http://{HOST}:{bound.getsockname()[1]}/"
        config = uvicorn.Config(
            explorer.app,  # pyright: ignore[reportArgumentType]
            log_level="error",
            access_log=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)

        def work() -> None:
            while not (server.started or server.should_exit):
                time.sleep(0.02)
            # It answers now: the page says what is still being opened.
            print(f"explorer:         {address}", flush=True)
            if browser and _has_display():
                webbrowser.open(address)
            explorer.open()
            if explorer.error is not None:
                server.should_exit = True
                return
            print_notes(session.lacking(), quiet)
            if not quiet:
                print("ready; end it with Ctrl-C", file=sys.stderr)

        try:
            if not quiet:
                named = filter(None, (session.request.weights, session.request.data))
                print(encodable(f"opening {' and '.join(named)}"), file=sys.stderr)
            threading.Thread(target=work, daemon=True).start()
            with _interrupted(lambda: setattr(server, "should_exit", True)):
                server.run(sockets=[bound])
        except KeyboardInterrupt:  # the way to end it
            pass
        finally:
            busy = explorer.close()
    if explorer.error is not None:
        raise explorer.error
    if not quiet:
        print("stopped", file=sys.stderr)
    if busy:
        # Threads inside of torch would abort when Python takes its memory from under them; an
        # index is whole up to its last rows, whenever this ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _interrupted(end: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `end` instead of being raised wherever it comes: in the middle of making its
    event loop, asyncio leaves a traceback. Outside of the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: end())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bound(port: int | None) -> socket.socket:
    """A socket of this machine alone. Raises UserError for a port that is taken."""
    try:
        return _listening(PORT if port is None else port)
    except OSError as error:
        if port is None:
            return _listening(0)
        what = f"port {port} cannot be used"
        fix = "name another with --port, or leave it out for a free one"
        raise UserError(what, why=error.strerror or str(error), fix=fix) from None


def _listening(port: int) -> socket.socket:
    # With its protocol named: else asyncio does not see that it is TCP, lets small writes wait for
    # each other, and every answer takes 40 ms more.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
        made.listen(64)
    except OSError:
        made.close()
        raise
    return made


def _has_display() -> bool:
    """Whether a browser can be shown."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
