"""What the values of a label map mean: which are classes, which are left out, in which colours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.decode import UnreadableImage, open_image
from ibot.data.quiet import quiet
from ibot.data.sets.parts import quoted
from ibot.errors import DataError

IGNORED = -1
"""Class of a pixel that is left out of loss and score."""
CLASS_FILES = ("classes.json", "classes.txt", "objectInfo150.txt")
"""Where the names of the classes are looked for beside a set; the last is ADE20K's."""
MAX_CLASSES = 2**15 - 1
_NO_CLASS = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How stored values become classes 0..C-1."""

    classes: tuple[str, ...] = ()
    """Names; empty where nothing says which classes there are: see `counted`."""
    first: int = 0
    """The value of the first class; those below are left out."""
    step: int = 1
    """From the value of a class to that of the next: 255 for masks of 0 and 255."""
    ignored: tuple[int, ...] = (255,)
    """Values that are left out of loss and score, also where a class has them."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of the values 0, 1, ...: for pictures, and to read maps that hold colours."""
    from_maps: bool = False
    """Whether the classes are those that the maps hold: `counted`."""

    def decoded(self, stored: NDArray[np.integer[Any]], name: str) -> NDArray[np.int16]:
        """Classes int16 [H, W] of stored values [H, W], `IGNORED` where they are left out.

        Raises DataError for values of no class; `name`: of the map.
        """
        highest = int(stored.max(initial=0))
        table = np.full(highest + 1, _NO_CLASS, np.int16)
        table[: self.first] = IGNORED
        values = self.values()[self.values() <= highest]
        table[values] = np.arange(len(values))
        table[[value for value in self.ignored if 0 <= value <= highest]] = IGNORED
        classes = table[stored]
        if (unknown := stored[classes == _NO_CLASS]).size:
            known = self.values()
            raise DataError(
                f"the label map '{name}' holds the value {unknown.max()}",
                why=f"the {len(known)} classes have the values {known[0]} to {known[-1]}",
                fix=f"leave such pixels out (ignore={unknown.max()}), or name all classes "
                "(classes=FILE)",
            )
        return classes

    def values(self) -> NDArray[np.int64]:
        """The stored value of each class, int64 [C]."""
        return self.first + self.step * np.arange(len(self.classes))

    def palette(self) -> NDArray[np.uint8]:
        """RGB of each class, uint8 [C, 3]: the given colours, else distinct ones."""
        colours = default_palette(len(self.classes))
        given = self.values()[self.values() < len(self.colours)]
        if self.step == 1 and len(given):
            colours[: len(given)] = np.array(self.colours, np.uint8)[given]
        return colours


def default_palette(count: int) -> NDArray[np.uint8]:
    """Distinct colours uint8 [count, 3]: those of PASCAL VOC, whose bits spread the number's."""
    numbers, colours = np.arange(1, count + 1), np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def counted(values: Iterable[int], ignored: Sequence[int] = (255,)) -> Coding:
    """The coding that the values of all maps suggest, with numbers for names.

    Values 0 and 255 alone are two classes. Where 0 is left out the classes begin at 1.
    Raises DataError where nothing is left.
    """
    found = set(values)
    if max(found, default=0) > 255 and set(ignored) == {255}:
        ignored = ()  # a class like the others
    if found == {0, 255} and set(ignored) == {255}:
        return Coding(classes=("0", "255"), step=255, ignored=(), from_maps=True)
    kept = found.difference(ignored)
    if not kept:
        raise DataError(
            "the label maps hold no class",
            why=f"every pixel has one of the values {quoted(map(str, found))}, which are left out",
            fix="say which values to leave out: ignore=VALUE",
        )
    first = next(value for value in range(max(kept) + 1) if value not in ignored)
    names = tuple(str(value) for value in range(first, max(kept) + 1))
    _require_few(len(names), "the label maps hold the values")
    return Coding(classes=names, first=first, ignored=tuple(ignored), from_maps=True)


