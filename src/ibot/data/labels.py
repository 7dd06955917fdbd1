"""Labelled image sets for evaluations: class folders, lists, tar archives, and sets that torchvision knows.

`open_labelled` finds out which it is. All sets answer the same calls (`LabelledImages`); none holds open files, so that
they can be pickled, forked and read from several threads.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import importlib.util
import io
import json
import os
import pickle
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibot.data.decode import UnreadableImage, _decode
from ibot.data.sources import _RUN_MARKS, EXTENSIONS, VAL_NAMES, ImageSource, scan
from ibot.errors import DataError
from ibot.rng import permutation

Part = Literal["train", "val"]

LISTS = (".csv", ".tsv", ".txt")
NAMED_SETS = {
    "cifar10": ("cifar-10-batches-py", "data_batch_1 to data_batch_5, test_batch, batches.meta"),
    "cifar100": ("cifar-100-python", "train, test, meta"),
    "flowers102": ("flowers-102", "jpg/, imagelabels.mat, setid.mat"),
    "cars": ("stanford_cars", "cars_train/, cars_test/, devkit/, cars_test_annos_withlabels.mat"),
    "pets": ("oxford-iiit-pet", "images/, annotations/"),
    "inat2018": ("2018", "GROUP/NUMBER/*.jpg, and beside it train2018.json, val2018.json"),
    "inat2019": ("2019", "GROUP/NUMBER/*.jpg, and beside it train2019.json, val2019.json"),
}
"""The folder that torchvision expects in DIR of NAME:DIR, and what that folder holds."""
_DAMAGED = (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What readers of pickles, JSON and MATLAB files raise on damaged ones."""


@runtime_checkable
class LabelledImages(Protocol):
    """Images in a fixed order, each with a class. Can be pickled."""

    @property
    def root(self) -> Path:
        """Folder that the names are relative to."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n]."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called, relative to the root."""
        ...

    def label(self, index: int) -> int:
        """Class of an image."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, names, labels, and the state of the files or the pixels in memory."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FileImages:
    """One file per image. Raises ValueError for a source without labels."""

    source: ImageSource
    kind: ClassVar[str] = "files"

    def __post_init__(self) -> None:
        if self.source.labels is None:
            raise ValueError(f"the images under '{self.source.root}' have no labels")

    @property
    def root(self) -> Path:
        """Folder that the names are relative to."""
        return self.source.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n]."""
        assert self.source.labels is not None
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """Path of an image relative to the root."""
        return self.source.name(index)

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.source.read(index)

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, names, labels, and sizes and times of the files: one stat for each."""
        source = self.source
        return _digest(self.kind, *self.classes, source.names, source.ends, self.labels, self._state())

    def _state(self) -> NDArray[np.int64]:
        root = str(self.root)
        return _file_state(os.path.join(root, self.name(i)) for i in range(len(self)))  # noqa: PTH118 - speed


@dataclass(frozen=True, slots=True, eq=False)
class FolderImages(FileImages):
    """Images whose first-level folders are the classes; see `open_folder`."""

    kind: ClassVar[str] = "folder"


@dataclass(frozen=True, slots=True, eq=False)
class ListedImages(FileImages):
    """Image files with labels from a list; see `open_list`."""

    kind: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True, eq=False)
class TarImages(FileImages):
    """Images inside of tar archives, named `ARCHIVE.tar/path/in/it`; see `open_tars`."""

    archives: tuple[str, ...]
    """Relative to the root."""
    places: NDArray[np.int64]
    """int64 [n, 3]: number of the archive, first byte and bytes of each image."""
    kind: ClassVar[str] = "tar"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        archive, start, size = self.places[index].tolist()
        try:
            # Opened anew each time: a handle kept over a fork would share its position with the other workers.
            with (self.root / self.archives[archive]).open("rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
        if len(content) < size:
            raise UnreadableImage("truncated")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `decode`
            return _decode(io.BytesIO(content), "apply")

    def _state(self) -> NDArray[np.int64]:
        return np.vstack([_file_state(str(self.root / name) for name in self.archives), self.places[:, 1:]])


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImages:
    """Images in memory, named by part and number."""

    root: Path
    part: str
    pixels: NDArray[np.uint8]
    """uint8 [n, H, W, 3]."""
    labels: NDArray[np.int32]
    """int32 [n]."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Part and number, as in `test/00042`."""
        return f"{self.part}/{index:05d}"

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """A copy of the pixels of an image, uint8 [H, W, 3]."""
        return self.pixels[index].copy()

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, part, labels and pixels."""
        return _digest("array", *self.classes, self.part, self.labels, self.pixels)


class SubsetImages:
    """Some images of a set, with all of its classes."""

    def __init__(self, base: LabelledImages, indices: ArrayLike) -> None:
        """`indices` int [m] into `base`, in any order. Raises ValueError for other shapes and for what lies outside."""
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise ValueError(f"integer indices [m] are wanted, not {chosen.dtype} {list(chosen.shape)}")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(base):
            raise ValueError(f"indices {chosen.min()} to {chosen.max()} into a set of {len(base)} images")
        self.base, self.indices = base, chosen.astype(np.int64)
        self.root, self.classes = base.root, base.classes
        self.labels: NDArray[np.int32] = base.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(int(self.indices[index]))

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.base.read(int(self.indices[index]))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint and the indices."""
        return _digest("subset", self.base.fingerprint(), self.indices)


