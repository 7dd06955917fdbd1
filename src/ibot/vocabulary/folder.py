"""The folder of an index: what all indexes in it share, and where each of them lies.

DIR/index.json               the images, the view, the network and the run that all of them share
DIR/features/                rows of images, as the feature cache keeps them
DIR/0123456789abcdef/        one checkpoint: where its rows are, postings, statistics, prototypes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.errors import DataError, UserError
from ibot.eval.context import ImagesContext
from ibot.eval.features.views import View
from ibot.eval.opened import default_out
from ibot.models.head import ProjectionHead
from ibot.system.files import write_atomically
from ibot.system.places import is_writable
from ibot.vocabulary.assign import last_weight
from ibot.vocabulary.remedy import Remedy
from ibot.weights.forms import is_named

FILE, FORMAT = "index.json", 2
MISFITS = {
    "view": "another view",
    "key": "another of the networks",
    "network": "another network",
    "words": "words of another kind",
    "run": "the weights of another training",
}
"""What an index is of where it does not fit."""
WHOLE, RESIDUAL = "words of whole patches", "words of what patches add to their view"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all indexes in a folder have in common."""

    images: str
    """Fingerprint of the set."""
    root: str
    """What a user calls it."""
    count: int
    """Images in it, unreadable ones included."""
    view: View
    grid: tuple[int, int]
    key: str
    """Which network of the weights."""
    network: str
    """Architecture, and words of class and patch tokens."""
    words: str = WHOLE
    """Of which rows of patches (`ProjectionHead.residual`): `WHOLE`, also where an older index does
    not say, or `RESIDUAL`."""
    run: str
    """Folder of the run, or the file."""
    settings: str
    """Hash of the settings with which it was trained: a run that was moved is known by it."""

    @classmethod
    def of(
        cls, context: ImagesContext, head: ProjectionHead, settings: Mapping[str, Any]
    ) -> Shared:
        """Of an index that `context` can make with the head and the settings of its weights."""
        words = [len(last_weight(layer)) for layer in (head.cls_layer, head.patch_layer)]
        loaded, size = context.loaded, context.view.size
        # A file that says nothing of its training is known by what is in it.
        said = json.dumps(settings, sort_keys=True, default=str) if settings else ""
        return cls(
            images=context.images.fingerprint(),
            root=str(context.images.root),
            count=len(context.images),
            view=context.view,
            grid=loaded.backbone.token_grid(*size),
            key=context.key,
            network=f"{loaded.config!r}, {words[0]} and {words[1]} words",
            words=RESIDUAL if head.residual else WHOLE,
            run=str(run_of(Path(context.weights)).resolve()),
            settings=hashlib.sha256((said or context.weights_hash).encode()).hexdigest(),
        )

    def misfits(self, other: Shared) -> list[str]:
        """Names of what differs."""
        names = ("images", "view", "key", "network", "words")
        wrong = [name for name in names if getattr(self, name) != getattr(other, name)]
        same_run = self.run == other.run or self.settings == other.settings
        return wrong if same_run else [*wrong, "run"]

    def text(self) -> str:
        """What stands in index.json."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["view"] = {name: getattr(self.view, name) for name in View.__slots__}
        return json.dumps({"format": FORMAT, **plain}, indent=1)

    def write(self, folder: Path) -> None:
        """Write index.json."""
        write_atomically(folder / FILE, lambda place: place.write_text(self.text()))

    @classmethod
    def read(cls, folder: Path, remedy: Remedy | None = None) -> Shared:
        """Read index.json. Raises DataError, with the remedy, where there is none, it is damaged,
        or of another version of this package.
        """
        remedy = remedy or Remedy()
        try:
            plain = json.loads((folder / FILE).read_text())
            if plain.pop("format") != FORMAT:
                raise ValueError("it was made by another version of this package")
            view = View(**{**plain["view"], "size": tuple(plain["view"]["size"])})
            return cls(**{**plain, "view": view, "grid": tuple(plain["grid"])})
        except FileNotFoundError:
            raise DataError(
                f"there is no index in '{folder}'",
                fix=f"make one:  {remedy.make}",
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"the index in '{folder}' cannot be read",
                why=str(error),
                fix=f"make it again:  {remedy.renew(folder)}",
            ) from None


def check_fits(folder: Path, there: Shared, wanted: Shared, remedy: Remedy | None = None) -> None:
    """Raise UserError, with the remedy, where an index in `folder` is of other images or weights
    than wanted.
    """
    if not (wrong := there.misfits(wanted)):
        return
    remedy = remedy or Remedy()
    if wrong[0] == "images":
        raise other_images(folder, there, (wanted.root, wanted.count), remedy)
    shown = {
        "view": (str(there.view), str(wanted.view)),
        "key": (there.key, wanted.key),
        "network": (there.network, wanted.network),
        "words": (there.words, wanted.words),
        "run": (there.run, wanted.run),
    }
    name = wrong[0]
    old, new = shown[name]
    raise UserError(
        f"the index in '{folder}' is of {MISFITS[name]}",
        why=f"it is of {old}; asked for is {new}",
        fix=remedy.instead(folder),
    )


def other_images(
    folder: Path, there: Shared, wanted: tuple[str | Path, int], remedy: Remedy
) -> UserError:
    """The error for an index of other images than those wanted: their root and number."""
    root, count = wanted
    if Path(there.root).resolve() == Path(root).resolve():
        numbers = f"{there.count} then, {count} now"
        return UserError(
            f"the images under '{root}' have changed since they were indexed",
            why=numbers if there.count != count else f"{numbers}, but not the same files",
            fix=f"index them as they are now:  {remedy.renew(folder)}",
        )
    return UserError(
        f"the index in '{folder}' is of other images",
        why=f"it is of {there.count} under '{there.root}'; asked for are {count} under '{root}'",
        fix=remedy.instead(folder),
    )


def default_folder(weights: Path) -> Path:
    """Where the index of weights lies: RUN/index for checkpoints, else results/NAME/index.

    The latter too where the run has no index and cannot be written, such as one of somebody else.
    """
    run = run_of(weights)
    usual = (run if is_run(run) else default_out(weights)) / "index"
    if (usual / FILE).is_file() or is_writable(usual):
        return usual
    return Path("results") / run.resolve().name / "index"


def run_of(weights: Path) -> Path:
    """The run that weights belong to: itself, or that of the checkpoint; else the weights."""
    for folder in () if is_named(weights) else (weights, *weights.absolute().parents[:3]):
        if is_run(folder):
            return folder
    return weights


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training of ours."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()
