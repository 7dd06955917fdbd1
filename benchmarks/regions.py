"""Windows per second and peak memory of a picture in tiles, next to reading it whole.

python -m benchmarks.regions [FILE] [--side 20000] [--window 512] [--windows 64] [--json OUT]

Without a file one is written: smooth colours in JPEG tiles of 256 with levels reduced by 4 and 16.
"windows" reads random windows as the grid and evaluations do, "views" what 2 views of 224 and 10 of
96 pixels of random windows need and renders them, "large views" the same of windows of 2,048
pixels, from the level that suffices; "content" counts the tissue of windows. "whole" decodes the
picture once with Pillow, whatever is then cut out of it. Each way in a process of its own, which
tells its peak memory above that of its imports; rounds are those processes, in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.rounds import machine, shown, spread
from ibot.config.reading import Windows
from ibot.config.schema import AugmentConfig
from ibot.data.needed import in_parts, read_part
from ibot.data.params import view_params
from ibot.data.pixels import render
from ibot.data.sets.content import content
from ibot.data.sets.files import file_images
from ibot.data.sets.windows import windowed

WAYS = ("windows", "views", "large views", "content", "whole")
LARGE_WINDOW = 2048
TILE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default="", help="picture in tiles")
    parser.add_argument("--side", type=int, default=20000, help="of the picture that is written")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="", metavar="OUT")
    parser.add_argument("--way", default="", help="of a process that measures")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(Path(options.file), options)))
        return
    with tempfile.TemporaryDirectory() as place:
        file = Path(options.file) if options.file else written(Path(place), options.side)
        compare(file, options)


def compare(file: Path, options: argparse.Namespace) -> None:
    """Measure each way in turn, and say and write what came out."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    numbers = ["--window", str(options.window), "--windows", str(options.windows)]
    for turn in range(options.rounds):
        for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
            command = [sys.executable, "-m", "benchmarks.regions", str(file), *numbers]
            done = subprocess.run([*command, "--way", way], capture_output=True, check=True)
            rows[way].append(json.loads(done.stdout))
    print(f"{machine()}\n{file.name}, {file.stat().st_size / 2**20:.0f} MiB")
    records = []
    for way, found in rows.items():
        seconds = [row["seconds"] for row in found]
        count = int(found[0]["count"])
        peak = max(row["peak_mib"] for row in found)
        rate = count / float(np.median(seconds))
        unit = "pictures" if way == "whole" else "windows"
        rounds = shown([count / one for one in seconds])
        print(f"{way}: {rate:.3g} {unit}/s; rounds {rounds}; peak {peak:.0f} MiB")
        records.append(
            {
                "path": way,
                f"{unit}_per_second": rate,
                "spread": spread(seconds),
                "peak_mib": peak,
                "count": count,
            }
        )
    if options.json:
        about = {"machine": machine(), "window": options.window, "bytes": file.stat().st_size}
        Path(options.json).write_text(json.dumps({**about, "rows": records}, indent=1))


def measured(file: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, what was done in them, and MiB of memory above that of the imports."""
    import imagecodecs  # noqa: F401 - loaded before the memory is looked at
    import tifffile  # noqa: F401

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    ways: dict[str, Callable[[], int]] = {
        "windows": lambda: read_windows(file, options.window, options.windows),
        "views": lambda: make_views(file, options.window, options.windows),
        "large views": lambda: make_views(file, LARGE_WINDOW, options.windows),
        "content": lambda: count_content(file, options.window, options.windows),
        "whole": lambda: read_whole(file),
    }
    began = time.perf_counter()
    count = ways[options.way]()
    return {"seconds": time.perf_counter() - began, "count": count, "peak_mib": _peak() - before}


def read_whole(file: Path) -> int:
    """All pixels at once, without Pillow's own limit."""
    Image.MAX_IMAGE_PIXELS = None
    np.asarray(Image.open(file).convert("RGB"))
    return 1


def read_windows(file: Path, side: int, count: int) -> int:
    """Random windows, all of their pixels."""
    images = windowed(file_images(file.parent, [file.name]), Windows(side, count, at="random"))
    for index in range(count):
        images.read(index)
    return count


def make_views(file: Path, side: int, count: int) -> int:
    """Views of random windows, of what they need."""
    augment = AugmentConfig(num_local=10, jitter=0.0, gray=0.0)
    images = windowed(file_images(file.parent, [file.name]), Windows(side, count, at="random"))
    for index in range(count):
        part = read_part(images, index, augment, 0, 0)
        params = view_params(augment, 0, 0, np.array([index]), np.array([part.size]))
        render(part.pixels, in_parts(params, [part]), 0, augment)
    return count


def count_content(file: Path, side: int, count: int) -> int:
    """Share of tissue of random windows."""
    base = file_images(file.parent, [file.name])
    images = windowed(base, Windows(side, count, at="random"))
    for index in range(count):
        content(base, *images.place(index))
    return count


def written(folder: Path, side: int) -> Path:
    """A picture of smooth colours with its levels."""
    import tifffile

    rng = np.random.default_rng(0)
    tiles = [_smooth(rng) for _ in range(16)]

    def of(side: int) -> Iterator[np.ndarray]:
        for number in range((-(-side // TILE)) ** 2):
            yield tiles[number % len(tiles)]

    how = {"dtype": np.uint8, "tile": (TILE, TILE), "compression": "jpeg", "photometric": "rgb"}
    with tifffile.TiffWriter(folder / "picture.tif", bigtiff=True) as file:
        for part in (side, side // 4, side // 16):
            first = {"subifds": 2} if part == side else {"subfiletype": 1}
            file.write(of(part), shape=(part, part, 3), metadata=None, **how, **first)
    return folder / "picture.tif"


def _smooth(rng: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((TILE, TILE), Image.Resampling.BICUBIC))


def _peak() -> float:
    # Not ru_maxrss: that begins with what the parent process had.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
