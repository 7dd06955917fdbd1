"""Queries, a database and what is right: files of revisited Oxford and Paris, groups, classes
(spec_evaluation 8.13).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS, PICTURES, Channels
from ibot.data.annotated.pictures import pictures_of
from ibot.data.annotated.right_answers import Graded, Places, RightAnswers, SameClass
from ibot.data.decode import Orientation
from ibot.data.sets.files import FileImages, file_images
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.lists import LISTS
from ibot.data.sets.open import find_labelled, open_images
from ibot.data.sets.parts import quoted
from ibot.data.sets.scan import require_data, scan
from ibot.data.sets.variants import read_as
from ibot.errors import DataError
from ibot.system.inert import Array, unpickle

GRADES = ("easy", "hard", "junk")
IMAGE_FOLDERS = ("jpg", "images", ".")
"""Where images that a file names are looked for, below the folder of the data."""
QUERIES, DATABASES = ("query", "queries"), ("gallery", "database", "index")
"""What folders of labelled queries and of what is searched are called."""
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """What is searched, for what, and what should be found."""

    root: Path
    """What a user calls it: the file that says what is right, or the folder."""
    database: Images
    queries: Images
    right: RightAnswers
    """By numbers of queries, which are those of `queries`."""
    own: Places | None = None
    """int64 [q], where the queries lie in the database; None: they do not."""
    boxes: NDArray[np.float64] | None = None
    """float64 [q, 4], part of each query that is meant: left, top, right, bottom in pixels."""


def open_retrieval(
    data: str,
    val_data: str = "",
    *,
    images: str = "",
    labels: str = "",
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = PICTURES,
) -> RetrievalSet:
    """The retrieval task that a user names.

    Args:
        data: a folder with `gnd_*.pkl` or `gnd_*.json` (`imlist`, `qimlist`, `gnd`) or with
            `groups.json` (group to names of images), whose images lie in `jpg`, `images` or itself;
            a folder with `query` and `gallery`, class folders each; or images with labels in any
            form, each of which is sought among the others; where they have parts, those held out.
        val_data: labelled queries, where `data` is the database.
        images: the folder of the images that a file names.
        labels: that file, where it is another; or a list of images with labels.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        channels: which are read, of images in the forms of `open_images`.

    Raises:
        DataError: the file is damaged, holds what is no data, or names images that are missing or
            out of range; images without labels; and see `open_images`.
    """
    how = exif_orientation, max_pixels
    if labels and Path(labels).suffix.lower() in LISTS:
        data, labels = labels, ""
    file = Path(labels) if labels else None if val_data else _file_in(Path(data))
    if file is not None:
        folders = (
            [images] if images else [str(Path(data or file.parent) / at) for at in IMAGE_FOLDERS]
        )
        return _from_file(file, folders, how)
    require_data(data)
    parts = [_part_in(Path(data), words) for words in (DATABASES, QUERIES)]
    if not val_data and all(parts):
        data, val_data = map(str, parts)
    named, data = data, pictures_of(data)
    opened = {"exif_orientation": exif_orientation, "max_pixels": max_pixels, "channels": channels}
    pair = find_labelled(data, val_data, **opened)
    if pair is not None and val_data:
        database, queries = pair
        right = SameClass(queries.labels, database.labels)
        return RetrievalSet(root=database.root, database=database, queries=queries, right=right)
    database = pair[1] if pair else open_images(data, **opened)
    if not isinstance(database, LabelledImages) or len(database.classes) < 2:
        raise DataError(
            f"nothing says which images of '{named}' belong together",
            why="there is no gnd_*.pkl, gnd_*.json or groups.json, and there are no two classes",
            fix="name such a file with --labels, or put the images of each class into a folder",
        )
    own = np.arange(len(database))
    right = SameClass(database.labels, database.labels, own)
    return RetrievalSet(
        root=database.root, database=database, queries=database, right=right, own=own
    )


def _part_in(folder: Path, words: Sequence[str]) -> Path | None:
    return next((folder / word for word in words if (folder / word).is_dir()), None)


def _file_in(folder: Path) -> Path | None:
    """The file that says what is right, JSON before pickle. Raises DataError for several."""
    if not folder.is_dir():
        return None
    found = {file.stem: file for kind in ("pkl", "json") for file in folder.glob(f"gnd_*.{kind}")}
    if len(found) > 1:
        names = sorted(file.name for file in found.values())
        raise DataError(
            f"'{folder}' holds several ground truths",
            why=quoted(names),
            fix=f"name one: --labels {folder / names[0]}",
        )
    groups = folder / "groups.json"
    return next(iter(found.values()), groups if groups.is_file() else None)


def _from_file(file: Path, folders: Sequence[str], how: tuple[Orientation, int]) -> RetrievalSet:
    content = _read(file)
    if isinstance(content, dict) and {"imlist", "qimlist", "gnd"} <= set(content):
        names, queries = (_names(content[key], file, key) for key in ("imlist", "qimlist"))
        right, boxes = _graded(content["gnd"], queries, len(names), file)
        database, asked = (_images(part, folders, file, how) for part in (names, queries))
        return RetrievalSet(root=file, database=database, queries=asked, right=right, boxes=boxes)
    if isinstance(content, dict) and content:
        groups = [_names(names, file, str(group)) for group, names in content.items()]
        names = [name for group in groups for name in group]
        _require_once(names, file)
        labels = np.repeat(np.arange(len(groups), dtype=np.int32), [len(g) for g in groups])
        database, own = _images(names, folders, file, how), np.arange(len(names))
        right = SameClass(labels, labels, own)
        return RetrievalSet(root=file, database=database, queries=database, right=right, own=own)
    raise DataError(
        f"'{file}' is no ground truth",
        why="it holds neither 'imlist', 'qimlist' and 'gnd' nor groups of names",
        fix="write {group: [names]}, or the lists of revisited Oxford and Paris",
    )


def _read(file: Path) -> Any:
    """What a pickle or JSON file holds. Raises DataError."""
    try:
        if file.suffix.lower() == ".json":
            return json.loads(file.read_text(encoding="utf-8"))
        return unpickle(file)
    except _DAMAGED as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        fix = "check the path, or write it anew as .json"
        if isinstance(error, pickle.UnpicklingError):
            fix = "only lists, dictionaries, text and numbers are read: write it anew as .json"
        first = (why.strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"'{file}' cannot be read", why=first, fix=fix) from None


def _names(value: Any, file: Path, key: str) -> list[str]:
    """A list of names of images. Raises DataError for what else, and for none."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise DataError(f"'{file}': '{key}' is no list of names", fix="write names of images")
    if not value:
        raise DataError(f"'{file}': '{key}' is empty", fix="name at least one image")
    return list(value)


