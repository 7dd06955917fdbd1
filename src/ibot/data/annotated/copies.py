"""Originals and altered copies of them: the blocks of Copydays, or a table (spec_evaluation
8.14).
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibot.config.reading import MAX_PIXELS
from ibot.data.annotated.pictures import ORIGINALS, pictures_of
from ibot.data.annotated.right_answers import Places
from ibot.data.decode import Orientation
from ibot.data.sets import fingerprints
from ibot.data.sets.files import FileImages, file_images
from ibot.data.sets.images import Images
from ibot.data.sets.lists import listed_files
from ibot.data.sets.open import find_labelled, open_images
from ibot.data.sets.scan import require_data, scan
from ibot.data.sets.variants import read_as
from ibot.errors import DataError
from ibot.words import by_numbers

COPYDAYS = re.compile(r"[0-9]{6}")
"""Names of Copydays: the first four digits are those of the original."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Copies that were altered alike."""

    images: Images
    original: Places
    """int64 [n], place of the original of each."""

    def fingerprint(self) -> str:
        """SHA-256 in hex of the images and their originals."""
        return fingerprints.digest("copies", self.images.fingerprint(), self.original)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySet:
    """Originals, and blocks of copies by name; without blocks they are yet to be made."""

    root: Path
    """What a user calls it: the folder of all, or the table."""
    originals: Images
    blocks: dict[str, Block]


def open_copies(
    data: str,
    *,
    labels: str = "",
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
) -> CopySet:
    """The originals and copies that a user names.

    A copy belongs to the original of the same name; else to that whose name, followed by a sign,
    begins its own, the longest such one; else, where both are called as in Copydays, by the first
    four digits.

    Args:
        data: a folder with `original` and blocks of copies such as `strong` and `jpegqual/20`; or
            images in any form, where they have parts those held out, of a set with label maps or
            masks its pictures: originals alone.
        labels: a table with the columns `copy`, `original` and perhaps `block`, paths relative to
            `data`; without `block` the folder of a copy is its block.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.

    Raises:
        DataError: copies without an original, no copies, a table that is damaged or names files
            that are missing; and see `scan` and `open_images`.
    """
    require_data(data)
    how = exif_orientation, max_pixels
    root = Path(data)
    if labels:
        return _from_table(Path(labels), root, how)
    top = next((name for name in ORIGINALS if (root / name).is_dir()), "")
    if not top:
        data = pictures_of(data)
        pair = find_labelled(data, exif_orientation=how[0], max_pixels=how[1])
        images = pair[1] if pair else open_images(data, exif_orientation=how[0], max_pixels=how[1])
        return CopySet(root=images.root, originals=images, blocks={})
    originals = read_as(scan(root / top), *how)
    found = scan(root)
    names = [found.name(i) for i in range(len(found))]
    copies = [name for name in names if not name.startswith(f"{top}/")]
    if not copies:
        raise DataError(
            f"'{root}' holds no copies",
            why=f"there are images in '{top}' only",
            fix=f"put copies beside that folder, or have some made: --data {root / top}",
        )
    stems = [_stem(originals.name(i)) for i in range(len(originals))]
    links = _linked(copies, stems, root)
    blocks = {top: Block(originals, np.arange(len(originals)))}
    blocks |= _blocks(root, copies, links, [name.rpartition("/")[0] for name in copies], how)
    return CopySet(root=root, originals=originals, blocks=blocks)


def _stem(name: str) -> str:
    """Name of a file without folders and extension."""
    return name.rpartition("/")[2].rpartition(".")[0] or name.rpartition("/")[2]


def _linked(copies: Sequence[str], originals: Sequence[str], root: Path) -> list[int]:
    """Place of the original of each copy. Raises DataError for a copy without."""
    exact = {stem: place for place, stem in enumerate(originals)}
    digits = {stem[:4]: place for stem, place in exact.items() if COPYDAYS.fullmatch(stem)}
    found = []
    for name in copies:
        stem = _stem(name)
        # Where a sign follows, so that `1` does not begin `10`.
        ends = [i for i in range(len(stem), 0, -1) if not stem[i : i + 1].isalnum()]
        starts = (stem[:end] for end in ends)
        place = next((exact[start] for start in starts if start in exact), None)
        if place is None and COPYDAYS.fullmatch(stem):
            place = digits.get(stem[:4])
        found.append(-1 if place is None else place)
    if alone := [name for name, place in zip(copies, found, strict=True) if place < 0]:
        raise DataError(
            f"'{root / alone[0]}' is a copy of no original",
            why=f"the name of no original begins its own; so with {len(alone)} of {len(copies)}",
            fix="call copies of dog.jpg dog.jpg or dog_1.jpg, or name a table copy,original with "
            "--labels",
        )
    return found


def _blocks(
    root: Path,
    copies: Sequence[str],
    links: Sequence[int],
    names: Sequence[str],
    how: tuple[Orientation, int],
) -> dict[str, Block]:
    """Copies in blocks: those of one name together, numbers in names by their value."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        members[name or root.name].append(i)
    blocks = {}
    # The block whose figure is quoted comes first.
    for name in sorted(members, key=lambda name: (name != "strong", by_numbers(name))):
        chosen = members[name]
        images = read_as(file_images(root, [copies[i] for i in chosen], "list"), *how)
        blocks[name] = Block(images, np.array([links[i] for i in chosen], np.int64))
    return blocks


def _from_table(table: Path, root: Path, how: tuple[Orientation, int]) -> CopySet:
    rows, lines = _rows(table)
    names = list(dict.fromkeys(row[1] for row in rows))
    place = {name: i for i, name in enumerate(names)}
    copies = [row[0] for row in rows]
    for given in (copies, [row[1] for row in rows]):
        listed_files(root, given, f"'{table}'", lines)
    originals: FileImages = read_as(file_images(root, names, "list"), *how)
    blocks = [row[2] or row[0].rpartition("/")[0] for row in rows]
    links = [place[row[1]] for row in rows]
    named = _blocks(root, copies, links, blocks, how)
    return CopySet(root=table, originals=originals, blocks=named)


def _rows(table: Path) -> tuple[list[tuple[str, str, str]], list[int]]:
    """Copy, original and block of each row, and its line. Raises DataError."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"the table '{table}' cannot be read", why=why, fix="check the path"
        ) from None
    first = text.partition("\n")[0]
    separator = next((sign for sign in "\t;" if sign in first), ",")
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    if not {"copy", "original"} <= set(reader.fieldnames or ()):
        raise DataError(
            f"the table '{table}' lacks the columns 'copy' and 'original'",
            why=f"its first line is '{first.strip()}'",
            fix="begin it with the line copy,original",
        )
    rows, lines = [], []
    for row in reader:
        copy, original = ((row[key] or "").strip() for key in ("copy", "original"))
        if not copy or not original:
            raise DataError(
                f"line {reader.line_num} of '{table}' is not whole",
                fix="write a copy and its original in each line",
            )
        rows.append((copy, original, (row.get("block") or "").strip()))
        lines.append(reader.line_num)
    if not rows:
        raise DataError(f"the table '{table}' is empty", fix="write a line for each copy")
    return rows, lines
