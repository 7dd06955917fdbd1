"""From what a user names to an open session. Heavy: it runs while the page is already there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ibot.data.annotated.pictures import pictures_of
from ibot.data.sets.open import open_images
from ibot.data.sets.trimmed import trimmed
from ibot.engine.checkpoint import find_checkpoint
from ibot.errors import WeightsError
from ibot.explore.browser.networks import Networks
from ibot.explore.browser.opening_words import open_words
from ibot.explore.browser.session import Checkpoint, Session
from ibot.explore.browser.shelf import Shelf
from ibot.weights.named import located
from ibot.weights.read import load_weights, reading_of


def open_session(session: Session) -> None:
    """Fill a session. Raises UserError and its kinds for what a user can mend."""
    request = session.request
    images = None
    if request.data:
        session.why = "looking for images"
        if (weights := _weights(session)) is not None:
            with suppress(WeightsError):  # which is told where the network is read
                stored = reading_of(load_weights(weights, request.key))
                session.request = request = request.with_reading(stored)
        images = open_images(
            pictures_of(request.data),
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
            channels=request.reading,
            windows=request.windows,
        )
        images = trimmed(images, request.trim_border)
        session.notes.extend(images.notes)
    session.shelf = Shelf(images, links=session.links)
    session.networks = Networks(request, session.shelf)
    session.checkpoints = list(_checkpoints(session))
    if session.run is None:
        session.unavailable["training"] = "these weights are not a run: nobody kept its curves"
    if not session.checkpoints:
        why = "the run has no checkpoint yet"
    elif images is None:
        why = "no images were named: --data DIR"
    else:
        open_words(session)
        return
    session.unavailable |= dict.fromkeys(("words", "image", "compare", "map"), why)


def _weights(session: Session) -> Path | None:
    """What says which channels of images are read; None for a run without a checkpoint."""
    path = located(session.request.weights)
    return find_checkpoint(path) if session.run == path else path


def _checkpoints(session: Session) -> Iterator[Checkpoint]:
    """What there is to look at without an index: the newest of a run, else the weights alone."""
    if (path := _weights(session)) is not None:
        yield named(path)


def named(path: Path) -> Checkpoint:
    """A checkpoint folder, or a file of weights."""
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError):
        return Checkpoint(0, path.name, path)
    step = state.get("step")
    return Checkpoint(0, f"step {step}", path, step, state.get("images_seen"))
