"""What a million names cost: the start of a training, first and again, and memory of its workers.

python -m benchmarks.million SCRATCH [--images 1000000] [--folders 2000] [--workers 8] [--json FILE]

The listing is generated: hard links to 64 small JPEG files, in class folders; so a million names
take some 60 MB of folders and no pixels. It is kept in SCRATCH for the next time. The cache of
listings lies there too, in the place of the user's.

Each start is a process of its own. `names` are the seconds of all that a training does with the
names before its first step: opening (twice, as it does), hashing the names, classes, labels, and
the order of the first epoch. `pss_mib` is the proportional memory (PSS) of the main process and
its loader processes together, the highest of what is seen while batches come; `above` is what it is
more than with 1,000 names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from benchmarks.rounds import machine

PICTURES, SIDE, BATCH, BATCHES, FEW = 64, 48, 64, 60, 1000
SETTINGS = ("train.batch=64", "augment.num_local=2", "system.device=cpu")


def generate(folder: Path, images: int, folders: int) -> Path:
    """A folder of `images` names in class folders below `folder`; an earlier one serves again."""
    import numpy as np
    from PIL import Image

    place = folder / f"{images}-{folders}"
    if (place / "whole").exists():
        return place / "images"
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.jpg")
    for number in range(folders):
        (place / "images" / f"n{number:08d}").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        name = f"n{number % folders:08d}/n{number % folders:08d}_{number:07d}.jpg"
        with suppress(FileExistsError):
            os.link(pictures / f"{number % PICTURES}.jpg", place / "images" / name)
    time.sleep(3)  # until the folders count as settled
    (place / "whole").touch()
    return place / "images"


def proportional(processes: list[int]) -> float:
    """PSS of processes together, in MiB."""
    total = 0
    for number in processes:
        try:
            text = Path(f"/proc/{number}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return total / 1024


def family() -> list[int]:
    """This process and those that it has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [os.getpid(), *(int(number) for file in tasks for number in file.read_text().split())]


class Peak(threading.Thread):
    """The highest memory of the family, looked at again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.done = 0.0, threading.Event()

    def run(self) -> None:
        """Look until it is done."""
        while not self.done.wait(0.1):
            self.highest = max(self.highest, proportional(family()))


def start(data: str, workers: int) -> dict[str, float]:
    """What a training does before its first step, and some batches of it."""
    from ibot.data.loader import Loader
    from ibot.engine.loop import facts, mask_grid
    from ibot.studies.probes import labelled_sets
    from ibot.studies.settings import Asked, prepare

    asked = Asked("tiny32", (f"data.path={data}", f"system.workers={workers}", *SETTINGS))
    began = time.perf_counter()
    prepared = prepare(asked)
    config, source = prepared.config, prepared.source
    opened = time.perf_counter()
    labelled_sets(config, lambda text: None)
    for _ in range(3):  # the folder, the agreement of the processes, what is said
        facts(config, source, None)
    loader = Loader(config, source, grid=mask_grid(config), end_step=BATCHES)
    loader.dataset.indices(0, 0, 0)
    seconds = {"opened": opened - began, "names": time.perf_counter() - began}
    peak = Peak()
    peak.start()
    for number, _ in enumerate(loader):
        if number == 0:
            seconds["first_batch"] = time.perf_counter() - began
    peak.done.set()
    peak.join()
    return {**seconds, "images": len(source), "pss_mib": peak.highest}


def started(data: Path, workers: int, home: Path) -> dict[str, float]:
    """`start` in a process of its own, whose cache is in `home`."""
    command = [sys.executable, "-m", "benchmarks.million", "--start", str(data)]
    own = {**os.environ, "HOME": str(home)}
    done = subprocess.run(
        [*command, "--workers", str(workers)], env=own, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        print(json.dumps(start(options.start, options.workers)))
        return
    scratch, home = options.scratch.resolve(), options.scratch.resolve() / "home"
    few = generate(scratch, FEW, 10)
    many = generate(scratch, options.images, options.folders)
    for listing in home.glob(".cache/ibot/listings/*.listing"):
        listing.unlink()
    rows = {"1,000 names": started(few, options.workers, home)}
    for name in ("first start", "second start", "third start"):
        rows[name] = started(many, options.workers, home)
        rows[name]["above"] = rows[name]["pss_mib"] - rows["1,000 names"]["pss_mib"]
    print(machine())
    for name, row in rows.items():
        print(f"{name:14}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if options.json:
        record = {"machine": machine(), "workers": options.workers, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
