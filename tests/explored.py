"""A small run, images with names of all kinds, and what an explorer says of them."""

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image
from random_weights import VIT, write_random
from starlette.testclient import TestClient

from ibot.config.override import apply, to_plain
from ibot.eval.request import Request
from ibot.explore.browser.server import Explorer
from ibot.explore.browser.session import Session
from ibot.recipes import recipe

GRID, PATCHES, WORDS = (4, 4), 16, 10
NAMES = (
    "<img src=x onerror=alert(1)>.png",
    "quote\"and'.png",
    "line\nbreak.png",
    "emoji \U0001f600.png",
    "</script><b>.png",
    "separator\u2028.png",
    os.fsdecode(b"no utf-8 \xff.png"),
)
"""Files that a page must show as they are called; the first class holds them."""


def write_images(root):
    """Images of 32 to 45 pixels in the class folders a and b, and what is no image or leads out."""
    random = np.random.default_rng(0)

    def write(path, side=32):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((side + 5, side), Image.Resampling.BICUBIC).save(path, "PNG")

    for name in NAMES:
        write(root / "a" / name)
    for number in range(6):
        write(root / "b" / f"{number}.png", 32 + number)
    (root / "b" / "1_broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write(root.parent / "outside" / "secret.png")
    (root / "a" / "way_out.png").symlink_to(root.parent / "outside" / "secret.png")
    (root / "a" / "within.png").symlink_to(root / "b" / "0.png")
    return root


def write_run(run, steps=(2, 4)):
    """A run whose checkpoints are random networks; the later ones see more contrast."""
    config = apply(recipe("tiny32"), [*VIT, "head.out_dim=10", "head.patch_out_dim=10"])
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_plain(config)))
    (run / "events.jsonl").write_text('{"event": "start"}\n')
    for times, step in enumerate(steps, 1):
        add_checkpoint(run, step, times)
    return run


def add_checkpoint(run, step, times=1):
    """One more checkpoint, the newest."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    write_random(folder / "teacher.safetensors", *VIT, times=4 * times)
    (folder / "state.json").write_text(json.dumps({"step": step, "images_seen": 8 * step}))
    (run / "checkpoints" / "last").write_text(folder.name)


def explorer_of(weights, data="", **options):
    """An explorer with everything open. Raises what opening raises."""
    request = Request(weights=str(weights), data=str(data), device="cpu")
    explorer = Explorer(Session(request, **options))
    explorer.open()
    if explorer.error is not None:
        raise explorer.error
    return explorer


def client_of(explorer):
    """A browser of it."""
    return TestClient(explorer.app, "http://127.0.0.1:8420", raise_server_exceptions=False)


def until_there(client, address, seconds=150):
    """The answer to an address once it is no longer being computed."""
    end = time.monotonic() + seconds
    while (answer := client.get(address)).status_code == 202 and time.monotonic() < end:
        time.sleep(0.05)
    return answer


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The folder of images."""
    return write_images(tmp_path_factory.mktemp("explored") / "data")


@pytest.fixture(scope="session")
def run(tmp_path_factory, images):
    """A run of two checkpoints, both indexed."""
    from ibot.vocabulary.checkpoints import index_checkpoints

    run = write_run(tmp_path_factory.mktemp("run") / "run")
    request = Request(weights=str(run), data=str(images), device="cpu")
    index_checkpoints(request, "all", quiet=True)
    return run


@pytest.fixture(scope="session")
def explorer(run, images):
    explorer = explorer_of(run, images)
    yield explorer
    explorer.close()


@pytest.fixture(scope="session")
def client(explorer):
    return client_of(explorer)


def get_raw(app, address):
    """Status and body of a GET as it stands on the line: clients of libraries tidy addresses up."""
    path, _, query = address.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    apart(lambda: asyncio.run(app(scope, receive, send)))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def apart(work):
    """What `work` gives in a thread of its own: that of the tests may drive a browser."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def number_of(client, name):
    """The number of the image whose name ends so."""
    listed = client.get("/api/images?limit=500").json()["images"]
    return next(image["id"] for image in listed if image["name"].endswith(name))


def drop(client, content, name="own.png", **headers):
    return client.post("/api/drop", content=content, headers={"X-Name": quote(name), **headers})


__all__ = ["client", "explorer", "images", "run"]
