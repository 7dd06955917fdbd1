"""Copy detection: altered copies of images are queries, their originals the answers
(spec_evaluation 8.14).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.override import show
from ibot.data.annotated.attacks import ATTACKS, AttackedImages
from ibot.data.annotated.copies import Block
from ibot.data.sets.images import Images
from ibot.data.sets.subsets import SubsetImages
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import FeatureSet, unreadable
from ibot.eval.features.views import View, evenly
from ibot.eval.neighbours.context import CopyContext
from ibot.eval.neighbours.descriptors import (
    PIXELS,
    Descriptor,
    Pixels,
    TokenAndGem,
    Whitening,
    whitening,
)
from ibot.eval.neighbours.kept_answers import ANSWERS, Answered, Picture, keep_answers
from ibot.eval.neighbours.ranking import average_precision, first_answers
from ibot.eval.neighbours.searched import Searched
from ibot.eval.neighbours.settings import CopySettings
from ibot.eval.scores import bootstrap_mean
from ibot.system.records import data_name
from ibot.types import ResultRecord


def defaults(context: CopyContext) -> CopySettings:
    """With the size that `--size` names."""
    settings = CopySettings()
    return replace(settings, size=context.asked_size or settings.size)


def run(context: CopyContext, settings: CopySettings) -> list[ResultRecord]:
    """The mAP of each block; nothing is chosen.

    In published mode whitening scales by the second moment, in clean mode by the covariance.

    Raises:
        ConfigError: settings out of range, or an unknown attack.
        DataError: too few images to whiten by, or images that cannot be read; see `open_images`.
    """
    _check(settings)
    view, descriptor = View((settings.size, settings.size), fit="squash"), TokenAndGem()
    if settings.features == "pixels":
        view, descriptor = PIXELS, Pixels()
    context = context.seen_as(view)
    searched = Searched.of(context, context.task.originals, settings.distractors, descriptor)
    white, white_notes = _whitening(context, settings, descriptor)
    bank = [rows if white is None else white(rows) for rows in searched.bank]
    found = []
    for name, block in _blocks(context, settings).items():
        rows, right = _asked(context, name, block, descriptor, searched)
        asked = rows.rows if white is None else white(rows.rows)
        first = first_answers(asked, bank, max(settings.nearest, ANSWERS), context.device)
        scores = average_precisions(first[:, : settings.nearest], right)
        found.append(Found(name, block.images, rows, right, first, torch.from_numpy(scores)))
    shown = _keep(context, settings, found, searched)
    notes = [*white_notes, *unreadable(*searched.features)]
    common = {k: v for k, v in plain(settings).items() if k not in ("size", "shown")}
    common |= {"feature": str(descriptor)}
    end = " (pixels)" if settings.features == "pixels" else ""
    return [
        context.record(
            "copy_detection",
            "copy_detection_map",
            100 * one.scores.mean().item(),
            common,
            row=one.name + end,
            interval=bootstrap_mean(100 * one.scores, context.seed),
            num_train=len(searched),
            num_val=len(one.scores),
            notes=[*notes, *unreadable(one.features)],
            cached=one.features.cached and searched.cached,
            first=100 * float(np.mean(one.first[:, 0] == one.right)),
            shown=shown,
        )
        for one in found
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the copies of a block find."""

    name: str
    images: Images
    features: FeatureSet
    """Of the n copies that can be read and have an original that can."""
    right: NDArray[np.int64]
    """int64 [n], row of the original of each."""
    first: NDArray[np.int64]
    """int64 [n, k], rows of what was searched, most similar first."""
    scores: Tensor
    """float64 [n], average precision."""


