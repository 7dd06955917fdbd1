"""Which files a user's words mean: a file, a pattern, a folder of files that hold many images."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ibot.data.formats import extension
from ibot.data.sets.parts import Part, find_parts, is_folder, part_note, part_of
from ibot.data.sets.tars import INDEX
from ibot.errors import DataError

Form = Literal["tar", "parquet", "arrow", "npy", "zarr"]
"""What holds many images: archives, tables, data sets of Hugging Face on disk, stacks."""
FORMS: dict[str, Form] = {
    ".tar": "tar",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".npy": "npy",
    ".zarr": "zarr",
}
"""By extension."""
_TABLES = ("parquet", "arrow")
"""Those with rows that may say to which part they belong."""
_DOCUMENTS = frozenset({".md", ".json", ".yaml", ".yml"})
"""What may lie beside them in a folder, as cards and manifests do."""
_NAMED_DOCUMENTS = frozenset({"LICENSE", INDEX, "_SUCCESS", "_metadata", "_common_metadata"})
_ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")
SPLITS = "dataset_dict.json"
"""Marks a folder of Hugging Face with a folder for each split."""
_LABELS = re.compile(r"(.*[-_])?labels\.npy")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST = 1_000_000
"""Names that a pattern in braces may stand for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the images of a part lie; nowhere when it has neither a folder nor files."""

    folder: Path | None = None
    """A folder of loose files."""
    files: tuple[Path, ...] = ()
    """Files that hold many images, in order, all of one form."""
    form: Form | None = None
    rows: Part | None = None
    """The part to which the rows of the files must belong; None where all do."""
    notes: tuple[str, ...] = ()
    """What lies beside it and belongs to other parts, a sentence each; of a folder to train on
    `scan` says it."""


def find_place(data: str, part: Part) -> Place:
    """Where a part of `data` lies.

    A folder with a training part and one held out has those of its folders; of files in one
    folder, a word of their names tells (`train-000.tar`, `validation-00000-of-00005.parquet`); what
    has no parts is training data.
    Raises DataError for patterns without a file, and where `find_parts` does.
    """
    path = Path(data)
    if (parts := find_parts(path)) is not None:
        chosen = parts.train if part == "train" else parts.validation()
        files = _files(str(chosen))
        others = parts.beside if part == "train" else parts.left(chosen)
        notes = tuple(part_note(part, chosen.name, others))
        if files:
            return replace(_place(files), notes=notes)
        return Place(chosen, notes=() if part == "train" else notes)
    if files := _files(data):
        return _of_part(part, files)
    return Place(path) if part == "train" else Place()


def form_of(path: Path) -> Form | None:
    """What a file or folder that holds many images is; None for others."""
    form = FORMS.get(extension(path.name))
    if path.is_dir():
        marked = any((path / mark).is_file() for mark in _ZARR_MARKS)
        return "zarr" if marked or form == "zarr" else None
    return form if path.is_file() and form != "zarr" else None


def is_labels(path: Path) -> bool:
    """Whether a stack holds labels of others, by its name."""
    return _LABELS.fullmatch(path.name.lower()) is not None


def _place(files: Sequence[Path]) -> Place:
    return Place(files=tuple(files), form=form_of(files[0])) if files else Place()


def _files(data: str) -> list[Path]:
    """The files of one form that `data` means: itself, a pattern, or all of a folder."""
    path = Path(data)
    if path.exists():
        if form_of(path):
            return [path]
        return _inside(path) if path.is_dir() else []
    if not (glob.has_magic(data) or _BRACES.search(data)):
        return []
    found = list(_matching(data))
    by_form: dict[Form, list[Path]] = {
        form: [file for file in found if form_of(file) == form] for form in FORMS.values()
    }
    if not any(by_form.values()):
        raise DataError(
            f"no .tar file matches '{data}', and none of {' '.join(list(FORMS)[1:])}",
            why=f"{len(found)} other files do",
            fix="check the pattern",
        )
    return _one_form(by_form, data)


def _one_form(by_form: dict[Form, list[Path]], data: str) -> list[Path]:
    filled = {form: files for form, files in by_form.items() if files}
    if len(filled) > 1:
        raise DataError(
            f"'{data}' stands for files of several forms",
            why=", ".join(f"{len(files)} of {form}" for form, files in filled.items()),
            fix="name those of one form",
        )
    (files,) = filled.values()
    return files if all(map(is_labels, files)) else [file for file in files if not is_labels(file)]


def _matching(pattern: str) -> Iterator[Path]:
    """The files of a pattern, sorted; those in braces in their order. Raises DataError."""
    names = expand_braces(pattern)
    if names == [pattern] or any(map(glob.has_magic, names)):
        yield from (Path(name) for each in names for name in sorted(glob.glob(each)))  # noqa: PTH207 - any part may be a pattern
        return
    gone = [name for name in names if not os.path.exists(name)]  # noqa: PTH110 - strings
    if gone:
        raise DataError(
            f"'{gone[0]}' of '{pattern}' is missing",
            why=f"{len(gone)} of {len(names)} files are not there",
            fix="put them there, or correct the pattern",
        )
    yield from map(Path, names)


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: `{000..199}` for numbers, `{a,b}` for words.

    Raises DataError for more than a million.
    """
    texts = _BRACES.split(pattern)  # text, inside of braces, text, ...
    choices = [_choices(text) if i % 2 else [text] for i, text in enumerate(texts)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST:
        raise DataError(f"'{pattern}' stands for {count} files", fix="name fewer in the braces")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = numbers.groups()
        if int(last) - int(first) > _MOST:
            raise DataError(f"'{{{inside}}}' stands for too many files", fix="name fewer")
        digits = len(first) if first.startswith("0") or len(first) == len(last) else 0
        return [f"{number:0{digits}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _inside(folder: Path) -> list[Path]:
    """All files of one form in a folder that holds nothing else but documents, or in its only
    folder; none in others.
    """
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                kind = extension(name)
                if name[0] == "." or kind in _DOCUMENTS or name in _NAMED_DOCUMENTS:
                    continue
                # Ends at the first other file: this may be a folder of millions of images.
                if kind not in FORMS and not is_folder(entry):
                    return []
                names.append(name)
    except OSError:  # `scan` will say so
        return []
    names = [name for name in names if not is_labels(Path(name))] or names
    if len(names) == 1 and form_of(only := folder / names[0]) is None and only.is_dir():
        return _inside(only) if find_parts(only) is None else []
    if (folder / SPLITS).is_file():
        chosen = [name for name in names if part_of(name) == "train"] or names
        return [file for name in sorted(chosen) for file in _inside(folder / name)]
    first = FORMS.get(extension(names[0])) if names else None
    if first is None or not all(form_of(folder / name) == first for name in names):
        return []
    return sorted(folder / name for name in names)


def _of_part(part: Part, files: list[Path]) -> Place:
    """Those of a part by a word of their names; where not both parts are there, all train, or the
    rows of tables say to which part they belong.
    """
    by_part: dict[str | None, list[Path]] = {}
    for path in files:
        words = (part_of(word) for word in re.findall("[a-z]+", path.stem.lower()))
        by_part.setdefault(next((word for word in words if word), None), []).append(path)
    val = by_part.get("val") or by_part.get("test") or []
    if by_part.get("train") and val:
        chosen = by_part["train"] if part == "train" else val
        known = {*chosen, *(by_part["train"] if part == "val" else ())}
        beside = [path.name for path in files if path not in known]
        first = chosen[0].name + (f" and {len(chosen) - 1} more" if chosen[1:] else "")
        return replace(_place(chosen), notes=tuple(part_note(part, first, beside)))
    whole = _place(files)
    if whole.form in _TABLES:
        return replace(whole, rows=part)
    return whole if part == "train" else Place()
