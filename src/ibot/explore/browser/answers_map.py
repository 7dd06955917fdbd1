"""Answers about the map of all images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

import ibot
from ibot.data.sets.images import LabelledImages
from ibot.errors import MissingExtra
from ibot.eval.context import ImagesContext
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import evenly
from ibot.eval.opened import opened
from ibot.explore.browser.answers_image import seen
from ibot.explore.browser.embedding import (
    LEAST,
    Embedding,
    axes_of,
    framed,
    method,
    principal,
    unit,
    within_one,
)
from ibot.explore.browser.jobs import Job
from ibot.explore.browser.occurring import listed
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.explore.comparisons import NEIGHBOURS
from ibot.explore.resemblance import outliers
from ibot.system.progress import Progress
from ibot.words import encodable

V = TypeVar("V")

MAX_POINTS = 20_000
"""Of a map; of more images so many are chosen evenly."""
PATIENCE = 0.5
"""Seconds in which small jobs are waited for, so that the page need not ask again."""


@dataclass(frozen=True, slots=True)
class Points:
    """The images of a map."""

    rows: NDArray[np.float32]
    """float32 [n, D], class tokens of length 1."""
    index: NDArray[np.int64]
    """int64 [n], their numbers in the set."""
    all_images: int
    """Of which they were chosen."""
    class_words: NDArray[np.int32] | None
    """int32 [n]."""


@dataclass(frozen=True, slots=True)
class Map:
    """Where images lie."""

    points: NDArray[np.float32]
    """float32 [n, 2], 0..1."""
    method: str


def layout(session: Session, c: int | None, how: str) -> Map | dict[str, Any]:
    """The map, or how far its making is. Raises Refused, MissingExtra."""
    found = points_of(session, c)
    if isinstance(found, Job):
        return found.state()
    name = session.checkpoint(c).name
    if how == "pca":
        return session.keep(
            f"pca {name}",
            lambda: Map(within_one(principal(found.rows)), f"principal components, {_ours()}"),
        )
    if len(found.rows) < LEAST:
        raise Refused(404, "there are too few images", why=f"{LEAST} are the least")
    words = method()
    made = _made(session, f"neighbours {name}", lambda: _embedding(session, c, found, words))
    return made.state() if isinstance(made, Job) else made


def about(session: Session, c: int | None) -> dict[str, Any]:
    """What is known of each point. Raises Refused."""
    found = points_of(session, c)
    if isinstance(found, Job):
        return found.state()
    images, count = session.images, len(found.index)
    labelled = isinstance(images, LabelledImages)
    whole = np.array_equal(found.index, np.arange(count))
    strange = _made(
        session,
        f"outliers {session.checkpoint(c).name}",
        lambda: Job("comparing images", lambda progress: _strangeness(found, progress)),
    )
    notes = []
    if unread := len(images) - found.all_images:
        notes.append(f"{unread} of {len(images)} cannot be read and are left out")
    if count < found.all_images:
        notes.append(f"{count} of {found.all_images} images, evenly chosen")
    return {
        "ids": f"0..{count - 1}" if whole else found.index.tolist(),
        "count": count,
        "labels": np.asarray(images.labels)[found.index].tolist() if labelled else None,
        "classes": [encodable(name) for name in images.classes] if labelled else None,
        "class_words": None if found.class_words is None else found.class_words.tolist(),
        "outlier": None if isinstance(strange, Job) else listed(strange),
        "outlier_state": strange.state() if isinstance(strange, Job) else None,
        "methods": _methods(count),
        "notes": notes,
    }


def place(session: Session, c: int | None, name: str) -> dict[str, Any]:
    """Where any image, one's own too, lies on the map of principal components.

    Coordinates are those of the map; outside of 0..1 it lies beyond all images. Raises Refused.
    """
    found = points_of(session, c)
    if isinstance(found, Job):
        return found.state()
    axes = session.keep(f"axes {session.checkpoint(c).name}", lambda: axes_of(found.rows))
    row = unit(seen(session, c, name).cls[None].float().cpu().numpy())
    return {"place": framed(axes(row), axes(found.rows))[0].tolist()}


def points_of(session: Session, c: int | None) -> Points | Job[Points]:
    """The images of the map, or the job that looks at them. Raises Refused."""
    checkpoint = session.checkpoint(c)
    if checkpoint.index is not None:
        return session.keep(f"points {checkpoint.name}", lambda: _from_index(session, c))
    return _made(
        session,
        f"points {checkpoint.name}",
        lambda: Job("looking at the images", lambda progress: _seen(session, c, progress)),
    )


def _made(session: Session, name: str, start: Callable[[], Job[V]]) -> V | Job[V]:
    """What a job makes, or the job while it does; one that failed is started anew next time.

    Raises what the job raised.
    """
    job: Job[V] = session.keep(name, start)
    job.wait(PATIENCE)
    try:
        made = job.get()
    except Exception:
        session.made.pop(name, None)
        raise
    return job if made is None else made


def _from_index(session: Session, c: int | None) -> Points:
    index = session.index(c)
    chosen = evenly(len(index.index), MAX_POINTS)
    rows = unit(index.cls[chosen])
    class_words = np.asarray(index.class_words[chosen])
    return Points(rows, index.index[chosen], len(index.index), class_words)


def _seen(session: Session, c: int | None, progress: Progress) -> Points:
    """Class tokens of all images, from the cache of features where they are there."""
    request = replace(session.request, weights=str(session.place(c)))
    with opened(ImagesContext, request, quiet=True) as context:
        told = replace(context, counter=lambda name: progress)
        features = told.feature_sets(context.images, "images")[CLASS_TOKEN]
        chosen = evenly(len(features.index), MAX_POINTS)
        rows = unit(features.rows[torch.from_numpy(chosen)].numpy())
    return Points(rows, features.index[chosen], len(features.index), None)


def _embedding(session: Session, c: int | None, found: Points, words: str) -> Job[Map]:
    """The job that makes the neighbour embedding, or reads it where it lies."""
    digest = hashlib.sha256(words.encode() + found.index.tobytes() + found.rows.tobytes())
    file: Path | None = None
    if session.vocabulary is not None:
        file = session.vocabulary.folder / "maps" / f"{digest.hexdigest()[:16]}.npy"
    maker = session.keep("embedding", Embedding)

    def make(progress: Progress) -> Map:
        points = None
        if file is not None and file.exists():
            points = _read(file, len(found.rows))
        if points is None:
            points = maker(found.rows, file, progress)
        return Map(within_one(points), words)

    return Job("placing neighbours beside each other", make)


def _read(file: Path, count: int) -> NDArray[np.float32] | None:
    """Points that were kept; None for a damaged file."""
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return points if points.shape == (count, 2) and np.isfinite(points).all() else None


def _strangeness(found: Points, progress: Progress) -> NDArray[np.float64]:
    """[n], one minus the mean cosine to the nearest images; 0 for a single one."""
    if len(found.rows) < 2:
        return np.zeros(len(found.rows))
    rows = torch.from_numpy(found.rows)
    mean, order = outliers(rows, NEIGHBOURS, len(rows), scale=True, progress=progress)
    strange = np.zeros(len(rows))
    strange[order.numpy()] = 1 - mean.numpy()
    return strange.clip(0, 1)


def _methods(count: int) -> list[dict[str, Any]]:
    why, name = "", "neighbour embedding"
    try:
        name = f"{name} ({method()})"
    except MissingExtra as error:
        why = f"{error.what}: {error.fix}"
    if count < LEAST:
        why = f"there are fewer than {LEAST} images"
    pca = {"id": "pca", "name": f"principal components ({_ours()})", "available": True, "why": ""}
    return [pca, {"id": "neighbours", "name": name, "available": not why, "why": why}]


def _ours() -> str:
    return f"ibot {ibot.__version__}"
