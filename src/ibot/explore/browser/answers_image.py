"""Answers about one image: its words, what its class token attends to, its features as colours."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.decode import UnreadableImage
from ibot.errors import printable
from ibot.eval.features.views import evenly
from ibot.explore.browser.networks import Seen
from ibot.explore.browser.occurring import as_told, listed, one_an_image, rounded, row_of
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.explore.browser.shelf import OUTSIDE
from ibot.models.attention import foreground
from ibot.show.attention import MASS, WORDS, Source
from ibot.show.components import Components, border_of, fit_components
from ibot.words import encodable

ELSEWHERE = 24
"""Other images in which a word is shown."""
SCALES = (1, 2, 4)
FITTED = 64
"""Images of the set to which colours are fitted."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one image."""

    word: NDArray[np.int64]
    """int64 [N]."""
    score: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_word: int


def image(session: Session, c: int | None, name: str) -> dict[str, Any]:
    """What an image is, and its words where they are known. Raises Refused."""
    shelf = session.pictured()
    try:
        size = list(shelf.pixels(name).shape[:2])
        found = words_of(session, c, name)
        grid = session.grid(c)
    except UnreadableImage as error:
        raise unreadable(shelf.name(name), error) from None
    row = shelf.row(name)
    return {
        "id": name if row is None else row,
        "name": shelf.name(name),
        "label": shelf.label(name),
        "size": size,
        "view": list(session.view(c).size),
        "grid": list(grid),
        "words": None if found is None else found.word.tolist(),
        "scores": [] if found is None else listed(found.score),
        "confidence": [] if found is None else listed(found.confidence),
        "class_word": None if found is None else found.class_word,
    }


def attention(session: Session, c: int | None, name: str, scale: int) -> dict[str, Any]:
    """Attention in the last block, by head: that of the class token, else what patches receive.

    Raises Refused.
    """
    source: Source = "class"
    maps = seen(session, c, name, scale).attention
    if maps is None:
        maps, source = _received(session, c, name, scale), "windows"
    mass = foreground(maps.flatten(1), MASS).numpy()
    return {
        "source": source,
        "told": WORDS[source],
        "heads": len(maps),
        "grid": list(maps.shape[1:]),
        "maps": coded(_levels(maps.flatten(1).numpy())),
        "mean": coded(_levels(maps.mean(dim=0).flatten()[None].numpy())),
        "mass": [coded(one.astype(np.uint8)) for one in mass],
    }


def _received(session: Session, c: int | None, name: str, scale: int) -> Tensor:
    """What patches receive in their windows, where there is no class token. Raises Refused."""
    assert session.networks is not None
    try:
        return session.networks.received(session.place(c), name, scale)
    except UnreadableImage as error:
        raise unreadable(session.pictured().name(name), error) from None
    except ValueError as error:
        raise Refused(
            404, "there is no attention", why=str(error), fix="see its features"
        ) from None


def features(
    session: Session, c: int | None, name: str, scale: int, over: Literal["image", "set"]
) -> dict[str, Any]:
    """Principal components of patch features as colours, background black.

    over: fitted to this image, or to a sample of the set, so that images can be compared.
    Raises Refused.
    """
    found = seen(session, c, name, scale)
    if over == "set":
        fitted = session.keep(f"colours {session.checkpoint(c).name}", lambda: _of_set(session, c))
    else:
        fitted = fit_components(found.patches, border_of(found.grid))
    colours = fitted.colours(found.patches)
    return {
        "grid": list(found.grid),
        "rgb": coded(np.rint(255 * colours.rgb.numpy()).astype(np.uint8)),
        "foreground": coded(colours.foreground.numpy().astype(np.uint8)),
    }


def _of_set(session: Session, c: int | None) -> Components:
    """Colours fitted to images spread over the set. Raises Refused where none can be read."""
    tokens, border = [], []
    for number in evenly(len(session.images), FITTED).tolist():
        try:
            found = seen(session, c, str(number))
        except Refused:
            continue
        tokens.append(found.patches)
        border.append(border_of(found.grid))
    if not tokens:
        raise Refused(415, "none of the images can be read")
    return fit_components(torch.cat(tokens), torch.cat(border))