def open_labelled(
    data: str, val_data: str = "", *, split: float = 0.0, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images with the same classes, at least two.

    Args:
        data: a folder with `train` and `val` (or `test`), or of class folders; a list with a column `split` or without;
            a .tar file, a pattern such as 'train-*.tar' or a folder that holds only .tar files; or NAME:DIR with a name
            of `NAMED_SETS`.
        val_data: the validation images, in the same forms; its validation part if it has one.
        split: without any validation part, set this share of each class aside (0..1, exclusive).
        seed: of that draw.

    Raises:
        DataError: something is missing or empty, labels are absent, or the classes differ.
    """
    if not data:
        raise DataError("no data given", fix="name a folder, a list, tar files, or a set as in cifar10:DIR")
    train = _open(data, "train")
    if train is None:
        raise DataError(f"'{data}' has no training part", fix="mark its images with the split 'train'")
    if len(train.classes) < 2:
        raise DataError(
            f"'{data}' has fewer than two classes",
            why=f"all {len(train)} images are labelled '{''.join(train.classes)}'",
            fix="add images of another class",
        )
    val = _open(val_data or data, "val")
    if val is None and val_data:
        val = _open(val_data, "train")
    if val is None and split:
        return split_labelled(train, split, seed)
    if val is None:
        raise DataError(
            f"'{data}' has no validation part",
            why="looked for 'val' or 'test': a folder beside 'train', a split of a list, the start of names of tars",
            fix="name a second set of images, or set a share of these aside with split=0.2",
        )
    _require_same_classes(train, val, data, val_data or data)
    return train, val


def _open(data: str, part: Part) -> LabelledImages | None:
    """One part of what `data` names; None where it has no such part. Data without parts are training data."""
    name, colon, folder = data.partition(":")
    path = Path(data)
    if colon and len(name) > 1 and "/" not in name and not path.exists():  # one letter is a drive
        return open_named(name.lower(), folder, part)
    if path.suffix.lower() in LISTS and not path.is_dir():
        return open_list(path, part)
    val_folder = next((path / name for name in VAL_NAMES if (path / name).is_dir()), None)
    if val_folder is not None and (path / "train").is_dir():
        path = path / "train" if part == "train" else val_folder
        archives = _archives(str(path))
        return open_tars(archives) if archives else open_folder(path)
    if archives := _archives(data):
        archives = _archives_of(part, archives)
        return open_tars(archives) if archives else None
    return open_folder(path) if part == "train" else None


def _require_same_classes(train: LabelledImages, val: LabelledImages, data: str, val_data: str) -> None:
    if train.classes == val.classes:
        return
    only_train, only_val = set(train.classes) - set(val.classes), set(val.classes) - set(train.classes)
    raise DataError(
        f"the training and validation images have different classes ('{data}', '{val_data}')",
        why=f"only in training: {_some(only_train)}; only in validation: {_some(only_val)}",
        fix="give both the same classes",
    )


def open_folder(root: str | Path) -> FolderImages:
    """Images below `root` with its first-level folders as classes.

    Raises DataError for images outside of class folders, a class folder without images, a single class, and as `scan`.
    """
    source = scan(root)
    root = source.root
    if source.labels is None:
        names = [source.name(i) for i in range(len(source))]
        if loose := [name for name in names if "/" not in name]:
            raise DataError(
                f"no class folders in '{root}'",
                why=f"{len(loose)} images lie directly in it, such as '{loose[0]}'",
                fix="put the images of each class into a folder, or give a list with the columns path,label",
            )
    used = source.classes or (source.name(0).split("/", 1)[0],)
    if empty := [name for name in _class_folders(root) if name not in used]:
        raise DataError(
            f"the class folder '{root / empty[0]}' is empty",
            why=f"{len(empty)} folders in '{root}' hold no image of their own: {_some(empty)}",
            fix="add images, or remove the folder",
        )
    if source.labels is None:
        raise DataError(
            f"'{root}' has fewer than two classes",
            why=f"all images lie in '{used[0]}'",
            fix="each class needs its own folder directly in the one named",
        )
    return FolderImages(source)


def _class_folders(root: Path) -> list[str]:
    """First-level folders that `scan` looks into, sorted."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name != "__MACOSX" and path.name[0] != "."]
    return sorted(path.name for path in folders if not all((path / mark).exists() for mark in _RUN_MARKS))


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


def open_list(file: str | Path, part: Part | None = None) -> ListedImages | None:
    """Images of a list; None when it has no such part.

    The file begins with the columns `path,label` and perhaps `split` (train, val, test), in any order and among others,
    separated by commas or tabs; or it holds `path<TAB>label` without a header. Paths are relative to its folder.

    Args:
        file: UTF-8 text.
        part: all rows by default. Without splits all rows are training images.

    Raises:
        DataError: rows without path or label, unknown splits, files that are missing.
    """
    file = Path(file)
    rows = _read_rows(file)
    splits = {row.split for row in rows}
    if part is not None and splits != {""}:
        wanted = "train" if part == "train" else next((name for name in VAL_NAMES if name in splits), "val")
        rows = [row for row in rows if row.split == wanted]
    elif part == "val":
        rows = []
    if not rows:
        return None
    labels, classes = _numbered([row.label for row in rows])
    return _listed(file.parent, [row.path for row in rows], labels, classes, f"'{file}'", [row.line for row in rows])


def _read_rows(file: Path) -> list[_Row]:
    """All rows of a list, checked. Raises DataError."""
    try:
        # File names need not be UTF-8.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            tabs = "\t" in text.readline()
            text.seek(0)
            table = csv.reader(text, delimiter="\t" if tabs else ",")
            cells = [(table.line_num, [cell.strip() for cell in row]) for row in table if any(map(str.strip, row))]
    except (OSError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"the list '{file}' cannot be read", why=why, fix="check the path") from None
    if not cells:
        raise DataError(f"the list '{file}' is empty", fix="give it a line 'path,label' and one line per image")
    columns = _columns(cells[0][1], tabs, file)
    path, label, split = columns or (0, 1, None)
    rows = [
        _Row(line, _cell(row, path), _cell(row, label), _cell(row, split)) for line, row in cells[1 if columns else 0 :]
    ]
    _require_whole_rows(rows, file)
    return rows


def _cell(row: list[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def _columns(first: list[str], tabs: bool, file: Path) -> tuple[int, int, int | None] | None:
    """Where path, label and split stand; None when `first` is no header but an image. Raises DataError."""
    heads = [cell.lower() for cell in first]
    if {"path", "label"} <= set(heads):
        return heads.index("path"), heads.index("label"), heads.index("split") if "split" in heads else None
    if tabs and not {"path", "label"} & set(heads):
        return None
    raise DataError(
        f"the list '{file}' lacks the columns 'path' and 'label'",
        why=f"its first line is '{','.join(first)[:100]}'",
        fix="begin it with the line 'path,label', or 'path,label,split'",
    )


def _require_whole_rows(rows: list[_Row], file: Path) -> None:
    if not rows:
        raise DataError(f"the list '{file}' names no images", fix="add a line for each image")
    if bad := [row for row in rows if not row.path or not row.label]:
        missing = "label" if bad[0].path else "path"
        raise DataError(
            f"the list '{file}' has an empty {missing} in line {bad[0].line}",
            why=f"{len(bad)} of {len(rows)} rows lack a path or a label",
            fix="fill in the columns, or remove the lines",
        )
    known = ("train", *VAL_NAMES) if any(row.split for row in rows) else ("",)
    if bad := [row for row in rows if row.split not in known]:
        raise DataError(
            f"the list '{file}' has an unknown split '{bad[0].split}' in line {bad[0].line}",
            why=f"{len(bad)} of {len(rows)} rows have a split that is none of {', '.join(known)}",
            fix="use these words, or remove the column",
        )


def _listed(
    root: Path,
    names: Sequence[str],
    labels: NDArray[np.int32],
    classes: tuple[str, ...],
    origin: str,
    lines: Sequence[int] = (),
) -> ListedImages:
    """Files of a list that all exist. `origin` says whose list it is, `lines` where each name stands in it."""
    gone = [i for i, name in enumerate(names) if not os.path.isfile(os.path.join(root, name))]  # noqa: PTH113, PTH118
    if gone:
        line = f" (line {lines[gone[0]]})" if lines else ""
        raise DataError(
            f"{origin} names '{names[gone[0]]}'{line}, which is missing",
            why=f"{len(gone)} of {len(names)} files are not below '{root}'",
            fix="put the files there, or correct the list",
        )
    return ListedImages(_packed(root, names, labels, classes))


def open_tars(archives: Sequence[str | Path]) -> TarImages:
    """Images inside of uncompressed tar archives. All headers are read once, the images when they are asked for.

    The class is the content of `KEY.cls` where that lies beside `KEY.jpg` (a name or a number), else the name of the
    folder in the archive that holds the image. Links in an archive are passed over.

    Raises:
        DataError: a damaged or compressed archive, images without a class, no images.
    """
    paths = [Path(archive) for archive in archives]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    inner = tuple(path.relative_to(root).as_posix() for path in paths)
    names, texts, places = [], [], []
    for number, path in enumerate(paths):
        for name, text, start, size in _members(path):
            names.append(f"{inner[number]}/{name}")
            texts.append(text)
            places.append((number, start, size))
    if not names:
        raise DataError(
            f"no images in '{paths[0]}'" + (f" and {len(paths) - 1} others" if len(paths) > 1 else ""),
            fix=f"the extensions read are {' '.join(sorted(EXTENSIONS))}",
        )
    if "" in texts:
        raise DataError(
            f"'{names[texts.index('')]}' has no class",
            why=f"{texts.count('')} of {len(texts)} images lie in no folder and have no .cls file beside them",
            fix="pack the images in class folders, or with one KEY.cls for each KEY.jpg",
        )
    labels, classes = _numbered(texts)
    return TarImages(_packed(root, names, labels, classes), inner, np.array(places, np.int64))


def _members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Name, class ("" if there is none), first byte and bytes of each image in an archive. Raises DataError."""
    images: dict[str, tuple[int, int]] = {}  # a name that comes twice was replaced by its later content
    texts: dict[str, str] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - else it keeps 1 KB per file
                name = member.name.removeprefix("./")
                stem, extension = os.path.splitext(name)  # noqa: PTH122
                if not member.isreg() or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                    continue
                if extension.lower() in EXTENSIONS:
                    images[name] = member.offset_data, member.size
                elif extension == ".cls" and (content := archive.extractfile(member)) is not None:
                    texts[stem] = content.read().decode("utf-8", "replace").strip()
            # tarfile takes a damaged header for the end, which is a block of zeros.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except (OSError, ValueError, tarfile.TarError) as error:
        fix = "copy it again; a compressed archive must be unpacked to a .tar first"
        raise DataError(f"'{path}' cannot be read as a tar archive", why=str(error), fix=fix) from None
    for name, (start, size) in images.items():
        yield name, texts.get(os.path.splitext(name)[0], PurePosixPath(name).parent.name), start, size  # noqa: PTH122


def _archives(data: str) -> list[Path]:
    """The .tar files that `data` means: itself, those of a pattern, or all of a folder that holds nothing else."""
    path = Path(data)
    if path.is_dir():
        try:
            files = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        except OSError:  # `scan` will say so
            return []
        return sorted(files) if all(_is_tar(entry) for entry in files) else []
    if not path.exists() and glob.has_magic(data):
        found = [Path(name) for name in sorted(glob.glob(data))]  # noqa: PTH207 - any part may be a pattern
        if not (archives := [file for file in found if _is_tar(file)]):
            raise DataError(
                f"no .tar file matches '{data}'", why=f"{len(found)} other files do", fix="check the pattern"
            )
        return archives
    return [path] if _is_tar(path) else []


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and path.is_file()


def _archives_of(part: Part, archives: list[Path]) -> list[Path]:
    """Those of a part by the start of their names; all are training data where there are not both parts."""
    starts = {start: [path for path in archives if path.name.startswith(start)] for start in ("train", *VAL_NAMES)}
    val = next((starts[name] for name in VAL_NAMES if starts[name]), [])
    if starts["train"] and val:
        return starts["train"] if part == "train" else val
    return archives if part == "train" else []


def open_named(name: str, folder: str | Path, part: Part) -> LabelledImages | None:
    """A set of `NAMED_SETS` as torchvision lays it out in `folder`; None when it has no such part.

    Flowers-102 and Pets train on train and val. iNaturalist has parts only with its JSON lists.
    Raises DataError for an unknown name, and for a set that is absent, incomplete or damaged.
    """
    if name not in NAMED_SETS:
        raise DataError(
            f"there is no set '{name}'",
            why=f"the known sets are {', '.join(NAMED_SETS)}",
            fix="name one of them as in cifar10:DIR, or a folder that exists",
        )
    if name in ("flowers102", "cars") and importlib.util.find_spec("scipy") is None:
        raise DataError(f"'{name}' needs scipy", why="its labels are MATLAB files", fix="pip install scipy")
    base, content = NAMED_SETS[name]
    given = Path(folder).expanduser()  # the shell expands no ~ after a colon
    root = given.parent if given.name == base else given
    try:
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder '{root}'")
        if name.startswith("cifar"):
            return _cifar(root, name, part)
        return _inat(root, base, part) if name.startswith("inat") else _from_torchvision(root, name, part)
    except (*_DAMAGED, OSError, RuntimeError) as error:
        raise DataError(
            f"no complete set '{name}' in '{given}'",
            why=f"torchvision expects '{root / base}' with {content}; {_first_line(error)}",
            fix=f"unpack the set there, or name the folder that holds '{base}'",
        ) from None


def _from_torchvision(root: Path, name: str, part: Part) -> ListedImages:
    from torchvision import datasets  # heavy, and not needed for users' own images

    test = part == "val"
    # With `str` as their loader the sets give paths in place of pictures.
    if name == "flowers102":
        sets = [datasets.Flowers102(root, split, loader=str) for split in (("test",) if test else ("train", "val"))]
        pairs, classes = [one[i] for one in sets for i in range(len(one))], datasets.Flowers102.classes
    elif name == "cars":
        cars = datasets.StanfordCars(root, "test" if test else "train", loader=str)
        pairs, classes = [cars[i] for i in range(len(cars))], cars.classes
    else:
        pets: Any = datasets.OxfordIIITPet(root, "test" if test else "trainval")
        pairs, classes = list(zip(pets._images, pets._labels, strict=True)), pets.classes  # it has no such loader
    return _pairs(root, pairs, tuple(classes), f"'{name}'")


def _pairs(root: Path, pairs: Sequence[tuple[Any, int]], classes: tuple[str, ...], origin: str) -> ListedImages:
    names = [os.path.relpath(path, root) for path, _ in pairs]
    return _listed(root, names, np.array([label for _, label in pairs], np.int32), classes, origin)


def _inat(root: Path, year: str, part: Part) -> ListedImages | None:
    """The lists of iNaturalist, or without them all images of torchvision's layout as training data."""
    if not (root / f"train{year}.json").is_file():
        from torchvision import datasets

        everything = datasets.INaturalist(root, year, loader=str)
        pairs = sorted((everything[i] for i in range(len(everything))), key=lambda pair: str(pair[0]))
        return _pairs(root, pairs, tuple(everything.all_categories), str(root / year)) if part == "train" else None
    if not (file := root / f"{part}{year}.json").is_file():
        return None
    content = json.loads(file.read_text())
    named = root / "categories.json"  # those inside of the lists of 2018 are numbers
    categories = json.loads(named.read_text()) if named.is_file() else content["categories"]
    categories.sort(key=lambda entry: entry["id"])
    number = {entry["id"]: i for i, entry in enumerate(categories)}
    classes = tuple(str(entry["name"]) for entry in categories)
    label = {entry["image_id"]: number[entry["category_id"]] for entry in content["annotations"]}
    names = [entry["file_name"] for entry in content["images"]]
    if (root / year).is_dir() and not (root / names[0]).exists():
        names = [f"{year}/{name.split('/', 1)[1]}" for name in names]  # torchvision renames the first folder
    labels = np.array([label[entry["id"]] for entry in content["images"]], np.int32)
    return _listed(root, names, labels, classes, f"'{file}'")


def _cifar(root: Path, name: str, part: Part) -> ArrayImages:
    """CIFAR from its batches; not by torchvision's class, which lets a pickle run code and wants one exact md5."""
    from torchvision import datasets

    layout = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = root / layout.base_folder
    files = layout.train_list if part == "train" else layout.test_list
    batches = [_unpickle(folder / file) for file, _ in files]
    pixels = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
    labels = np.concatenate([batch["labels" if name == "cifar10" else "fine_labels"] for batch in batches])
    classes = tuple(_unpickle(folder / layout.meta["filename"])[layout.meta["key"]])
    if len(labels) != len(pixels) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"{len(pixels)} pictures, {len(labels)} labels up to {labels.max()}, {len(classes)} classes")
    planar = pixels.reshape(-1, 3, 32, 32)
    name = "train" if part == "train" else "test"
    return ArrayImages(folder, name, planar.transpose(0, 2, 3, 1).copy(), labels.astype(np.int32), classes)


class _ArrayUnpickler(pickle.Unpickler):
    """Containers, text, numbers and numpy arrays only: pickles come from outside, and others could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions an array is made by. Raises UnpicklingError for all others."""
        reconstruct = np.empty(0).__reduce__()[0]  # the public way to a private function
        allowed = {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"'{module}.{name}' is refused")


def _unpickle(file: Path) -> Any:
    with file.open("rb") as content:
        return _ArrayUnpickler(content, encoding="latin1").load()  # they were written by Python 2


def split_labelled(images: LabelledImages, share: float = 0.2, seed: int = 0) -> tuple[SubsetImages, SubsetImages]:
    """Training and validation images: `share` (0..1, exclusive) of each class for validation, drawn by `seed`.

    Each class keeps an image for training, and gives one to validation if it has two.
    Raises DataError when no class has two images, ValueError for other shares.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share between 0 and 1, not {share}")
    counts = np.bincount(images.labels)
    val = _draw(images.labels, np.minimum(_rounded(counts, share), np.maximum(counts - 1, 0)), seed)
    if not len(val):
        raise DataError(
            f"'{images.root}' is too small for a validation part",
            why="no class has two images",
            fix="add images, or name a second set",
        )
    return SubsetImages(images, np.setdiff1d(np.arange(len(images)), val)), SubsetImages(images, val)


def stratified_subset(
    labels: NDArray[np.integer[Any]], *, share: float | None = None, per_class: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Images drawn from each class by `seed`: int64 [m], ascending. At least one of each class.

    Args:
        labels: int [n], 0 or more.
        share: of each class, 0..1, rounded.
        per_class: images of each class, or all where there are fewer.
        seed: another one gives another subset.

    Raises:
        ValueError: not exactly one of `share` and `per_class`, or out of range.
    """
    counts = np.bincount(labels)
    if share is not None and per_class is None and 0 < share <= 1:
        return _draw(labels, _rounded(counts, share), seed)
    if per_class is not None and share is None and per_class >= 1:
        return _draw(labels, np.minimum(counts, per_class), seed)
    raise ValueError(f"either a share in 0..1 or images per class, not share={share}, per_class={per_class}")


def _rounded(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    return np.minimum(np.maximum(np.floor(counts * share + 0.5).astype(np.int64), 1), counts)


def _draw(labels: NDArray[np.integer[Any]], wanted: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The first `wanted` [classes] images of each class in a keyed order, ascending."""
    order = permutation(seed, 0, len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[rank < np.repeat(wanted, counts)])


def listed_subset(images: LabelledImages, list_file: str | Path) -> NDArray[np.int64]:
    """Images that a file names, one per line, in its order, repetitions left out: int64 [m].

    A line with a slash is a whole name (`images.name`). Others are file names; what stands before `_` in them is the
    class where there is such a class, as in SimCLRv2's `1percent.txt`.
    Raises DataError for names that the set lacks or holds several times, and for a list that is missing or empty.
    """
    try:
        text = Path(list_file).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"the list '{list_file}' cannot be read", why=why, fix="check the path") from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if name := line.strip().removeprefix("./"):
            lines.setdefault(name, number)
    if not lines:
        raise DataError(f"the list '{list_file}' is empty", fix="write one image name per line")
    found = _found(images, lines)
    if bad := [name for name in lines if len(found[name]) != 1]:
        several = len(found[bad[0]]) > 1
        raise DataError(
            f"line {lines[bad[0]]} of '{list_file}' names '{bad[0]}', of which there are {len(found[bad[0]])}",
            why=f"{len(bad)} of {len(lines)} names do not stand for one image of '{images.root}'",
            fix="write paths relative to that folder" if several else "use the list that belongs to these images",
        )
    return np.array([found[name][0] for name in lines], np.int64)


def _found(images: LabelledImages, wanted: Iterable[str]) -> dict[str, list[int]]:
    """Where each of the names occurs."""
    found: dict[str, list[int]] = {name: [] for name in wanted}
    classes = {name: i for i, name in enumerate(images.classes)}
    for i in range(len(images)):
        whole = images.name(i)
        base = whole.rsplit("/", 1)[-1]
        if whole in found:
            found[whole].append(i)
        elif base in found and classes.get(base.split("_", 1)[0], images.label(i)) == images.label(i):
            found[base].append(i)
    return found


def _numbered(texts: Sequence[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels int32 [n] and the classes in order: by value where all are numbers, so that 10 follows 9."""
    classes = sorted(set(texts))
    if all(text.isascii() and text.isdigit() for text in classes):
        classes.sort(key=int)
    number = {text: i for i, text in enumerate(classes)}
    return np.fromiter((number[text] for text in texts), np.int32, len(texts)), tuple(classes)


def _packed(root: Path, names: Sequence[str], labels: NDArray[np.int32], classes: tuple[str, ...]) -> ImageSource:
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return ImageSource(root, b"".join(encoded), ends, labels, classes)


def _file_state(paths: Iterable[str]) -> NDArray[np.int64]:
    """Size in bytes and time of change in ns, int64 [n, 2]; -1 for files that are not there."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - this runs over millions of files
            states.append((status.st_size, status.st_mtime_ns))
        except OSError:
            states.append((-1, -1))
    return np.array(states, np.int64).reshape(-1, 2)


def _digest(*parts: str | bytes | NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = os.fsencode(part) if isinstance(part, str) else bytes(part)
        digest.update(len(content).to_bytes(8, "little"))  # keeps the parts apart
        digest.update(content)
    return digest.hexdigest()


def _some(names: Iterable[str]) -> str:
    """The first five in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if ordered[5:] else ""
    return ", ".join(f"'{name}'" for name in ordered[:5]) + more or "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
