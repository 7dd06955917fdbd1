"""The explorer as one file that needs no server: some words, some images, the map.

It is to be given away: places of files on this machine are left out, and names of other images than
those shown.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.errors import UserError
from ibot.eval.features.views import evenly
from ibot.explore.browser import (
    answers_image,
    answers_map,
    answers_training,
    answers_words,
    pictures,
)
from ibot.explore.browser.answers_compare import match
from ibot.explore.browser.one_file import whole_page
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session, about
from ibot.system.files import write_named
from ibot.system.progress import Counter

IMAGES = 4
"""Shown where none are named."""
OCCURRENCES, ELSEWHERE = 8, 4
"""Windows of each word, and of the word of each patch of a shown image."""
MOSAIC, WINDOW, THUMB = 72, 96, 128
"""Sides of pictures in pixels."""

Answers = dict[str, Any]
"""JSON, or pictures as data URIs, by address."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    size: int
    """Bytes."""
    words: int
    images: list[str]
    """Names."""


def export(
    session: Session,
    file: Path,
    *,
    names: Sequence[str] = (),
    words: int = 60,
    progress: Counter = None,
) -> Exported:
    """Write a session as a page of one file.

    Args:
        session: ready.
        file: to write.
        names: images of the set to show; none: a few, evenly spaced.
        words: to show, the most used first.
        progress: called with what is done and in all.

    Raises:
        UserError: names that are not in the set, images that cannot be shown, or a file that cannot
            be written. ResourceError: a full disk.
    """
    chosen = [] if "image" in session.unavailable else chosen_images(session, names)
    answers, shown = _words(session, words)
    work: list[Callable[[], Answers]] = [
        *(lambda word=word: _word(session, word, shown) for word in shown),
        *(lambda image=image: _image(session, image) for image in chosen),
        lambda: _pairs(session, chosen),
        lambda: _map(session),
        lambda: _training(session),
    ]
    for done, part in enumerate(work):
        answers |= part()
        if progress is not None:
            progress(done + 1, len(work))
    names = [session.pictured().name(image) for image in chosen]
    listed = [answers[f"/api/image/{image}"] for image in chosen]
    images = [{key: one[key] for key in ("id", "name", "label")} for one in listed]
    answers["/api/images"] = {"total": len(images), "images": images}
    answers["/api/about"] = _about(session, len(shown), answers)
    page = whole_page(answers).encode()
    write_named(file, lambda place: place.write_bytes(page))
    return Exported(len(page), len(shown), list(names))


def chosen_images(session: Session, names: Sequence[str]) -> list[str]:
    """Ids of the images with these names, or a few of those that can be shown.

    Raises UserError for a name that no image has, or several have.
    """
    shelf, count = session.pictured(), len(session.images)
    if not names:
        index = session.checkpoint(None).index
        there = range(count) if index is None else index.index.tolist()
        return [str(there[i]) for i in evenly(len(there), IMAGES).tolist()]
    every = [shelf.name(str(i)) for i in range(count)]
    chosen = []
    for name in names:
        found = [i for i, other in enumerate(every) if other == name]
        found = found or [i for i, other in enumerate(every) if other.endswith(f"/{name}")]
        if len(found) != 1:
            why = f"{len(found)} have it" if found else "no image has it"
            fix = "name it as the page does, from the data folder on"
            raise UserError(f"'{name}' is not the name of an image", why=why, fix=fix)
        chosen.append(str(found[0]))
    return list(dict.fromkeys(chosen))


def _words(session: Session, count: int) -> tuple[Answers, list[int]]:
    """The list of words, and which they are."""
    if "words" in session.unavailable:
        return {}, []
    listed = answers_words.words(session, None, answers_words.Page(limit=count))
    for word in listed["words"]:
        word |= _now(word)
    none = {"total": 0, "unused": 0, "words": []}
    found = {"/api/words": listed, "/api/words?kind=class": none}
    return found, [word["word"] for word in listed["words"]]


def _now(word: dict[str, Any]) -> dict[str, Any]:
    """Of a word's life what the newest checkpoint says: no other is in the page."""
    return {"life": word["life"][-1:], "born": None, "died": None}


