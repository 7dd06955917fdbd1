"""Several checkpoints of a run in one index, while the run may go on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ibot.engine.checkpoint import checkpoints_of
from ibot.errors import UserError, WeightsError
from ibot.eval.context import ImagesContext
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.views import evenly
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.system.distributed import any_true
from ibot.system.progress import print_notes
from ibot.vocabulary.folder import default_folder, is_run
from ibot.vocabulary.index import build
from ibot.vocabulary.remedy import Remedy
from ibot.vocabulary.tokenizer import Checkpoint
from ibot.vocabulary.word_index import FEATURES, WordIndex
from ibot.weights.read import fit
from ibot.words import counted

log = logging.getLogger("ibot")


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of a request."""

    folder: Path
    count: int
    """Images of the set, unreadable ones included."""
    indexes: list[WordIndex]
    """One for each checkpoint asked for, oldest first."""


def index_checkpoints(
    request: Request, checkpoints: str = "newest", *, again: bool = False, quiet: bool = False
) -> Indexed:
    """Index the images of `request` by the words of its weights, or of checkpoints of its run.

    A checkpoint that the run deletes meanwhile is passed over, with a warning.

    Args:
        request: weights, images, view, device; `out` is the folder of the index, by default
            `default_folder`. Its cache is not used.
        checkpoints: "newest", "all", or how many at most, evenly spaced from the first to the
            newest.
        again: put it in the place of an index that is of something else, or cannot be read.
        quiet: neither notes nor progress on the error output.

    Raises:
        UserError: and its kinds, as `build`; several checkpoints of weights that are no run.
    """
    folder = Path(request.out) if request.out else default_folder(Path(request.weights))
    chosen = chosen_checkpoints(Path(request.weights), checkpoints)
    # The newest one stays longest.
    newest = replace(request, weights=str(chosen[-1]), cache=str(folder / FEATURES))
    remedy = Remedy(request, request.out)
    found = []
    with opened(ImagesContext, newest, quiet=quiet) as context:
        notes = _fewer(len(chosen), checkpoints)
        print_notes(notes, quiet or not context.processes.is_main)
        for path in chosen:
            if (checkpoint := _read(path, context)) is None:
                log.warning("'%s' is passed over: it was deleted meanwhile", path)
                continue
            own = context
            if path != chosen[-1]:
                own = _with_weights(context, checkpoint, request)
            found.append(build(own, folder, checkpoint, again=again, told=not found, remedy=remedy))
        return Indexed(folder, len(context.images), found)


def chosen_checkpoints(weights: Path, checkpoints: str) -> list[Path]:
    """The weights to read: what is named, or checkpoints of the run that is named."""
    if not is_run(weights):
        if checkpoints != "newest":
            raise UserError(
                f"--checkpoints {checkpoints} of '{weights}', which is no run",
                fix="name a run folder, or leave --checkpoints out",
            )
        return [weights]
    there = checkpoints_of(weights)
    if not there:
        raise WeightsError(
            f"'{weights}' holds no checkpoint yet",
            fix="wait for the first one, or name another run",
        )
    if checkpoints == "newest":
        return there[-1:]
    limit = len(there) if checkpoints == "all" else int(checkpoints)
    # Reversed, so that the newest is one of them even if one alone is wanted.
    places = len(there) - 1 - evenly(len(there), limit)
    return [there[i] for i in np.sort(places)]


def _fewer(there: int, asked: str) -> list[str]:
    """A note where a run has kept fewer checkpoints than a user wants to see."""
    wanted = {"newest": 1, "all": 2}.get(asked) or int(asked)
    if there >= wanted:
        return []
    kept = f"the run has kept {counted(there, 'checkpoint')} so far"
    return [f"{kept}: a training with checkpoint.keep=N keeps N of them"]


def _read(path: Path, context: ImagesContext) -> Checkpoint | None:
    """The weights of a checkpoint; None where some process found them deleted."""
    checkpoint = None
    try:
        checkpoint = Checkpoint.read(path, context.key)
    except WeightsError:
        if path.exists():
            raise
    return None if any_true(checkpoint is None) else checkpoint


def _with_weights(
    context: ImagesContext, checkpoint: Checkpoint, request: Request
) -> ImagesContext:
    """The same images and means with another network of the same run."""
    loaded = fit(checkpoint.weights, heads=request.heads, allow_partial=request.allow_partial)
    name = weights_hash(loaded)
    loaded.backbone.to(context.device)
    return replace(context, loaded=loaded, weights=str(checkpoint.path), weights_hash=name)
