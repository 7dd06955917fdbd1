"""Answers about words: all of them, and one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.images import LabelledImages
from ibot.explore.browser.occurring import Kind, as_told, check_word, one_an_image, rounded
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.words import encodable

if TYPE_CHECKING:
    from ibot.vocabulary.life import Lives
    from ibot.vocabulary.word_index import WordIndex

SORTS = ("use", "images", "confidence", "entropy", "score", "purity", "born")
NEIGHBOURS = 12
MAX_CELLS = 2**26
"""Words times classes that are counted: a table of 512 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which words are asked for, and in which order."""

    kind: Kind = "patch"
    sort: str = "use"
    falling: bool = True
    min_images: int = 0
    label: str = ""
    offset: int = 0
    limit: int = 48


@dataclass(frozen=True, slots=True)
class Labels:
    """What the images that carry a word are labelled."""

    counts: NDArray[np.int64]
    """int64 [K, C], tokens of each word in images of each class."""
    top: NDArray[np.int64]
    """int64 [K], the most frequent class of each word."""
    purity: NDArray[np.float64]
    """[K], the share of that class, 0..1; 0 for unused words."""


def words(session: Session, c: int | None, page: Page) -> dict[str, Any]:
    """The words of a checkpoint, some of them, in order. Raises Refused."""
    index = session.index(c)
    use = index.statistics(page.kind)
    labels = labels_of(session, c, page.kind)
    chosen = np.flatnonzero((use.uses > 0) & (use.images >= page.min_images))
    if page.label:
        if labels is None:
            raise Refused(400, "the images have no labels", fix="leave out the label")
        names = [encodable(name) for name in _classes(session)]
        if page.label not in names:
            raise Refused(404, f"no images are labelled '{page.label}'")
        chosen = chosen[labels.top[chosen] == names.index(page.label)]
    key = _key(session, page, index, labels)[chosen].astype(np.float64)
    # Equal ones by their number, whichever way the others go.
    order = chosen[np.lexsort((chosen, -key if page.falling else key))]
    shown = order[page.offset : page.offset + page.limit].tolist()
    return {
        "total": len(order),
        "unused": int((use.uses == 0).sum()),
        "words": [_about(session, index, word, page.kind, labels) for word in shown],
    }


def word(
    session: Session, c: int | None, number: int, kind: Kind, offset: int, limit: int
) -> dict[str, Any]:
    """One word: what it is like, where it occurs, how it came to be. Raises Refused."""
    index = session.index(c)
    check_word(index, number, kind)
    labels = labels_of(session, c, kind)
    use = index.statistics(kind)
    found = one_an_image(index, number, kind, offset + limit)
    part = slice(offset, offset + limit)
    shown = type(found)(found.row[part], found.patch[part], found.score[part])
    near = zip(*index.neighbours(number, NEIGHBOURS, kind), strict=True)
    return {
        **_about(session, index, number, kind, labels),
        "neighbours": [
            {"word": int(other), "cosine": rounded(cosine), "uses": int(use.uses[int(other)])}
            for other, cosine in near
        ],
        "labels": None if labels is None else _most(session, labels.counts[number]),
        "life": _life(session, number, kind),
        "occurrences": list(as_told(session, index, shown, kind)),
        "total": int(use.images[number]),
    }


def labels_of(session: Session, c: int | None, kind: Kind) -> Labels | None:
    """Words against labels; None for images without labels, or too many of both."""
    images, index = session.images, session.index(c)
    count = index.num_words if kind == "patch" else index.num_class_words
    if not isinstance(images, LabelledImages) or count * len(images.classes) > MAX_CELLS:
        return None
    name = f"labels {index.name} {kind}"
    return session.keep(name, lambda: _labels(index, images, kind, count))


def _labels(index: WordIndex, images: LabelledImages, kind: Kind, count: int) -> Labels:
    labels = np.asarray(images.labels)[index.index].astype(np.int64)
    of = index.words if kind == "patch" else index.class_words[:, None]
    classes = len(images.classes)
    counts = np.zeros(count * classes, np.int64)
    for start in range(0, len(labels), 4096):
        block = np.asarray(of[start : start + 4096], np.int64)
        cells = block * classes + labels[start : start + 4096, None]
        counts += np.bincount(cells.ravel(), minlength=len(counts))
    table = counts.reshape(count, classes)
    most = table.max(axis=1)
    return Labels(table, table.argmax(axis=1), most / np.maximum(table.sum(axis=1), 1))


def _classes(session: Session) -> tuple[str, ...]:
    images = session.images
    return images.classes if isinstance(images, LabelledImages) else ()


def _most(session: Session, counts: NDArray[np.int64], most: int = 8) -> list[dict[str, Any]]:
    """The most frequent labels of a word."""
    classes = _classes(session)
    order = np.argsort(-counts, kind="stable")[:most]
    return [{"label": encodable(classes[i]), "count": int(counts[i])} for i in order if counts[i]]


def _key(
    session: Session, page: Page, index: WordIndex, labels: Labels | None
) -> NDArray[np.generic]:
    """What words are ordered by, [K]."""
    use = index.statistics(page.kind)
    if page.sort == "purity":
        if labels is None:
            raise Refused(400, "the images have no labels", fix="choose another order")
        return labels.purity
    if page.sort == "born":
        return _lives(session, page.kind).born
    return use.uses if page.sort == "use" else getattr(use, page.sort)


def _lives(session: Session, kind: Kind) -> Lives:
    assert session.vocabulary is not None
    return session.vocabulary.lives(kind)


def _about(
    session: Session, index: WordIndex, number: int, kind: Kind, labels: Labels | None
) -> dict[str, Any]:
    """What every list of words says of one."""
    use, lives = index.statistics(kind), _lives(session, kind)
    total = max(1, int(use.uses.sum()))
    count = len(session.checkpoints)
    born, died = int(lives.born[number]), int(lives.died[number])
    label = None
    if labels is not None and use.uses[number]:
        label = encodable(_classes(session)[int(labels.top[number])])
    return {
        "word": number,
        "uses": int(use.uses[number]),
        "images": int(use.images[number]),
        "share": rounded(use.uses[number] / total, 6),
        "score": rounded(use.score[number]),
        "confidence": rounded(use.confidence[number]),
        "entropy": rounded(use.entropy[number]),
        "purity": None if labels is None else rounded(labels.purity[number]),
        "label": label,
        "born": born if 0 <= born < count and count > 1 else None,
        "died": died if 0 <= died < count - 1 else None,
        "life": lives.uses[:count, number].tolist(),
    }


def _life(session: Session, number: int, kind: Kind) -> list[dict[str, Any]]:
    """A word at every checkpoint."""
    lives = _lives(session, kind)
    return [
        {
            "c": one.id,
            "name": one.name,
            "uses": int(lives.uses[one.id, number]),
            "images": int(lives.images[one.id, number]),
            "confidence": rounded(lives.confidence[one.id, number]),
            "overlap": rounded(lives.overlap[one.id, number]),
        }
        for one in session.checkpoints
    ]
