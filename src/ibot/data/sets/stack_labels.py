"""Classes of the images of stacks, from arrays beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ibot.data.sets.classes import number_classes
from ibot.data.sets.zarr_stack import zarr_labels
from ibot.errors import DataError
from ibot.words import sides


def find_labels(
    paths: Sequence[Path], counts: Sequence[int]
) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
    """Labels int32 [n] and classes of the images of stacks; None without them.

    Those of `NAME.npy` or `NAME.zarr` lie in `NAME_labels.npy` or `NAME-labels.npy`; of a zarr
    array also in the array `labels` of its group; else those of all stacks, one after the other, in
    `labels.npy` beside them. Whole numbers or texts [N]; classes are called by them. Numbers below
    0 mean that an image has none, and then none has.
    Raises DataError for labels of other shapes, types or numbers.
    """
    texts: list[str] = []
    each = [_of_stack(path) for path in paths]
    if all(found is not None for found in each):
        for found, path, count in zip(each, paths, counts, strict=True):
            assert found is not None
            texts += _texts(*found, str(path), count)
    elif (beside := paths[0].parent / "labels.npy").is_file():
        texts = _texts(_load(beside), str(beside), str(paths[0]), sum(counts))
    if not texts or any(text.startswith("-") and text[1:].isdigit() for text in texts):
        return None
    return number_classes(texts)


def _of_stack(path: Path) -> tuple[NDArray[Any], str] | None:
    """Labels of one stack alone, and where they lie."""
    for mark in "_-":
        beside = path.with_name(f"{path.stem}{mark}labels.npy")
        if beside.is_file():
            return _load(beside), str(beside)
    if path.is_dir() and (found := zarr_labels(path)) is not None:
        return found, str(path.parent / "labels")
    return None


def _load(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            return npy.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = " ".join(str(error).split())[:100]
        fix = "save an array of whole numbers or texts, without objects"
        raise DataError(f"the labels '{path}' cannot be read", why=why, fix=fix) from None


def _texts(labels: NDArray[Any], origin: str, stack: str, count: int) -> list[str]:
    """Names of the classes. Raises DataError."""
    if labels.ndim != 1 or labels.dtype.kind not in "uibUS":
        raise DataError(
            f"'{origin}' holds no labels",
            why=f"it is {labels.dtype} {sides(labels.shape)}",
            fix="one whole number or text for each image, [N]",
        )
    if len(labels) != count:
        raise DataError(
            f"'{origin}' has {len(labels)} labels for the {count} images of '{stack}'",
            fix="give each image one, in the same order",
        )
    if labels.dtype.kind == "S":
        return [text.decode("utf-8", "replace") for text in labels.tolist()]
    return [str(label) for label in labels.tolist()]
