"""What an explorer has open: images, checkpoints, their words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ibot.errors import IbotError
from ibot.explore.browser.refusal import Refused
from ibot.weights.forms import is_named

if TYPE_CHECKING:
    from ibot.data.sets.images import Images
    from ibot.eval.features.views import View
    from ibot.eval.request import Request
    from ibot.explore.browser.networks import Network, Networks
    from ibot.explore.browser.shelf import Shelf
    from ibot.vocabulary.opened import Vocabulary
    from ibot.vocabulary.remedy import Remedy
    from ibot.vocabulary.word_index import WordIndex

VIEWS = ("words", "image", "compare", "map", "training")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of the network."""

    id: int
    name: str
    path: Path | None
    """Where its weights lie, or lay: a run removes old ones. None: nobody knows."""
    step: int | None = None
    images_seen: int | None = None
    index: WordIndex | None = None
    """Its words."""


@dataclass(slots=True)
class Session:
    """What is open, from the first moment on; `ibot.explore.browser.opening` fills it."""

    request: Request
    """Weights and data, and how both are used."""
    folder: Path | None = None
    """Of the index; None: the usual one."""
    links: bool = False
    """Whether files outside of the data folder are shown."""
    state: Literal["loading", "ready", "failed"] = "loading"
    why: str = "starting"
    """What is being done, or why it failed."""
    notes: list[str] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    """Why views are not there, by their names."""
    checkpoints: list[Checkpoint] = field(default_factory=list)
    vocabulary: Vocabulary | None = None
    shelf: Shelf | None = None
    networks: Networks | None = None
    made: dict[str, Any] = field(default_factory=dict)
    """What answers keep: sprites, maps, tables."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _locks: dict[str, Any] = field(default_factory=dict)

    run: Path | None = field(init=False)
    """The folder of the run that the weights are, or belong to; None for others. As it was at the
    start: it may be removed while the page is open."""

    def __post_init__(self) -> None:
        self.run = run_of(Path(self.request.weights))

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made under a name; made once, also where several threads ask for it."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            if name not in self.made:
                self.made[name] = make()
            return self.made[name]

    def pictured(self) -> Shelf:
        """The images. Raises Refused where there are none yet."""
        if self.shelf is None:
            raise Refused(404, "there are no images", fix="name them with --data")
        return self.shelf

    @property
    def images(self) -> Images:
        """Those of the set. Raises Refused where there are none."""
        images = self.pictured().images
        if images is None:
            raise Refused(404, "there are no images", fix="name them with --data")
        return images

    def checkpoint(self, number: int | None) -> Checkpoint:
        """That of an id, the newest by default. Raises Refused."""
        if not self.checkpoints:
            raise Refused(404, "the run has no checkpoint yet", fix="wait for the first one")
        if number is None:
            return self.checkpoints[-1]
        if not 0 <= number < len(self.checkpoints):
            raise Refused(
                404,
                f"there is no checkpoint {number}",
                why=f"{len(self.checkpoints)} are open, counted from 0",
            )
        return self.checkpoints[number]

    def index(self, number: int | None) -> WordIndex:
        """The words of a checkpoint. Raises Refused where they are not known."""
        index = self.checkpoint(number).index
        if index is None:
            why = self.unavailable.get("words", "this checkpoint is not indexed")
            raise Refused(404, "no words are known", why=why, fix=_as_text(self.remedy().make))
        return index

    def place(self, number: int | None) -> Path:
        """Where the weights of a checkpoint lie. Raises Refused."""
        checkpoint = self.checkpoint(number)
        if checkpoint.path is None:
            raise Refused(
                410,
                f"the weights of '{checkpoint.name}' are not here",
                why="its words are stored, the network itself is not",
                fix="choose another checkpoint",
            )
        return checkpoint.path

    def network(self, number: int | None) -> Network:
        """The network of a checkpoint. Raises Refused, WeightsError."""
        assert self.networks is not None
        return self.networks.get(self.place(number))

    def view(self, number: int | None) -> View:
        """How a checkpoint sees images: as its words were made, else as the network does."""
        index = self.checkpoint(number).index
        return index.view if index is not None else self.network(number).view

    def grid(self, number: int | None) -> tuple[int, int]:
        """Rows and columns of patches of that view."""
        index = self.checkpoint(number).index
        if index is not None:
            return index.grid
        return self.network(number).loaded.backbone.token_grid(*self.view(number).size)

    def lacking(self) -> list[str]:
        """Why there are no words, for who asked for images; nothing where there are."""
        why = self.unavailable.get("words")
        return [f"there are no words to see: {why}"] if why and self.request.data else []

    def remedy(self) -> Remedy:
        """How the index of the same weights and images is made."""
        from ibot.vocabulary.remedy import Remedy

        return Remedy(self.request, "" if self.folder is None else str(self.folder), "--index")


def run_of(weights: Path) -> Path | None:
    """The run that weights are, or are a checkpoint of; it may have no checkpoint yet."""
    if weights.is_dir() and (weights / "config.json").is_file():
        started = (weights / "checkpoints").is_dir() or (weights / "events.jsonl").is_file()
        return weights if started else None
    for folder in () if is_named(weights) else weights.absolute().parents[:3]:
        if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
            return folder
    return None


def about(session: Session) -> dict[str, Any]:
    """The answer to /api/about; whatever the state, it is whole."""
    ready = session.state == "ready"
    shelf = session.shelf if ready else None
    images = shelf.images if shelf is not None else None
    answer: dict[str, Any] = {
        "title": Path(session.request.weights).name or session.request.weights,
        "weights": session.request.weights,
        "run": None if session.run is None else str(session.run),
        "network": "",
        "key": session.request.key,
        "images": None if images is None else _about_images(session, images),
        **dict.fromkeys(("view", "grid", "patch", "words", "class_words")),
        "head": False,
        "class_attention": False,
        "checkpoints": [
            {"id": one.id, "name": one.name, "step": one.step, "images_seen": one.images_seen}
            for one in session.checkpoints
        ],
        "views": {
            name: {
                "available": ready and name not in session.unavailable,
                "why": session.unavailable.get(name, "" if ready else session.why),
            }
            for name in VIEWS
        },
        "state": session.state,
        "why": session.why,
        "notes": list(session.notes),
        "exported": False,
    }
    if ready and session.checkpoints:
        _add_network(answer, session)
    return _as_text(answer)


def _about_images(session: Session, images: Images) -> dict[str, Any]:
    newest = session.checkpoints[-1].index if session.checkpoints else None
    classes = getattr(images, "classes", None)
    return {
        "root": str(images.root),
        "count": len(images),
        "readable": len(images) if newest is None else len(newest.index),
        "classes": None if classes is None else list(classes),
    }


def _add_network(answer: dict[str, Any], session: Session) -> None:
    """What the newest checkpoint is; as far as it is still there."""
    index = session.checkpoints[-1].index
    if index is not None:
        answer |= {
            "view": list(index.view.size),
            "grid": list(index.grid),
            "words": index.num_words,
            "class_words": index.num_class_words,
            "head": True,
        }
    try:
        network = session.network(None)
    except (IbotError, OSError):
        return  # its folder was removed: the words are there still
    backbone = network.loaded.backbone
    answer |= {
        "network": str(network.loaded.config),
        "view": list(network.view.size) if index is None else answer["view"],
        "grid": list(session.grid(None)),
        "patch": backbone.patch_size,
        "head": network.head is not None,
        "class_attention": backbone.class_heads > 0,
    }


def _as_text(value: Any) -> Any:
    """The same with text that JSON holds, whatever bytes were in names."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    return [_as_text(inner) for inner in value] if isinstance(value, list) else value
