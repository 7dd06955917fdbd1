"""Indexes of the words of images: one pass over them, and what is counted and sorted after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ibot.data.pixels import normalize
from ibot.errors import DataError, ResourceError, UserError
from ibot.eval.context import ImagesContext
from ibot.eval.features.cache import alone
from ibot.eval.features.entry import Entry, stored
from ibot.eval.features.rows import unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import in_batches, view_batches
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead
from ibot.system.distributed import any_true, barrier
from ibot.system.files import is_disk_full, replacing, write_atomically
from ibot.system.progress import no_counter, print_notes
from ibot.vocabulary.assign import Temperatures, assign, last_weight
from ibot.vocabulary.folder import FILE, Shared, check_fits
from ibot.vocabulary.opened import Vocabulary, open_index, open_one
from ibot.vocabulary.postings import write_postings
from ibot.vocabulary.projection import Projection, fit, sample, sampled_images
from ibot.vocabulary.remedy import ABOUT, Remedy
from ibot.vocabulary.renewal import make_room, unfit
from ibot.vocabulary.statistics import count_words
from ibot.vocabulary.tokenizer import (
    Checkpoint,
    head_hash,
    prototypes,
    temperatures_of,
    tokenizer,
)
from ibot.vocabulary.word_index import FEATURES, Occurrences, WordIndex

__all__ = ["Occurrences", "Vocabulary", "WordIndex", "build", "open_index"]

LARGEST = 65504.0
"""Of float16, in which scores are kept."""


def build(
    context: ImagesContext,
    folder: Path,
    checkpoint: Checkpoint | None = None,
    *,
    again: bool = False,
    told: bool = True,
    remedy: Remedy | None = None,
) -> WordIndex:
    """Index the images of `context` by the words of its weights; one that is there is only opened.

    Everything comes from one pass, which goes on where an earlier one stopped; memory does not grow
    with the number of images. Other checkpoints of the same training may lie in the folder.

    Args:
        context: network and images.
        folder: of the index.
        checkpoint: the weights of the network, where they were read before.
        again: put it in the place of an index that is of something else, or cannot be read.
        told: say which images cannot be read.
        remedy: how a user names all this, for what is raised.

    Raises:
        WeightsError: weights without a head, or whose outputs are not finite.
        UserError: the folder holds an index of other images or of another training, or cannot be
            written. ResourceError: the disk is full. DataError: no image can be read.
    """
    remedy = remedy or Remedy()
    checkpoint = checkpoint or Checkpoint.read(context.weights, context.key)
    head = tokenizer(context, checkpoint.weights)
    shared = Shared.of(context, head, checkpoint.weights.settings)
    temperatures = temperatures_of(checkpoint.weights)
    place = place_of(folder, context.weights_hash, head, temperatures)
    whole = (place / ABOUT).is_file() and not (again and unfit(folder, shared))
    if not any_true(not whole):
        # Without a lock: what is whole may be read where nothing can be written.
        check_fits(folder, Shared.read(folder, remedy), shared, remedy)
        return open_one(place, shared, remedy)
    with _written(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, ".lock", context.processes):
            if context.processes.is_main:
                if again and (was := make_room(folder, shared)):
                    note = f"the index in '{folder}' is replaced: {was}"
                    print_notes([note], quiet=context.counter is no_counter)
                _claim(folder, shared, remedy)
            barrier()
            check_fits(folder, Shared.read(folder, remedy), shared, remedy)
            if not (place / ABOUT).is_file():
                _build(context, head, checkpoint, temperatures, place, told=told)
            barrier()
    return open_one(place, shared, remedy)


def _claim(folder: Path, shared: Shared, remedy: Remedy) -> None:
    """Say what a folder without a whole index is of: it is nobody's, such as after a try with a
    wrong --data. Raises DataError for an index.json that is not ours.
    """
    if (folder / FILE).is_file():
        Shared.read(folder, remedy)
    if not any(folder.glob(f"*/{ABOUT}")):
        shared.write(folder)


@contextmanager
def _written(folder: Path, remedy: Remedy) -> Iterator[None]:
    """What the system says of the folder, told to a user."""
    try:
        yield
    except (ResourceError, UserError) as error:
        # The cache lies in the folder.
        error.fix = error.fix.replace("--cache DIR", f"{remedy.option} DIR")
        raise
    except OSError as error:
        place = Path(error.filename or folder)
        if folder not in (place, *place.parents) and place not in folder.parents:
            raise
        kind = ResourceError if is_disk_full(error) else UserError
        raise kind(
            f"the index cannot be written into '{folder}'",
            why=error.strerror or str(error),
            fix=f"free some space, or name another folder with {remedy.option}",
        ) from None


def place_of(
    folder: Path, weights_hash: str, head: ProjectionHead, temperatures: Temperatures
) -> Path:
    """Where the index by a backbone, its head and the temperatures of that lies."""
    all_of = f"{weights_hash} {head_hash(head)} {temperatures}"
    return folder / hashlib.sha256(all_of.encode()).hexdigest()[:16]


def _build(
    context: ImagesContext,
    head: ProjectionHead,
    checkpoint: Checkpoint,
    temperatures: Temperatures,
    place: Path,
    *,
    told: bool,
) -> None:
    """The pass, then what one process makes of it; about.json is written last."""
    main = context.processes.is_main
    file = place / "projection.npz"
    if main:
        place.mkdir(exist_ok=True)
        if not file.is_file():
            fit(sample(_sample_tokens(context))).save(file)
    barrier()
    projection = Projection.load(file)
    entries = pass_over(context, head, temperatures, projection, place.parent / FEATURES, told=told)
    if not main:
        return
    _finish(head, place, entries)
    about = {
        "name": checkpoint.name,
        "weights_hash": context.weights_hash,
        "step": checkpoint.step,
        "images_seen": checkpoint.images_seen,
        "num_words": len(last_weight(head.patch_layer)),
        "num_class_words": len(last_weight(head.cls_layer)),
        "temperatures": {"cls": temperatures.cls, "patch": temperatures.patch},
        "features": {part: path.name for part, path in entries.items()},
    }
    write_atomically(place / ABOUT, lambda file: file.write_text(json.dumps(about, indent=1)))


def pass_over(
    context: ImagesContext,
    head: ProjectionHead,
    temperatures: Temperatures,
    projection: Projection,
    features: Path,
    *,
    told: bool = True,
) -> dict[str, Path]:
    """Store what an index holds of images in the cache `features`; returns the entry of each part.

    told: say how many images cannot be read, and why the first cannot.
    """
    name = head_hash(head)[:16]
    keys = {
        "cls": str(CLASS_TOKEN),
        "words": f"words {name}",
        "scores": f"scores {name}",
        "confidence": f"confidence {name} at {temperatures.patch!r}",
        "entropy": f"entropy {name} at {temperatures.patch!r}",
        "class_words": f"class words {name}",
        "class_numbers": f"class score, confidence, entropy {name} at {temperatures.cls!r}",
        # A matrix for each index: rows by another one would mean something else.
        "compact": f"compact {projection.digest}",
    }
    extract = Extraction(context.loaded.backbone, head, temperatures, projection, keys)
    rows = replace(context, cache=features).feature_sets(
        context.images, "images", list(keys.values()), extract
    )
    # Where progress is shown: in one process, unless it is to be quiet.
    quiet = context.counter is no_counter or not told
    print_notes(unreadable(rows[keys["words"]]), quiet=quiet)
    return {
        part: Entry(features, context.weights_hash, context.images, context.view, key).path
        for part, key in keys.items()
    }


def _sample_tokens(context: ImagesContext) -> Iterator[Tensor]:
    """Patch tokens [b, N, D] of images spread over the set."""
    backbone, images = context.loaded.backbone, context.images
    chosen = in_batches(sampled_images(len(images)), context.batch)
    for part in view_batches(images, context.view, chosen, context.workers):
        if len(part.positions):
            views = normalize(part.views.to(context.device), backbone.statistics)
            with torch.inference_mode():
                yield backbone(views).patches


@dataclass(frozen=True, slots=True)
class Extraction:
    """All that an index keeps of images, from one pass of the network."""

    backbone: Backbone
    head: ProjectionHead
    temperatures: Temperatures
    projection: Projection
    keys: Mapping[str, str]
    """What each part is called in the cache."""

    def __call__(self, images: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Normalised images [b, 3, H, W] -> rows [b, ...] of what is wanted."""
        output = self.backbone(images)
        cls, patches = output.cls.float(), output.patches.float()
        of_class, of_patches = assign(self.head, cls, patches, self.temperatures)
        numbers = (of_class.score, of_class.confidence, of_class.entropy)
        found = {
            "cls": cls,
            "words": of_patches.word.int(),
            "scores": _half(of_patches.score),
            "confidence": _half(of_patches.confidence),
            "entropy": _half(of_patches.entropy),
            "class_words": of_class.word.int()[:, None],
            "class_numbers": _half(torch.stack(numbers, dim=1)),
            "compact": self.projection(patches).flatten(1),
        }
        return {key: found[part] for part, key in self.keys.items() if key in wanted}