def read_coding(file: Path) -> Coding:
    """What a file says of the classes.

    Text: a name a line (of ADE20K's table the last column, and its values). JSON: a list of names,
    or an object with `classes` and perhaps `void` (values to leave out), `first` (value of the
    first class, 0) and `palette` (RGB of each value). Raises DataError.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DataError(
            f"the file of classes '{file}' cannot be read", why=why, fix="name another: classes="
        ) from None
    if file.suffix.lower() == ".json":
        return _from_json(text, file)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("Idx\t"):
        return ade20k(tuple(line.split("\t")[-1].strip() for line in lines[1:]))
    _require_names(lines, file)
    return Coding(classes=tuple(lines), ignored=(255,) if len(lines) <= 255 else ())


def ade20k(names: tuple[str, ...] = ()) -> Coding:
    """150 classes; 0 is what belongs to none, class c is stored as c + 1 (8.10)."""
    return Coding(classes=names or tuple(map(str, range(1, 151))), first=1)


def _from_json(text: str, file: Path) -> Coding:
    try:
        content = json.loads(text)
        about = content if isinstance(content, dict) else {"classes": content}
        names, void = about["classes"], about.get("void", about.get("ignore", 255))
        coding = Coding(
            classes=tuple(map(str, names)),
            first=int(about.get("first", 0)),
            ignored=tuple(int(value) for value in (void if isinstance(void, list) else [void])),
            colours=tuple((int(r), int(g), int(b)) for r, g, b in about.get("palette", ())),
        )
        default_palette(1)[:] = np.array(coding.colours or [(0, 0, 0)], np.uint8)[:1]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"'{file}' does not say which classes there are",
            why=f"{type(error).__name__}: {error}",
            fix='write {"classes": ["sky", "road"], "void": 255}',
        ) from None
    _require_names(coding.classes, file)
    return coding


def _require_names(names: Sequence[str], file: Path) -> None:
    if not names:
        raise DataError(f"'{file}' names no class", fix="write one name a line")
    _require_few(len(names), f"'{file}' names")


def _require_few(count: int, what: str) -> None:
    if count > MAX_CLASSES:
        raise DataError(
            f"{what} of {count} classes",
            why=f"at most {MAX_CLASSES} can be told apart",
            fix="are these label maps? They hold the number of a class at each pixel",
        )


def stored_values(
    path: Path, colours: Sequence[tuple[int, int, int]], max_pixels: int
) -> NDArray[np.integer[Any]]:
    """The values [H, W] of a label map: levels, or places in a palette; 1 bit: 0 and 1.

    colours: RGB of the values 0, 1, ..., for maps that hold colours.
    Raises DataError for colours without such a list and for formats that change values,
    UnreadableImage for what is no image.
    """
    levels = _levels(path, max_pixels)
    if levels.ndim == 2:
        return levels
    if levels.shape[2] == 2 or not (np.ptp(levels[..., :3], axis=2)).any():
        return levels[..., 0]
    if not colours:
        raise DataError(
            f"the label map '{path}' holds colours, not numbers of classes",
            fix="save it as an index PNG, or list the colour of each value in classes.json: "
            '{"classes": [...], "palette": [[r, g, b], ...]}',
        )
    return _numbers_of(levels[..., :3], colours, path)


def _levels(path: Path, max_pixels: int) -> NDArray[np.integer[Any]]:
    """Levels [H, W] or [H, W, bands] as they are in the file."""
    try:
        with quiet(), path.open("rb") as file:
            image = open_image(file, max_pixels)
            if image.format in ("JPEG", "MPO"):
                raise DataError(
                    f"the label map '{path}' is a JPEG",
                    why="that format changes values",
                    fix="save label maps as PNG",
                )
            image.load()
            return _whole_numbers(image, path)
    except DataError:
        raise
    except UnreadableImage:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        reason = getattr(error, "strerror", None)
        raise UnreadableImage(f"cannot be read: {reason}" if reason else "corrupt") from None


def _whole_numbers(image: Image.Image, path: Path) -> NDArray[np.integer[Any]]:
    levels = np.asarray(image)
    if levels.dtype == bool:
        return levels.astype(np.uint8)
    if not np.issubdtype(levels.dtype, np.integer) or levels.min(initial=0) < 0:
        raise DataError(
            f"the label map '{path}' holds other numbers than 0, 1, 2, ...",
            why=f"it is a picture of mode {image.mode}",
            fix="save label maps as index PNG",
        )
    if levels.max(initial=0) >= 2**16:
        raise DataError(
            f"the label map '{path}' holds the value {levels.max()}",
            why="values of more than 16 bits are no classes",
            fix="save label maps as index PNG",
        )
    return levels


def _numbers_of(
    levels: NDArray[np.integer[Any]], colours: Sequence[tuple[int, int, int]], path: Path
) -> NDArray[np.integer[Any]]:
    """The value [H, W] of each colour [H, W, 3]; the first one that has it. Raises DataError."""
    weights = np.array([2**16, 2**8, 1])
    known, number = np.unique(np.array(colours) @ weights, return_index=True)
    asked = levels.astype(np.int64) @ weights
    place = np.searchsorted(known, asked).clip(max=len(known) - 1)
    if (other := known[place] != asked).any():
        colour = levels[other][0].tolist()
        raise DataError(
            f"the label map '{path}' holds the colour {colour}, which no class has",
            why=f"classes.json lists {len(colours)} colours",
            fix="add it there, as the colour of a class or of a value that is left out",
        )
    return number[place]