def _require_once(names: Sequence[str], file: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"'{file}' names '{name}' twice", fix="put each image into one group, once"
            )
        seen.add(name)


def _graded(
    rows: Any, queries: Sequence[str], count: int, file: Path
) -> tuple[Graded, NDArray[np.float64] | None]:
    """Answers and boxes of each query; `count` images are searched. Raises DataError."""
    if not isinstance(rows, list) or len(rows) != len(queries):
        raise DataError(
            f"'{file}': 'gnd' has not one entry for each of {len(queries)} queries",
            fix="write one for each name of 'qimlist'",
        )
    found: dict[str, list[Places]] = {grade: [] for grade in GRADES}
    boxes = []
    for row, query in zip(rows, queries, strict=True):
        if not isinstance(row, dict) or not set(GRADES) & set(row):
            raise DataError(
                f"'{file}': query '{query}' has no answers",
                why=f"looked for {quoted(GRADES)}",
                fix="give each query these lists; they may be empty",
            )
        for grade in GRADES:
            places = _numbers(row.get(grade, []), np.int64, f"'{file}': query '{query}': {grade}")
            if len(places) and not 0 <= places.min() <= places.max() < count:
                wrong = places.max() if places.max() >= count else places.min()
                raise DataError(
                    f"'{file}': query '{query}' names image {wrong} of {count}",
                    why="images are counted from 0, by their place in 'imlist'",
                    fix=f"correct its list '{grade}'",
                )
            found[grade].append(places)
        if "bbx" in row:
            boxes.append(_numbers(row["bbx"], np.float64, f"'{file}': query '{query}': bbx"))
    whole = len(boxes) == len(queries) and all(len(box) == 4 for box in boxes)
    return Graded(**found), np.stack(boxes) if whole else None


def _numbers(value: Any, kind: type[np.generic], what: str) -> NDArray[Any]:
    """A list or array of numbers as an array of a `kind`. Raises DataError."""
    value = value.numbers if isinstance(value, Array) else value
    try:
        exact = np.asarray(value, np.float64).reshape(-1)
        numbers = exact.astype(kind)
    except (TypeError, ValueError):
        exact = numbers = np.full(1, np.nan)
    if not np.isfinite(exact).all() or (numbers != exact).any():
        raise DataError(f"{what} is no list of numbers", fix="write numbers")
    return numbers


def _images(
    names: Sequence[str], folders: Sequence[str], file: Path, how: tuple[Orientation, int]
) -> FileImages:
    """The images called so, with or without their extension, in the first folder that fits.

    Raises DataError for one that is missing.
    """
    for folder in folders:
        known = _known(Path(folder))
        gone = [name for name in names if name not in known]
        if len(gone) == len(names) and folder != folders[-1]:
            continue
        if gone:
            looked = quoted(folders) if len(gone) == len(names) else f"'{folder}'"
            raise DataError(
                f"'{file}' names '{gone[0]}', which is missing",
                why=f"{len(gone)} of {len(names)} images are not in {looked}",
                fix="put the files there, or name their folder with --images",
            )
        return read_as(file_images(Path(folder), [known[name] for name in names], "list"), *how)
    raise AssertionError("the last folder is judged")


def _known(folder: Path) -> dict[str, str]:
    """The images below a folder, by whole names and by those without extension."""
    if not folder.is_dir():
        return {}
    try:
        found = scan(folder)
    except DataError:  # no images
        return {}
    whole = [found.name(i) for i in range(len(found))]
    return {name.rpartition(".")[0]: name for name in whole} | {name: name for name in whole}
