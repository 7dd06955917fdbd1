"""The addresses below /api, and who answers them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ibot.errors import IbotError
from ibot.explore.browser import (
    answers_image,
    answers_map,
    answers_training,
    answers_words,
    pictures,
)
from ibot.explore.browser.answers_compare import match, pair
from ibot.explore.browser.asked import MAX_TEXT, Asked, number
from ibot.explore.browser.guard import MAX_BYTES, too_large
from ibot.explore.browser.occurring import KINDS
from ibot.explore.browser.refusal import Refused, told
from ibot.explore.browser.session import Session

log = logging.getLogger("ibot")

SMALL, LARGE = 4, 1
"""Requests that are answered at a time: those that read files, and those that ask a network."""
FRESH = {"cache-control": "no-store"}
"""Browsers keep answers, some errors too: what has gone may come back."""
AGAIN = {"cache-control": "no-cache"}
GONE = 499
"""For a request whose browser waits no longer."""

Answer = Callable[[Session, Request, Asked], Any]
"""Returns what becomes JSON, or bytes of a JPEG, or a response."""


def api(session: Session) -> Starlette:
    """The application below /api; the session is ready."""
    small, large = anyio.CapacityLimiter(SMALL), anyio.CapacityLimiter(LARGE)
    routes = [
        *(_route(session, path, answer, small) for path, answer in SMALL_ANSWERS.items()),
        *(_route(session, path, answer, large) for path, answer in LARGE_ANSWERS.items()),
        Route("/drop", _drop(session, large), methods=["POST"]),
    ]
    handlers = {IbotError: refused, HTTPException: unknown, Exception: failed}
    return Starlette(routes=routes, exception_handlers=handlers)  # pyright: ignore[reportArgumentType]


def _route(session: Session, path: str, answer: Answer, limit: anyio.CapacityLimiter) -> Route:
    async def handle(request: Request) -> Response:
        asked = Asked(request.query_params)
        return await in_turn(request, limit, lambda: answer(session, request, asked))

    return Route(path, handle, methods=["GET"])


async def in_turn(
    request: Request, limit: anyio.CapacityLimiter, work: Callable[[], Any]
) -> Response:
    """The answer of `work`, in a thread, when it is its turn; none for those who left meanwhile."""
    async with limit:
        if await request.is_disconnected():
            return Response(status_code=GONE)
        # The limit is ours, so that a request gives way while it waits, not in a thread.
        return as_response(await anyio.to_thread.run_sync(work))


def as_response(answer: Any) -> Response:
    """JSON, or a picture, or the response itself."""
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, bytes):
        return Response(answer, media_type="image/jpeg", headers=AGAIN)
    return JSONResponse(answer, headers=FRESH)


async def refused(request: Request, error: Exception) -> Response:
    """What a user can mend, as JSON."""
    assert isinstance(error, IbotError)
    status, content = told(error)
    return JSONResponse(content, status, FRESH)


async def unknown(request: Request, error: Exception) -> Response:
    """An address that is none."""
    assert isinstance(error, HTTPException)
    content = {"error": "there is nothing at this address", "why": "", "fix": ""}
    return JSONResponse(content, error.status_code, FRESH)


async def failed(request: Request, error: Exception) -> Response:
    """Files that have gone, and mistakes of ours: the page is to stay alive."""
    if isinstance(error, OSError):
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return JSONResponse({"error": "a file cannot be read", "why": why, "fix": ""}, 410, FRESH)
    log.error("%s: %s: %s", request.url.path, type(error).__name__, error)
    content = {"error": "this could not be answered", "why": f"{type(error).__name__}: {error}"}
    return JSONResponse({**content, "fix": "see the terminal; other views may work"}, 500, FRESH)


def _c(asked: Asked, name: str = "c") -> int | None:
    """The checkpoint; None: the newest."""
    found = asked.number(name, -1)
    return None if found < 0 else found


def _image(session: Session, request: Request) -> str:
    return session.pictured().check(request.path_params["image"])


def _asked_image(session: Session, asked: Asked, name: str = "image") -> str:
    text = asked.text(name)
    if not text:
        raise Refused(400, f"{name} is missing")
    return session.pictured().check(text)


def _words(session: Session, request: Request, asked: Asked) -> Any:
    page = answers_words.Page(
        kind=asked.one_of("kind", KINDS),  # pyright: ignore[reportArgumentType]
        sort=asked.one_of("sort", answers_words.SORTS),
        falling=asked.flag("desc", True),
        min_images=asked.number("min_images", 0),
        label=asked.text("label"),
        offset=asked.number("offset", 0),
        limit=asked.number("limit", 48, 1, 500),
    )
    return answers_words.words(session, _c(asked), page)


def _word(session: Session, request: Request, asked: Asked) -> Any:
    word = number(request.path_params["word"], "the word")
    kind = asked.one_of("kind", KINDS)
    part = asked.number("offset", 0, 0, 100_000), asked.number("limit", 36, 1, 500)
    return answers_words.word(session, _c(asked), word, kind, *part)  # pyright: ignore[reportArgumentType]


def _mosaic(session: Session, request: Request, asked: Asked) -> Any:
    word = number(request.path_params["word"], "the word")
    kind = asked.one_of("kind", KINDS)
    count, side = asked.number("count", 9, 1, 100), _odd(asked)
    pixels = asked.number("px", 48, 8, 256)
    made = pictures.mosaic(session, _c(asked), word, kind, count, side, pixels)  # pyright: ignore[reportArgumentType]
    return Response(made, media_type="image/webp", headers=AGAIN)


def _window(session: Session, request: Request, asked: Asked) -> Any:
    image, patch = _asked_image(session, asked), asked.number("patch")
    side, pixels = _odd(asked), asked.number("px", 96, 8, 512)
    return pictures.window_picture(session, _c(asked), image, patch, side, pixels)


def _odd(asked: Asked) -> int:
    side = asked.number("side", 5, 1, 31)
    if side % 2 == 0:
        raise Refused(400, "side is to be odd", why="the patch stands in the middle")
    return side


def _pixels(session: Session, request: Request, asked: Asked) -> Any:
    image = _image(session, request)
    if asked.flag("view", True):
        return pictures.view_picture(session, _c(asked), image)
    return pictures.whole_picture(session, image)


def _thumb(session: Session, request: Request, asked: Asked) -> Any:
    return pictures.whole_picture(
        session, _image(session, request), asked.number("px", 128, 8, 512)
    )


def _thumbs(session: Session, request: Request, asked: Asked) -> Any:
    shelf = session.pictured()
    ids = [shelf.check(image) for image in asked.several("ids", 64)]
    return pictures.thumbnails(session, ids, asked.number("px", 64, 8, 256))


def _attention(session: Session, request: Request, asked: Asked) -> Any:
    return answers_image.attention(session, _c(asked), _image(session, request), _scale(asked))


def _features(session: Session, request: Request, asked: Asked) -> Any:
    over = asked.one_of("over", ("image", "set"))
    image = _image(session, request)
    return answers_image.features(session, _c(asked), image, _scale(asked), over)  # pyright: ignore[reportArgumentType]


def _scale(asked: Asked) -> int:
    return int(asked.one_of("scale", [str(scale) for scale in answers_image.SCALES]))


def _patch(session: Session, request: Request, asked: Asked) -> Any:
    image, patch = _asked_image(session, asked), asked.number("patch")
    return answers_image.patch(session, _c(asked), image, patch)


def _match(session: Session, request: Request, asked: Asked) -> Any:
    a, b = _asked_image(session, asked, "a"), _asked_image(session, asked, "b")
    c = _c(asked)
    cb = _c(asked, "cb")
    return match(session, c, c if cb is None else cb, a, b)


def _pair(session: Session, request: Request, asked: Asked) -> Any:
    return pair(session, _c(asked), _asked_image(session, asked, "a") if asked.text("a") else None)


def _map(session: Session, request: Request, asked: Asked) -> Any:
    found = answers_map.layout(session, _c(asked), asked.one_of("method", ("pca", "neighbours")))
    if isinstance(found, dict):
        return JSONResponse(found, 202)
    return Response(
        found.points.astype("<f4").tobytes(),
        media_type="application/octet-stream",
        headers={"x-count": str(len(found.points)), "x-method": found.method},
    )


def _images(session: Session, request: Request, asked: Asked) -> Any:
    return answers_image.images(
        session, asked.number("offset", 0), asked.number("limit", 48, 1, 500)
    )


SMALL_ANSWERS: dict[str, Answer] = {
    "/words": _words,
    "/word/{word}": _word,
    "/mosaic/{word}.webp": _mosaic,
    "/window.jpg": _window,
    "/thumbs.jpg": _thumbs,
    "/image/{image}/pixels.jpg": _pixels,
    "/image/{image}/thumb.jpg": _thumb,
    "/images": _images,
    "/search": lambda session, _, asked: answers_image.search(session, asked.text("q")),
    "/map": _map,
    "/map/about": lambda session, _, asked: answers_map.about(session, _c(asked)),
    "/training": lambda session, _, asked: answers_training.training(session),
    "/patch": _patch,
    # These may ask the network too, for images that were dropped; most are in the index.
    "/image/{image}": lambda session, request, asked: answers_image.image(
        session, _c(asked), _image(session, request)
    ),
}
LARGE_ANSWERS: dict[str, Answer] = {
    "/image/{image}/attention": _attention,
    "/image/{image}/features": _features,
    "/match": _match,
    "/pair": _pair,
    "/map/place": lambda session, _, asked: answers_map.place(
        session, _c(asked), _asked_image(session, asked)
    ),
}


def _drop(session: Session, limit: anyio.CapacityLimiter) -> Any:
    async def handle(request: Request) -> Response:
        name = unquote(request.headers.get("x-name", ""))[:MAX_TEXT] or "dropped image"
        content = await _body(request)

        def work() -> Any:
            image = session.pictured().drop(name, content)
            return answers_image.image(session, None, image)

        return await in_turn(request, limit, work)

    return handle


async def _body(request: Request) -> bytes:
    """The body, as far as it is allowed. Raises Refused for a longer one."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BYTES:
                raise too_large()
            parts.append(part)
    except ClientDisconnect:
        raise Refused(400, "the file did not come whole") from None
    if not size:
        raise Refused(400, "the file is empty")
    return b"".join(parts)
