"""Frames of the explorer's map while it is dragged: python -m benchmarks.map [--points 20000]

Headless Chromium opens the page on generated points (or on --url, an explorer that runs), a button
is held down and every frame moves the pointer along a circle; printed are the times between frames
as the browser hands them out (at most 60 a second), and the processor time of all processes of the
browser, which other work on the machine hardly changes. By WebGL, in software where there is no
graphics card (pages then take Canvas by themselves), and by Canvas in a browser without WebGL.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.rounds import machine

SOURCE = Path(__file__).parents[1] / "src" / "ibot"
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
FLAGS = {"WebGL": [], "Canvas": ["--disable-3d-apis"]}
DRAG = """async (frames) => {
  const host = document.querySelector(".map-plot"), box = host.getBoundingClientRect();
  const frame = () => new Promise(requestAnimationFrame), times = [];
  for (let at = 0; at <= frames; at++) {
    times.push(await frame());
    const angle = at / 12, radius = 0.2 * box.height;
    host.dispatchEvent(new PointerEvent("pointermove", {
      pointerId: 1, pointerType: "mouse", bubbles: true, buttons: 1,
      clientX: box.left + box.width / 2 + radius * Math.sin(angle),
      clientY: box.top + box.height / 2 + radius * (1 - Math.cos(angle)) }));
  }
  return times.slice(1).map((time, at) => time - times[at]);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=300, help="of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="an explorer that runs, rather than generated points")
    options = parser.parse_args()
    print(machine())
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(served(Points(options.points)))
        for kind in FLAGS:
            for size, ratio in (((1280, 800), 1), ((360, 740), 2)):
                rounds = list(_measured(url, kind, size, ratio, options.frames, options.rounds))
                print(_told(kind, size, ratio, rounds))


def _measured(
    url: str, kind: str, size: tuple[int, int], ratio: float, frames: int, rounds: int
) -> Iterator[tuple[list[float], float]]:
    """Milliseconds between frames, and of processors a frame; rounds after one to warm up."""
    with browser(FLAGS[kind]) as context_of:
        page = context_of(size, ratio)
        page.goto(f"{url.rstrip('/')}/#/map?renderer={kind.lower()}")
        page.wait_for_selector(f'.map-plot[data-renderer="{kind}"]')
        page.wait_for_timeout(500)
        box = page.locator(".map-plot").bounding_box()
        assert box
        for turn in range(rounds + 1):
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.mouse.down()
            before = _processor_seconds()
            taken = page.evaluate(DRAG, frames if turn else 30)
            spent = 1000 * (_processor_seconds() - before) / len(taken)
            page.mouse.up()
            if turn:
                yield taken, spent


def _processor_seconds() -> float:
    """Of everything that this process has started and that still runs (Linux)."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            spent[int(folder.name)] = int(fields[11]) + int(fields[12])
    total, left = 0.0, list(children.get(os.getpid(), []))
    while left:
        process = left.pop()
        total += spent[process]
        left += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def _told(
    kind: str, size: tuple[int, int], ratio: float, rounds: list[tuple[list[float], float]]
) -> str:
    medians = [statistics.median(times) for times, _ in rounds]
    worst = [sorted(times)[int(0.95 * len(times))] for times, _ in rounds]
    spent = statistics.median(processor for _, processor in rounds)
    shown = " ".join(f"{value:.1f}" for value in medians)
    return (
        f"{kind}, {size[0]} x {size[1]} at {ratio:g}: median {statistics.median(medians):.1f} ms "
        f"({1000 / statistics.median(medians):.0f} frames a second; rounds {shown}), "
        f"worst 5 % above {statistics.median(worst):.1f} ms; {spent:.1f} ms of processors a frame"
    )


@contextlib.contextmanager
def browser(flags: list[str]) -> Iterator[partial[Page]]:
    """A headless browser; yields a function (size, pixels per CSS pixel) -> page."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *flags]
        )
        yield partial(_page, running)
        running.close()


def _page(running, size: tuple[int, int], ratio: float) -> Page:
    width, height = size
    return running.new_page(viewport={"width": width, "height": height}, device_scale_factor=ratio)


class Points:
    """What the explorer's server answers, on generated points."""

    def __init__(self, count: int, classes: int = 10) -> None:
        random = np.random.default_rng(0)
        self.count, self.labels = count, random.integers(0, classes, count)
        centres = random.uniform(0.15, 0.85, (classes, 2))
        places = centres[self.labels] + random.normal(0, 0.06, (count, 2))
        self.places = ((places - places.min(0)) / np.ptp(places, axis=0)).astype("<f4")
        self.words = (self.labels * 7 + random.integers(0, 7, count)) % 64
        self.outlier = random.beta(1, 8, count)
        self.classes = [f"class {number}" for number in range(classes)]

    def answer(self, path: str, query: dict[str, str]) -> tuple[str, bytes] | None:
        """(media type, body), or None for what is not there."""
        answers = {
            "/api/about": self._about,
            "/api/map/about": self._groups,
            "/api/images": partial(self._names, query),
        }
        if path in answers:
            return "application/json", json.dumps(answers[path]()).encode()
        if path == "/api/map":
            return "application/octet-stream", self.places.tobytes()
        if path == "/api/thumbs.jpg" or path.endswith("thumb.jpg"):
            count = len(query.get("ids", "0").split(","))
            return "image/jpeg", _sprite(count, int(query.get("px", 64)))
        return None

    def _about(self) -> dict:
        available = {"available": True, "why": ""}
        missing = {"available": False, "why": "Points are all there is here."}
        return {
            "title": "generated points", "run": None, "weights": "", "network": "none", "key": "",
            "images": {"root": "", "count": self.count, "readable": self.count, "classes": None},
            "checkpoints": [{"id": 0, "name": "step 1", "step": 1, "images_seen": 1}],
            "views": {name: missing for name in ("words", "image", "compare", "training")}
            | {"map": available},
            "state": "ready", "why": "", "notes": [], "exported": False,
        }  # fmt: skip

    def _groups(self) -> dict:
        return {
            "ids": None,
            "labels": self.labels.tolist(),
            "classes": self.classes,
            "class_words": self.words.tolist(),
            "outlier": self.outlier.tolist(),
            "methods": [
                {"id": "pca", "name": "principal components", "available": True, "why": ""}
            ],
        }

    def _names(self, query: dict[str, str]) -> dict:
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        ids = range(offset, min(offset + limit, self.count))
        labels = [self.classes[label] for label in self.labels[ids.start : ids.stop]]
        images = [
            {"id": i, "name": f"image {i}", "label": label}
            for i, label in zip(ids, labels, strict=True)
        ]
        return {"total": self.count, "images": images}


def _sprite(count: int, side: int) -> bytes:
    """A picture of `count` squares of random colours, eight to a row."""
    columns, rows = min(count, 8), -(-count // 8)
    colours = np.random.default_rng(count).integers(0, 255, (rows, columns, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours.repeat(side, 0).repeat(side, 1)).save(file, "JPEG")
    return file.getvalue()


@contextlib.contextmanager
def served(points: Points) -> Iterator[str]:
    """The page with these answers; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            split = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(split.query).items()}
            found = points.answer(split.path, query) or _file(split.path)
            self.send_response(200 if found else 404)
            kind, body = found or ("text/plain", b"")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _file(path: str) -> tuple[str, bytes] | None:
    name = path.rpartition("/")[2] or "index.html"
    folder = SOURCE / ("report" if name == "look.css" else "explore/page")
    file = folder / name
    return (KINDS[file.suffix], file.read_bytes()) if file.is_file() else None


if __name__ == "__main__":
    main()