def _check(settings: CopySettings) -> None:
    if min(settings.size, settings.nearest) < 1 or min(settings.attacked, settings.shown) < 0:
        raise ConfigError(
            f"size={settings.size}, nearest={settings.nearest}, attacked={settings.attacked} and "
            f"shown={settings.shown} cannot be",
            fix="for example size=224 nearest=20 attacked=200 shown=12",
        )
    if not settings.attacks or not set(settings.attacks) <= set(ATTACKS):
        raise ConfigError(
            f"attacks={show(settings.attacks)} cannot be", fix=f"known: {', '.join(ATTACKS)}"
        )


def _whitening(
    context: CopyContext, settings: CopySettings, descriptor: Descriptor
) -> tuple[Whitening | None, list[str]]:
    """By the images that the settings name, and notes on them."""
    if not settings.whiten:
        return None, []
    images = context.further(settings.whiten)
    if images.fingerprint() == context.task.originals.fingerprint():
        raise DataError(
            "the originals cannot be whitened by themselves",
            why=f"whiten={settings.whiten} names them",
            fix="name other images of the same kind",
        )
    found = context.describe(images, "whitening", descriptor)
    count, width = found.rows.shape
    published = context.mode == "published"
    if count <= width and not published:
        raise DataError(
            f"{count} images are too few to whiten by",
            why=f"a feature has {width} numbers: in some directions they do not differ at all",
            fix=f"name more than {width} images, or leave out whiten",
        )
    notes = unreadable(found)
    if count <= width:
        notes.append(f"whitened by {count} images, fewer than the {width} numbers of a feature")
    return whitening(found.rows, centred=not published), notes


def _blocks(context: CopyContext, settings: CopySettings) -> dict[str, Block]:
    """The blocks of copies; where there are none they are made of the originals."""
    if context.task.blocks:
        return context.task.blocks
    originals = context.task.originals
    chosen = evenly(len(originals), settings.attacked or len(originals))
    some = SubsetImages(originals, chosen)
    return {
        name: Block(AttackedImages(some, name, context.seed), chosen) for name in settings.attacks
    }


def _asked(
    context: CopyContext, name: str, block: Block, descriptor: Descriptor, searched: Searched
) -> tuple[FeatureSet, NDArray[np.int64]]:
    """Features of the copies that can be read, and the row of the original of each: int64 [n].

    Copies of an original that cannot be read are left out.
    """
    rows = context.describe(block.images, name, descriptor)
    right = searched.rows_of_database()[block.original[rows.index]]
    there = np.flatnonzero(right >= 0)
    if not len(there):
        raise DataError(
            f"no original of the block '{name}' can be read", fix="look at the originals"
        )
    return (rows if len(there) == len(right) else rows.take(there)), right[there]


def average_precisions(first: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP of each query [n] with the answers `first` [n, k] and the one that is `right` [n]."""
    return np.array(
        [
            average_precision(np.flatnonzero(answers == own), 1)
            for answers, own in zip(first, right, strict=True)
        ]
    )


def _keep(
    context: CopyContext,
    settings: CopySettings,
    found: Sequence[Found],
    searched: Searched,
) -> str:
    """Keep the first answers to some copies; returns where, below the folder of the results.

    They are of the block `strong`, without it of the hardest one.
    """
    if not settings.shown:
        return ""
    made = context.identity("copy_detection", plain(settings))
    name = f"copy_detection-{made}/{Path(data_name(context.task.root)).stem}_{settings.features}"
    if not context.processes.is_main:
        return name
    hardest = min(found, key=lambda one: (one.name != "strong", one.scores.mean().item()))
    rows = []
    for i in evenly(len(hardest.right), settings.shown).tolist():
        answers = [
            Picture(*searched.image_of(row), "right" if row == hardest.right[i] else "wrong")
            for row in hardest.first[i, :ANSWERS].tolist()
        ]
        query = Picture(hardest.images, int(hardest.features.index[i]))
        rows.append(Answered(query, answers, hardest.scores[i].item()))
    title = f"{hardest.name}: {context.weights}, {settings.features}"
    keep_answers(context.out / name, title, rows)
    return name