def _word(session: Session, word: int, others: Sequence[int]) -> Answers:
    """One word and its windows; of its neighbours those that are in the page."""
    told = answers_words.word(session, None, word, "patch", 0, OCCURRENCES)
    told["neighbours"] = [near for near in told["neighbours"] if near["word"] in others]
    told |= {**_now(told), "total": len(told["occurrences"])}
    if told["life"]:
        told["life"] = [{**told["life"][0], "c": 0, "overlap": None}]
    mosaic = pictures.mosaic(session, None, word, "patch", 9, 5, MOSAIC)
    return {
        f"/api/word/{word}": told,
        f"/api/mosaic/{word}.jpg": _uri(mosaic),
        **_windows(session, told["occurrences"]),
    }


def _image(session: Session, image: str) -> Answers:
    """All views of an image. Raises UserError where it cannot be shown."""
    path = f"/api/image/{image}"
    told = answers_image.image(session, None, image)
    found: Answers = {
        path: told,
        f"{path}/pixels.jpg?view=1": _uri(pictures.view_picture(session, None, image)),
        f"{path}/pixels.jpg?view=0": _uri(pictures.whole_picture(session, image)),
        f"{path}/thumb.jpg": _uri(pictures.whole_picture(session, image, THUMB)),
    }
    for over in ("image", "set"):
        colours = answers_image.features(session, None, image, 1, over)
        found[f"{path}/features?over={over}"] = colours
    try:
        found[f"{path}/attention"] = answers_image.attention(session, None, image, 1)
    except Refused as error:
        if error.status != 404:
            raise
    for patch in range(len(told["words"] or ())):
        answer = answers_image.patch(session, None, image, patch)
        answer |= {"elsewhere": answer["elsewhere"][:ELSEWHERE], "similar": []}
        found[f"/api/patch?image={image}&patch={patch}"] = answer
        found |= _windows(session, answer["elsewhere"])
    return found


def _windows(session: Session, places: Sequence[dict[str, Any]]) -> Answers:
    """The windows of occurrences, once each."""

    def uri(image: int, patch: int) -> str:
        return _uri(pictures.window_picture(session, None, str(image), patch, 5, WINDOW))

    addresses = {
        f"/api/window.jpg?image={place['image']}&patch={place['patch']}": place for place in places
    }
    return {
        address: session.keep(f"exported {address}", lambda p=place: uri(p["image"], p["patch"]))
        for address, place in addresses.items()
    }


def _pairs(session: Session, images: Sequence[str]) -> Answers:
    """Matches of each two of the images."""
    return {
        f"/api/match?a={a}&b={b}": match(session, None, None, a, b)
        for a in images
        for b in images
        if a != b
    }


def _map(session: Session) -> Answers:
    """The map by principal components; none where class tokens are still to be computed."""
    if "map" in session.unavailable or isinstance(
        answers_map.points_of(session, None), answers_map.Job
    ):
        return {}
    found = answers_map.layout(session, None, "pca")
    assert isinstance(found, answers_map.Map)
    while (told := answers_map.about(session, None))["outlier"] is None:
        time.sleep(answers_map.PATIENCE)
    told["methods"] = [one for one in told["methods"] if one["id"] == "pca"]
    points = base64.b64encode(found.points.astype("<f4").tobytes()).decode()
    return {"/api/map/about": told, "/api/map": {"method": found.method, "points": points}}


def _training(session: Session) -> Answers:
    """The curves, without settings that name places."""
    if "training" in session.unavailable:
        return {}
    told = answers_training.training(session)
    told |= {"state": "ended" if told["curves"] else "none"}
    told["settings"] = [row for row in told["settings"] if "path" not in row[0]]
    return {"/api/training": told}


def _about(session: Session, words: int, answers: Answers) -> dict[str, Any]:
    """What is in the page; views without answers are not there."""
    told = about(session)
    there = {
        "words": "/api/words",
        "map": "/api/map",
        "training": "/api/training",
        "image": "/api/images",
        "compare": "/api/images",
    }
    for name, address in there.items():
        several = name != "compare" or len(answers["/api/images"]["images"]) > 1
        if told["views"][name]["available"] and not (address in answers and several):
            told["views"][name] = {"available": False, "why": "it is not in this page"}
    if told["images"] is not None:
        told["images"]["root"] = Path(told["images"]["root"]).name
    newest = [{**one, "id": 0} for one in told["checkpoints"][-1:]]
    count = f"{words} of {told['words']} words" if told["words"] else "no words"
    shown = len(answers["/api/images"]["images"])
    note = f"exported {time.strftime('%Y-%m-%d')}: {count}, {shown} images in full"
    place = {"weights": told["title"], "run": None, "checkpoints": newest, "exported": True}
    return {**told, **place, "notes": [note]}


def _uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
