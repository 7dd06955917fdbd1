"""The index of the words of a session's images: opened and checked, or made."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ibot.engine.checkpoint import FOLDER as CHECKPOINTS
from ibot.errors import UserError
from ibot.eval.context import ImagesContext
from ibot.eval.opened import opened
from ibot.explore.browser.session import Checkpoint, Session
from ibot.system.places import is_writable
from ibot.system.progress import Progress, counter
from ibot.vocabulary.folder import (
    FILE,
    MISFITS,
    RESIDUAL,
    WHOLE,
    default_folder,
    other_images,
)
from ibot.vocabulary.index import build, open_index
from ibot.vocabulary.opened import Vocabulary
from ibot.vocabulary.word_index import WordIndex
from ibot.weights.files import read_settings
from ibot.weights.head import has_residual_patches
from ibot.weights.named import located
from ibot.words import counted

MAX_FIRST = 5000
"""Images that are indexed before the page is of use, where no index is there; of more, the user is
to say so: it would take minutes without a word about what is being waited for."""
NO_HEAD = (
    "these weights have no projection head: it is the head that knows words (a run's own "
    "checkpoints have one; exports leave it out)"
)


def open_words(session: Session) -> None:
    """Open the index of the images, or make it. Raises UserError for one of others."""
    folder = session.folder or default_folder(Path(session.request.weights))
    newest = session.checkpoints[-1]
    if not (folder / FILE).exists():
        session.why = "reading the network"
        if session.network(None).head is None:
            session.unavailable["words"] = NO_HEAD
            return
        if not is_writable(folder):
            session.unavailable["words"] = (
                f"there is no index yet, and none can be written into '{folder}': name another "
                "place with --index"
            )
            return
        _make(session, folder)
    session.why = "opening the index"
    session.vocabulary = vocabulary = open_index(folder, session.remedy())
    _check(session, vocabulary, newest)
    assert session.networks is not None
    session.networks.view = vocabulary.shared.view  # dropped images are seen as the others are
    indexes = vocabulary.indexes
    if session.run is None:
        indexes = [vocabulary.of(session.network(None).hash, session.remedy())]
    elif newest.step is not None and Path(session.request.weights) != session.run:
        indexes = _until(session, vocabulary, newest)
    session.checkpoints = [
        Checkpoint(i, index.name, _place(session, index), index.step, index.images_seen, index)
        for i, index in enumerate(indexes)
    ]
    if newest.step is not None and newest.step not in [one.step for one in session.checkpoints]:
        new = f"'{newest.name}' is newer than what is indexed"
        session.notes.append(f"{new}: {session.remedy().make}")


def _make(session: Session, folder: Path) -> None:
    """Index the images of the newest checkpoint. Raises UserError where they are many."""
    count = len(session.images)
    if count > MAX_FIRST:
        raise UserError(
            f"the words of {count} images are not known yet",
            why=f"there is no index in '{folder}', and that many images take a while",
            fix=session.remedy().make,
        )
    print(f"indexing {counted(count, 'image')} first, into '{folder}'", file=sys.stderr)
    request = replace(session.request, weights=str(session.place(None)))

    def shown(name: str) -> Progress:
        on_terminal = counter(name)

        def show(done: int, total: int) -> None:
            on_terminal(done, total)
            session.why = f"indexing: {name} {done} of {total}"

        return show

    with opened(ImagesContext, request) as context:
        build(replace(context, counter=shown), folder, remedy=session.remedy())


def _check(session: Session, vocabulary: Vocabulary, newest: Checkpoint) -> None:
    """Raise UserError where an index is of other images, another network, or another training."""
    folder, request, shared = vocabulary.folder, session.request, vocabulary.shared
    images = session.images
    if vocabulary.images != images.fingerprint():
        raise other_images(folder, shared, (images.root, len(images)), session.remedy())
    if shared.key != request.key:
        raise UserError(
            f"the index in '{folder}' is of another of the networks",
            why=f"it is of the {shared.key}; asked for is the {request.key}",
            fix=f"--key {shared.key}, or name another with --index",
        )
    if request.size and shared.view.size != (request.size, request.size):
        raise UserError(
            f"the index in '{folder}' is of another view",
            why=f"{shared.view.size[0]} x {shared.view.size[1]} pixels",
            fix="leave out --size, or name another with --index",
        )
    if session.run is None or shared.run != str(session.run.resolve()):
        # A run that was moved is known by the weights that it still has.
        places = [_place(session, index) for index in reversed(vocabulary.indexes)]
        there = [place for place in (*places, newest.path) if place is not None and place.exists()]
        assert session.networks is not None
        vocabulary.of(session.networks.get(there[0]).hash, session.remedy())
    if shared.words == WHOLE and _has_residual_words(session):
        raise UserError(
            f"the index in '{folder}' is of {MISFITS['words']}",
            why=f"it is of {WHOLE}; the network's are {RESIDUAL}",
            fix=session.remedy().instead(folder),
        )


def _has_residual_words(session: Session) -> bool:
    """Whether the network tells words by what patches add to their view."""
    if session.run is not None:  # told without reading weights
        settings = read_settings(session.run / "config.json")
        return has_residual_patches(settings, session.request.key)
    head = session.network(None).head
    return head is not None and head.residual


def _until(session: Session, vocabulary: Vocabulary, asked: Checkpoint) -> list[WordIndex]:
    """Those up to the checkpoint that a user named, which then is the newest.

    Raises UserError where it is not indexed.
    """
    steps = [index.step for index in vocabulary.indexes]
    if asked.step not in steps:
        raise UserError(
            f"'{asked.name}' is not in the index in '{vocabulary.folder}'",
            why="it holds " + ", ".join(index.name for index in vocabulary.indexes),
            fix=f"name the run, or add it:  {session.remedy().make}",
        )
    return vocabulary.indexes[: steps.index(asked.step) + 1]


def _place(session: Session, index: WordIndex) -> Path | None:
    """Where the weights of an index lie, or lay."""
    if session.run is not None and index.step is not None:
        return session.run / CHECKPOINTS / f"step_{index.step:08d}"
    return located(session.request.weights)
