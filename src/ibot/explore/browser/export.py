"""The explorer as one file that needs no server: some words, some images, the map.

It is to be given away: places of files on this machine are left out, and names of other images than
those shown.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from ibot.explore.browser.occurring import KINDS, Kind
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
LIVES = 8
"""Checkpoints at which a word is shown; of more, so many evenly spaced ones."""

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
        words: to show of patches, and of whole images, the most used first.
        progress: called with what is done and in all.

    Raises:
        UserError: names that are not in the set, images that cannot be shown, or a file that cannot
            be written. ResourceError: a full disk.
    """
    chosen = [] if "image" in session.unavailable else chosen_images(session, names)
    answers: Answers = {}
    work: list[Callable[[], Answers]] = []
    count = 0
    kinds: tuple[Kind, ...] = () if "words" in session.unavailable else KINDS
    for kind in kinds:
        listed = answers_words.words(session, None, answers_words.Page(kind=kind, limit=words))
        answers[_address("/api/words", kind)] = listed
        shown = [word["word"] for word in listed["words"]]
        count += len(shown) if kind == "patch" else 0
        work += [partial(_word, session, word, kind, shown) for word in shown]
    work += [
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
    told = [answers[f"/api/image/{image}"] for image in chosen]
    images = [{key: one[key] for key in ("id", "name", "label")} for one in told]
    answers["/api/images"] = {"total": len(images), "images": images}
    answers["/api/about"] = _about(session, count, answers)
    page = whole_page(answers).encode()
    write_named(file, lambda place: place.write_bytes(page), "--export")
    return Exported(len(page), count, list(names))


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


def _word(session: Session, word: int, kind: Kind, others: Sequence[int]) -> Answers:
    """One word, its windows and its life; of its neighbours those that are in the page."""
    told = answers_words.word(session, None, word, kind, 0, OCCURRENCES)
    told["neighbours"] = [near for near in told["neighbours"] if near["word"] in others]
    told["total"] = len(told["occurrences"])
    told["life"] = [told["life"][i] for i in evenly(len(told["life"]), LIVES).tolist()]
    mosaic = pictures.mosaic(session, None, word, kind, 9, 5, MOSAIC)
    found: Answers = {
        _address(f"/api/word/{word}", kind): told,
        _address(f"/api/mosaic/{word}.webp", kind): _uri(mosaic, "webp"),
    }
    for then in told["life"] if len(told["life"]) > 1 else ():
        if then["uses"]:
            small = pictures.mosaic(session, then["c"], word, kind, 4, 3, 48)
            address = _address(f"/api/mosaic/{word}.webp", kind, then["c"])
            found[address] = _uri(small, "webp")
    if kind == "class":
        return found | _thumbs(session, told["occurrences"])
    return found | _windows(session, told["occurrences"])


def _address(path: str, kind: Kind, then: int | None = None) -> str:
    """As the page names it: parameters in the order of their names."""
    given = [f"kind={kind}"] if kind == "class" else []
    given += [] if then is None else [f"then={then}"]
    return f"{path}?{'&'.join(given)}" if given else path


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


def _thumbs(session: Session, places: Sequence[dict[str, Any]]) -> Answers:
    """The images of occurrences, small."""
    return {
        f"/api/image/{place['image']}/thumb.jpg": _uri(
            pictures.whole_picture(session, str(place["image"]), THUMB)
        )
        for place in places
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
    count = f"{words} of {told['words']} words" if told["words"] else "no words"
    shown = len(answers["/api/images"]["images"])
    note = f"exported {time.strftime('%Y-%m-%d')}: {count}, {shown} images in full"
    place = {"weights": told["title"], "run": None, "exported": True}
    return {**told, **place, "notes": [note]}


def _uri(content: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
