"""Who may ask the explorer: this machine's browser, from the explorer's own page.

The server shows files of its user, so it is bound to this machine alone. That keeps out the
network, but not other pages in the same browser: those may send requests here, and with a name of
theirs that leads to 127.0.0.1 (rebinding) they might read the answers. So the name that the browser
used is checked, and where a request came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ibot.explore.browser.refusal import Refused, told

MAX_BYTES = 64 * 2**20
"""Of a file that is dropped on the page."""
HOSTS = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
METHODS = ("GET", "HEAD", "POST")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application that lets through to another what may be asked."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Refuse, or hand on with a limit on the body and headers on the answer."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            check(scope)
        except Refused as error:
            await _refuse(error, headed)
            return
        await self.app(scope, receive, headed)


def check(scope: MutableMapping[str, Any]) -> None:
    """Raise Refused for a request that is not the page's own."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not HOSTS.fullmatch(hosts[0]):
        raise Refused(
            403,
            "this name is not the explorer's",
            why="requests are answered for 127.0.0.1 and localhost only",
            fix="open the address that the command printed",
        )
    method, given = scope["method"], dict(headers)
    if method not in METHODS:
        raise Refused(405, f"{method} is not a request of the page")
    origin = given.get(b"origin")
    if method == "POST" and origin is not None and origin.lower() != b"http://" + hosts[0].lower():
        raise Refused(403, "the request comes from another page")
    site = given.get(b"sec-fetch-site", b"none")
    asked = scope["path"].startswith("/api") or method == "POST"
    if asked and site not in (b"same-origin", b"none"):
        raise Refused(403, "the request comes from another page")
    length = given.get(b"content-length", b"0")
    if method == "POST" and length.isdigit() and int(length) > MAX_BYTES:
        raise too_large()


def too_large() -> Refused:
    """For a body above the limit."""
    limit = MAX_BYTES // 2**20
    return Refused(413, "the file is too large", why=f"at most {limit} MiB are taken")


async def _refuse(error: Refused, send: Send) -> None:
    status, content = told(error)
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
