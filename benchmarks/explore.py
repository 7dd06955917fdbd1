"""Seconds until the explorer answers, and milliseconds of a click, with a real server on a port.

    python -m benchmarks.explore RUN --data DIR [--index DIR] [--clicks 100]

A click on a patch is what the page asks then: the word of the patch and its places, and the word
itself. Pictures are asked for by the browser beside it; the mosaic is timed apart.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.rounds import machine

PAGE = Path(__file__).parents[1] / "src" / "ibot" / "explore" / "page"


class Server:
    """The command in a process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "ibot", "explore", options.run, "--data", options.data]
        command += ["--index", options.index] if options.index else []
        command += ["--port", "0", "--no-browser", "--device", "cpu"]
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)/", self.process.stdout.readline())
        assert found, "the server did not start"
        self.connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=600)
        self.get("/")
        self.page_seconds = time.perf_counter() - began
        self.page_processor = self.processor()
        while json.loads(self.get("/api/about"))["state"] == "loading":
            time.sleep(0.05)
        self.ready_seconds = time.perf_counter() - began
        self.ready_processor = self.processor()

    def get(self, path: str) -> bytes:
        """The content at an address."""
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        content = response.read()
        assert response.status == 200, (path, content)
        return content

    def processor(self) -> float:
        """Seconds of processor time so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def peak_mib(self) -> float:
        """Largest resident memory so far, mapped files included (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]

    def end(self) -> float:
        """Seconds from Ctrl-C to the end."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return time.perf_counter() - began


def timed(server: Server, paths: list[str]) -> float:
    """Milliseconds of all of them, one after the other."""
    began = time.perf_counter()
    for path in paths:
        server.get(path)
    return 1000 * (time.perf_counter() - began)


def told(name: str, values: list[float]) -> None:
    ordered = sorted(values)
    last = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{name:18}{statistics.median(values):.0f} ms median, {last:.0f} ms at 95 %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--index", default="")
    parser.add_argument("--clicks", type=int, default=100)
    options = parser.parse_args()
    server = Server(options)
    print(f"machine           {machine()}")
    about = json.loads(server.get("/api/about"))
    count, patches = about["images"]["count"], about["grid"][0] * about["grid"][1]
    print(f"images            {count} of {patches} patches, {about['words']} words")
    print(
        f"page              {server.page_seconds:.2f} s ({server.page_processor:.2f} s processor)"
    )
    print(
        f"ready             {server.ready_seconds:.2f} s ({server.ready_processor:.2f} s processor)"
    )
    random = np.random.default_rng(0)
    clicks, images, mosaics = [], [], []
    began = server.processor()
    for _ in range(options.clicks):
        image, patch = int(random.integers(count)), int(random.integers(patches))
        images.append(timed(server, [f"/api/image/{image}"]))
        path = f"/api/patch?image={image}&patch={patch}"
        word = json.loads(server.get(path.replace(f"={patch}", f"={(patch + 1) % patches}")))
        clicks.append(timed(server, [path, f"/api/word/{word['word']}"]))
        mosaics.append(timed(server, [f"/api/mosaic/{word['word']}.jpg?count=9&px=64"]))
    spent = 1000 * (server.processor() - began) / options.clicks
    told("image", images)
    told("click", clicks)
    told("mosaic", mosaics)
    print(f"processor         {spent:.0f} ms for an image, two clicks and a mosaic together")
    told("words", [timed(server, [f"/api/words?offset={48 * i}"]) for i in range(10)])
    points = timed(server, ["/api/map?method=pca"])
    print(f"map               {points:.0f} ms by principal components")
    print(f"memory            {server.peak_mib():.0f} MiB peak, mapped files included")
    size = sum(path.stat().st_size for path in PAGE.iterdir() if path.is_file())
    print(f"page files        {size / 1024:.0f} KiB")
    print(f"Ctrl-C            {server.end():.2f} s")


if __name__ == "__main__":
    main()
