"""Images as points in two dimensions, by their class tokens.

As a program, `python -m ibot.explore.embedding TOKENS.npy POINTS.npy` makes the neighbour embedding
in a process of its own, so that it can be of low priority and end with the explorer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ibot.errors import MissingExtra, ResourceError
from ibot.system.files import replacing
from ibot.system.progress import Progress

SEED = 0
EARLY, LATE = 250, 500
"""Iterations with exaggerated attraction, and after them: openTSNE's own."""
PERPLEXITY = 30.0
LEAST = 8
"""Images of which neighbours say something."""
TELL = 10
"""Iterations between two words about progress."""


def unit(tokens: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [n, D] of length 1; of length 0 they stay."""
    rows = np.array(tokens, np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


@dataclass(frozen=True, slots=True)
class Axes:
    """The first two principal components of some rows."""

    mean: NDArray[np.float32]
    """float32 [D]."""
    directions: NDArray[np.float64]
    """float64 [D, 2]."""

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [n, D], these or others, along the axes: float32 [n, 2]."""
        return ((rows - self.mean) @ self.directions).astype(np.float32)


def axes_of(rows: NDArray[np.float32]) -> Axes:
    """The principal components of rows [n, D].

    The entry of largest size of each direction is positive, so the same rows give the same map.
    """
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = rows - mean
    scatter = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), 4096):  # in float64 a block at a time
        block = centred[start : start + 4096].astype(np.float64)
        scatter += block.T @ block
    directions = np.linalg.eigh(scatter)[1][:, ::-1][:, :2]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, [0, 1]])
    return Axes(mean, directions)


def principal(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first two principal components of rows [n, D]: float32 [n, 2]."""
    return axes_of(rows)(rows)


def framed(points: NDArray[np.floating], all_points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [m, 2] moved and reduced, both axes alike, as puts all points [n, 2] into 0..1."""
    low, high = all_points.min(axis=0), all_points.max(axis=0)
    side = max(float((high - low).max()), 1e-12)
    return ((points - (low + high) / 2) / side + 0.5).astype(np.float32)


def within_one(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [n, 2] moved and reduced, both axes alike, until all are in 0..1."""
    return framed(points, points).clip(0, 1)


def method() -> str:
    """Names the neighbour embedding: library, version, settings. Raises MissingExtra."""
    try:
        found = version("openTSNE")
    except PackageNotFoundError:
        raise MissingExtra("openTSNE", "explore") from None
    return f"openTSNE {found}, perplexity {PERPLEXITY:g}, cosine, seed {SEED}"


class Embedding:
    """The neighbour embedding as it is made in another process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(
        self, rows: NDArray[np.float32], file: Path | None, progress: Progress
    ) -> NDArray[np.float32]:
        """Points float32 [n, 2] of unit rows [n, D]; also written to `file`, if it can be.

        Raises ResourceError where the process ends without them.
        """
        with TemporaryDirectory(prefix="ibot-map-") as folder:
            given, made = Path(folder, "rows.npy"), Path(folder, "points.npy")
            np.save(given, rows)
            command = [sys.executable, "-m", "ibot.explore.embedding", str(given), str(made)]
            errors = Path(folder, "errors.txt")  # a pipe that nobody reads would fill
            with errors.open("w") as stderr:
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=stderr, text=True
                )
            with self._process as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.strip().isdigit():
                        progress(int(line), EARLY + LATE)
            said = errors.read_text(errors="replace").strip().splitlines()
            if process.returncode or not made.exists():
                raise ResourceError(
                    "the neighbour embedding could not be made",
                    why=said[-1] if said else f"its process ended with {process.returncode}",
                    fix="see the map by principal components",
                )
            points = np.load(made)
        if file is not None:
            # A map that cannot be kept is made again next time.
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as place, place.open("wb") as opened:
                    np.save(opened, points)
        return points

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def embed(
    rows: NDArray[np.float32], told: Callable[[int], None] = lambda done: None, jobs: int = 1
) -> NDArray[np.float32]:
    """The neighbour embedding of unit rows [n, D], n >= `LEAST`: float32 [n, 2]."""
    from openTSNE import TSNE

    count = 0

    def callback(iteration: int, error: float, points: NDArray[np.floating]) -> None:
        nonlocal count
        count += TELL
        told(min(count, EARLY + LATE))

    start = principal(rows).astype(np.float64)
    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)
    made = TSNE(
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),  # pyright: ignore[reportArgumentType]
        metric="cosine",
        initialization=start,  # pyright: ignore[reportArgumentType]
        early_exaggeration_iter=EARLY,
        n_iter=LATE,
        random_state=SEED,
        n_jobs=jobs,
        callbacks=callback,
        callbacks_every_iters=TELL,
    ).fit(rows)
    return np.asarray(made, np.float32)


def main() -> None:
    """Read rows, tell how many iterations are done, write points."""
    with suppress(OSError, AttributeError):
        os.nice(15)
    rows, out = np.load(sys.argv[1]), Path(sys.argv[2])
    points = embed(rows, lambda done: print(done, flush=True), jobs=os.cpu_count() or 1)
    with replacing(out) as place, place.open("wb") as file:
        np.save(file, points)


if __name__ == "__main__":
    main()