def patch(session: Session, c: int | None, name: str, number: int) -> dict[str, Any]:
    """One patch: its word, and where else that occurs. Raises Refused."""
    shelf, index = session.pictured(), session.index(c)
    count = math.prod(session.grid(c))
    if number >= count:
        raise Refused(404, f"there is no patch {number}", why=f"the view has {count}")
    try:
        found = words_of(session, c, name)
    except UnreadableImage as error:
        raise unreadable(shelf.name(name), error) from None
    assert found is not None
    word = int(found.word[number])
    row = row_of(index, name)
    use = index.statistics("patch")
    elsewhere = one_an_image(index, word, "patch", ELSEWHERE, without=row)
    return {
        "word": word,
        "score": rounded(found.score[number]),
        "confidence": rounded(found.confidence[number]),
        "here": np.flatnonzero(found.word == word).tolist(),
        "uses": int(use.uses[word]),
        "images": int(use.images[word]),
        "elsewhere": list(as_told(session, index, elsewhere)),
        "similar": _similar(session, c, name, number, word),
    }


def _similar(
    session: Session, c: int | None, name: str, number: int, word: int
) -> list[dict[str, Any]]:
    """The patches of other images with the nearest features, one an image."""
    index = session.index(c)
    row = row_of(index, name)
    if row is not None:
        found = index.similar(row, number, ELSEWHERE)
    else:
        compact = index.projection(seen(session, c, name).patches[number])
        found = index.similar_to(compact.numpy(), word, ELSEWHERE)
    scores = index.scores[found.row, found.patch].tolist()
    told = as_told(session, index, found)
    return [
        {**one, "score": rounded(score), "cosine": one["score"]}
        for one, score in zip(told, scores, strict=True)
    ]


def search(session: Session, text: str, most: int = 50) -> dict[str, Any]:
    """Images whose names contain a text."""
    wanted, images = text.casefold(), session.images
    names = session.keep(
        "names", lambda: [encodable(images.name(i)).casefold() for i in range(len(images))]
    )
    found = [i for i, name in enumerate(names) if wanted in name][:most] if wanted else []
    return {"images": [{"id": i, "name": session.pictured().name(str(i))} for i in found]}


def images(session: Session, offset: int, limit: int) -> dict[str, Any]:
    """A part of the list of images."""
    shelf, total = session.pictured(), len(session.images)
    shown = [str(i) for i in range(min(offset, total), min(offset + limit, total))]
    told = [{"id": int(i), "name": shelf.name(i), "label": shelf.label(i)} for i in shown]
    return {"total": total, "images": told}


def words_of(session: Session, c: int | None, name: str) -> Words | None:
    """The words of an image: from the index, else by the network; None without a head.

    Raises Refused, UnreadableImage.
    """
    index = session.checkpoint(c).index
    row = None if index is None else row_of(index, name)
    if index is not None and row is not None:
        return Words(
            np.asarray(index.words[row], np.int64),
            np.asarray(index.scores[row], np.float32),
            np.asarray(index.confidence[row], np.float32),
            int(index.class_words[row]),
        )
    network = session.network(c)
    if network.head is None:
        return None
    from ibot.vocabulary.assign import assign

    assert session.networks is not None
    found = session.networks.seen(session.place(c), name)
    device = session.networks.device
    cls, patches = (tensor[None].to(device) for tensor in (found.cls, found.patches))
    with torch.inference_mode():
        of_class, of_patches = assign(network.head, cls, patches, network.temperatures)
    word, score, confidence = (
        tensor[0].cpu().numpy()
        for tensor in (of_patches.word, of_patches.score, of_patches.confidence)
    )
    return Words(word, score, confidence, int(of_class.word[0]))


def seen(session: Session, c: int | None, name: str, scale: int = 1) -> Seen:
    """What the network makes of an image. Raises Refused, WeightsError."""
    assert session.networks is not None
    try:
        return session.networks.seen(session.place(c), name, scale)
    except UnreadableImage as error:
        raise unreadable(session.pictured().name(name), error) from None


def unreadable(name: str, error: UnreadableImage) -> Refused:
    """For an image that cannot be shown."""
    status = 403 if error.reason == OUTSIDE else 415
    return Refused(status, f"'{printable(name)}' cannot be shown", why=str(error))


def coded(values: NDArray[np.uint8]) -> str:
    """Bytes as base64."""
    return base64.b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode()


def _levels(rows: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Each row [r, m] as levels 0..255 between its own least and largest."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    return np.rint((rows - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)
