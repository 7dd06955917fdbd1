"""How much a classifier looks at backgrounds, ImageNet-9 (paper table 8; spec_evaluation 9.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.decode import UnreadableImage
from ibot.data.pixels import Statistics, normalize
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.files import LabelledFiles
from ibot.data.sets.subsets import LabelledSubset
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.views import View, in_batches, view_batches
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.robustness.imagenet_subsets import IMAGENET_9, NUM_CLASSES, to_nine
from ibot.eval.robustness.settings import BackgroundSettings
from ibot.eval.robustness.tested_classifier import (
    as_stored,
    classifier_for,
    head_notes,
    head_settings,
    score_labelled,
)
from ibot.eval.scores import bootstrap_mean
from ibot.types import ResultRecord

VARIANTS = {
    "original": "the images as they are",
    "only_fg": "foreground on black",
    "mixed_same": "background of another image of the class",
    "mixed_rand": "background of a random class",
    "mixed_next": "background of the next class",
    "no_fg": "foreground blacked",
    "only_bg_b": "bounding box blacked",
    "only_bg_t": "bounding box filled with background",
}
"""Folders of the challenge. On the last three lower is less reliance on background."""
MASKS = "fg_mask"
CHALLENGE_BATCH = 32
"""Backgrounds at a time: the first that changes the answer ends the search."""

Answer = Callable[[Tensor], Tensor]
"""Normalised images [b, 3, h, w] -> numbers of their folders int64 [b], -1 for none."""


def run(context: LabelledContext, settings: BackgroundSettings) -> list[ResultRecord]:
    """Accuracy on each variant that is there, the gap, on demand the vulnerable foregrounds.

    Raises:
        ConfigError: no root.
        DataError: no variants, variants or a classifier whose classes differ, missing masks or
            backgrounds for the challenge, a mask that cannot be read, and see `classifier_for` and
            `open_folder`.
    """
    if not settings.root:
        raise ConfigError(
            "root is not set",
            why="it names the variants",
            fix="root=DIR with original, only_fg, ...",
        )
    context = as_stored(context)
    variants = _open_variants(Path(settings.root), context)
    masked = _with_masks(settings, variants, context.view) if settings.challenge else None
    classifier = classifier_for(context)
    folders = next(iter(variants.values())).classes
    answer, comparison = _answer(classifier, folders, settings.root)
    notes = [*head_notes(context, classifier), comparison]
    if absent := [name for name in VARIANTS if name not in variants]:
        notes.append(f"variants that '{settings.root}' lacks are left out: {', '.join(absent)}")
    used = {**plain(settings), **head_settings(classifier)}
    found = {
        name: score_labelled(context, images, lambda views, _: answer(views), name)
        for name, images in variants.items()
    }
    notes += unreadable(*found.values())
    records = [
        _accuracy(context, name, variants[name], found[name], used, notes) for name in variants
    ]
    records += _gap(context, variants, found, used, notes)
    if masked is not None:
        records.append(_challenge(context, answer, masked, variants["only_bg_t"], used, notes))
    return records


def _open_variants(root: Path, context: LabelledContext) -> dict[str, LabelledFiles]:
    """The variants that are there, ROOT/VARIANT/val/CLASS/* or ROOT/VARIANT/CLASS/*."""
    there = [name for name in VARIANTS if (root / name).is_dir()]
    if not there:
        raise DataError(
            f"'{root}' holds no variant of the backgrounds challenge",
            why=f"looked for {', '.join(VARIANTS)}",
            fix="name the folder bg_challenge",
        )
    variants = {name: context.read_alike(open_folder(_part(root / name))) for name in there}
    first = variants[there[0]]
    for name, images in variants.items():
        if images.classes != first.classes:
            raise DataError(
                f"the variants '{there[0]}' and '{name}' have different classes",
                why=f"{len(first.classes)} and {len(images.classes)} folders",
                fix="give both the same class folders",
            )
    return variants


def _part(folder: Path) -> Path:
    return folder / "val" if (folder / "val").is_dir() else folder


def _answer(
    classifier: LinearClassifier, folders: tuple[str, ...], root: str
) -> tuple[Answer, str]:
    """How images get the number of a folder, and a note that says how classes were compared."""
    classes = classifier.classes

    def best(views: Tensor) -> Tensor:
        return classifier.logits(views).argmax(dim=1)

    if classes == folders:
        return best, "classes are compared by name"
    if len(folders) == len(IMAGENET_9) and len(classes) == NUM_CLASSES:
        # Published: the best of all 1000, mapped; a class outside of the nine counts as wrong.
        return lambda views: to_nine(best(views)), "1000 classes are mapped to nine"
    if len(folders) == len(classes) == len(IMAGENET_9):
        return best, "nine classes are compared by their order"
    raise DataError(
        f"the classes of the classifier and of '{root}' differ",
        why=f"{len(classes)} classes, such as '{classes[0]}', and {len(folders)} folders, such as "
        f"'{folders[0]}'",
        fix="use a classifier of the same classes, of ImageNet's 1000, or of the nine",
    )


def _accuracy(
    context: LabelledContext,
    name: str,
    images: LabelledFiles,
    found: LabelledFeatures,
    used: dict[str, Any],
    notes: list[str],
) -> ResultRecord:
    record = replace(context, val=images).accuracy(
        "backgrounds",
        found.rows == found.labels,
        found.labels,
        {**used, "variant": name},
        row=f"{name}: {VARIANTS[name]}",
        notes=notes,
    )
    return replace(record, metric=f"backgrounds_{name}_top1")


def _gap(
    context: LabelledContext,
    variants: dict[str, LabelledFiles],
    found: dict[str, LabelledFeatures],
    used: dict[str, Any],
    notes: list[str],
) -> list[ResultRecord]:
    """Accuracy lost by a background of another class; none where one of the two is absent."""
    if not {"mixed_same", "mixed_rand"} <= set(variants):
        return []
    same, other = (
        100 * (found[name].rows == found[name].labels).double().mean().item()
        for name in ("mixed_same", "mixed_rand")
    )
    return [
        replace(context, val=variants["mixed_same"]).record(
            "backgrounds",
            "backgrounds_gap",
            same - other,
            used,
            num_val=len(found["mixed_same"].labels),
            row="gap: mixed_same - mixed_rand",
            notes=notes,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Masked:
    """Originals with a mask of their foreground."""

    images: LabelledSubset
    masks: Tensor
    """uint8 [n, h, w], 255 in the foreground; 0.2 GB for the 4050 of the challenge."""


def _with_masks(
    settings: BackgroundSettings, variants: dict[str, LabelledFiles], view: View
) -> _Masked:
    """Every process reads all masks before any computes: a damaged one ends all alike."""
    root = Path(settings.root)
    for name in ("original", "only_bg_t"):
        if name not in variants:
            raise DataError(
                f"the challenge needs the variant '{name}', which '{root}' lacks",
                fix="challenge=false",
            )
    original, folder = variants["original"], _part(root / MASKS)
    files = [(folder / original.name(i)).with_suffix(".npy") for i in range(len(original))]
    chosen = [i for i, file in enumerate(files) if file.is_file()]
    if not chosen:
        raise DataError(
            f"the challenge needs masks, and '{folder}' holds none of the originals",
            why=f"for example '{files[0]}' is missing",
            fix="challenge=false, or unpack fg_mask there",
        )
    masks = torch.stack([_mask(files[i], view) for i in chosen])
    return _Masked(LabelledSubset(original, chosen), masks)


def _challenge(
    context: LabelledContext,
    answer: Answer,
    masked: _Masked,
    backgrounds: LabelledFiles,
    used: dict[str, Any],
    notes: list[str],
) -> ResultRecord:
    """Share of the foregrounds for which some background makes the answer wrong."""
    behind, statistics = _all_views(context, backgrounds), context.loaded.backbone.statistics

    def vulnerable(images: Tensor, index: NDArray[np.int64]) -> Tensor:
        """Whether each is, bool [b]."""
        found = []
        for image, i in zip(images, index.tolist(), strict=True):
            mask, label = masked.masks[i].float() / 255, masked.images.label(i)
            found.append(_any_fools(answer, image, mask, label, behind, statistics))
        return torch.tensor(found)

    found = score_labelled(context, masked.images, vulnerable, "challenge")
    values = 100 * found.rows.double()
    return replace(context, val=masked.images).record(
        "backgrounds",
        "backgrounds_challenge",
        values.mean().item(),
        used,
        interval=bootstrap_mean(values, context.seed),
        num_val=len(values),
        row="challenge: vulnerable foregrounds",
        num_backgrounds=len(behind),
        notes=[*notes, *unreadable(found)],
    )


def _all_views(context: LabelledContext, images: LabelledFiles) -> Tensor:
    """All images of a variant as uint8 [n, 3, h, w], in memory: 0.6 GB for the challenge's 4050."""
    batches = in_batches(np.arange(len(images)), context.batch)
    parts = view_batches(images, context.view, batches, context.workers)
    return torch.cat([part.views for part in parts])


def _mask(file: Path, view: View) -> Tensor:
    """The foreground as it lies in the view, uint8 [h, w]. Raises DataError for what is no mask."""
    try:
        stored = np.load(file, allow_pickle=False)
        mask = 255 * (np.squeeze(stored) > 0).astype(np.uint8)
        rendered = view.render(np.repeat(mask[:, :, None], 3, axis=2))
    except (OSError, EOFError, TypeError, ValueError, IndexError, UnreadableImage) as error:
        raise DataError(
            f"the mask '{file}' cannot be read", why=str(error), fix="copy it again"
        ) from None
    return torch.from_numpy(rendered[..., 0].copy())


def _any_fools(
    answer: Answer,
    image: Tensor,
    mask: Tensor,
    label: int,
    backgrounds: Tensor,
    statistics: Statistics,
) -> bool:
    """Whether one of `backgrounds` uint8 [n, 3, h, w] behind `image` makes the answer wrong."""
    mask = mask.to(image.device)
    for part in backgrounds.split(CHALLENGE_BATCH):
        # Mixing commutes with the normalisation, which is affine.
        mixed = normalize(part.to(image.device), statistics) * (1 - mask) + image * mask
        if bool((answer(mixed) != label).any()):
            return True
    return False