def _half(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST, LARGEST).half()


def _finish(head: ProjectionHead, place: Path, entries: Mapping[str, Path]) -> None:
    """Count, sort, and write what is not by image."""
    tables = {part: stored(path) for part, path in entries.items()}
    _, state = tables["words"]
    if any(not np.array_equal(state, other) for _, other in tables.values()):
        raise DataError(
            f"the rows in '{place.parent / FEATURES}' do not belong together",
            why="an image could be read at one time and not at another",
            fix=f"delete the folder '{place.parent}' and run the same command again",
        )
    rows = {part: table for part, (table, _) in tables.items()}
    of_class: list[NDArray[np.float16]] = np.split(rows["class_numbers"], 3, axis=1)
    counts = {
        kind: len(last_weight(layer))
        for kind, layer in (("patch", head.patch_layer), ("class", head.cls_layer))
    }
    numbers = {
        "patch": (rows["words"], rows["scores"], rows["confidence"], rows["entropy"]),
        "class": (rows["class_words"], *of_class),
    }
    for kind, (words, scores, confidence, entropy) in numbers.items():
        statistics = count_words(words, scores, confidence, entropy, counts[kind])
        statistics.save(place / f"{kind}_statistics.npz")
        write_postings(place, kind, words, scores, counts[kind])
    _write_prototypes(place / "patch_prototypes.npy", head.patch_layer)
    if head.cls_layer is not head.patch_layer:
        _write_prototypes(place / "class_prototypes.npy", head.cls_layer)


def _write_prototypes(file: Path, layer: nn.Module) -> None:
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.save(opened, prototypes(layer).numpy())
