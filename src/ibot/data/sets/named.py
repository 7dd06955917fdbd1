"""Sets by their names, in torchvision's layouts: CIFAR, Flowers-102, Cars, Pets, iNaturalist."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.files import LabelledFiles, with_labels
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.lists import listed_files
from ibot.data.sets.parts import Part
from ibot.errors import DataError
from ibot.system.inert import unpickle

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
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
)
"""What readers of pickles, JSON and MATLAB files raise on damaged ones."""


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
        raise DataError(
            f"'{name}' needs scipy", why="its labels are MATLAB files", fix="pip install scipy"
        )
    base, content = NAMED_SETS[name]
    given = Path(folder).expanduser()  # the shell expands no ~ after a colon
    root = given.parent if given.name == base else given
    try:
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder '{root}'")
        if name.startswith("cifar"):
            return _cifar(root, name, part)
        return (
            _inat(root, base, part)
            if name.startswith("inat")
            else _from_torchvision(root, name, part)
        )
    except (*_DAMAGED, OSError, RuntimeError) as error:
        raise DataError(
            f"no complete set '{name}' in '{given}'",
            why=f"torchvision expects '{root / base}' with {content}; {_first_line(error)}",
            fix=f"unpack the set there, or name the folder that holds '{base}'",
        ) from None


def _from_torchvision(root: Path, name: str, part: Part) -> LabelledFiles:
    from torchvision import datasets  # heavy, and not needed for users' own images

    test = part == "val"
    # With `str` as their loader the sets give paths in place of pictures.
    if name == "flowers102":
        sets = [
            datasets.Flowers102(root, split, loader=str)
            for split in (("test",) if test else ("train", "val"))
        ]
        pairs, classes = (
            [one[i] for one in sets for i in range(len(one))],
            datasets.Flowers102.classes,
        )
    elif name == "cars":
        cars = datasets.StanfordCars(root, "test" if test else "train", loader=str)
        pairs, classes = [cars[i] for i in range(len(cars))], cars.classes
    else:
        pets: Any = datasets.OxfordIIITPet(root, "test" if test else "trainval")
        pairs, classes = (
            list(zip(pets._images, pets._labels, strict=True)),
            pets.classes,
        )  # it has no such loader
    return _pairs(root, pairs, tuple(classes), f"'{name}'")


def _pairs(
    root: Path, pairs: Sequence[tuple[Any, int]], classes: tuple[str, ...], origin: str
) -> LabelledFiles:
    names = [os.path.relpath(path, root) for path, _ in pairs]
    labels = np.array([label for _, label in pairs], np.int32)
    return with_labels(listed_files(root, names, origin), labels, classes)


def _inat(root: Path, year: str, part: Part) -> LabelledFiles | None:
    """The lists of iNaturalist, or all images of torchvision's layout as training data."""
    if not (root / f"train{year}.json").is_file():
        from torchvision import datasets

        everything = datasets.INaturalist(root, year, loader=str)
        pairs = sorted(
            (everything[i] for i in range(len(everything))), key=lambda pair: str(pair[0])
        )
        return (
            _pairs(root, pairs, tuple(everything.all_categories), str(root / year))
            if part == "train"
            else None
        )
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
        # torchvision renames the first folder.
        names = [f"{year}/{name.split('/', 1)[1]}" for name in names]
    labels = np.array([label[entry["id"]] for entry in content["images"]], np.int32)
    return with_labels(listed_files(root, names, f"'{file}'"), labels, classes)


def _cifar(root: Path, name: str, part: Part) -> ArrayImages:
    """CIFAR from its batches; torchvision's class lets a pickle run code, and wants one md5."""
    from torchvision import datasets

    layout = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = root / layout.base_folder
    files = layout.train_list if part == "train" else layout.test_list
    batches = [unpickle(folder / file) for file, _ in files]
    pixels = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
    labels = np.concatenate(
        [batch["labels" if name == "cifar10" else "fine_labels"] for batch in batches]
    )
    classes = tuple(unpickle(folder / layout.meta["filename"])[layout.meta["key"]])
    if len(labels) != len(pixels) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"{len(pixels)} pictures, {len(labels)} labels up to {labels.max()}, {len(classes)} "
            "classes"
        )
    planar = pixels.reshape(-1, 3, 32, 32)
    name = "train" if part == "train" else "test"
    return ArrayImages(
        folder, name, planar.transpose(0, 2, 3, 1).copy(), labels.astype(np.int32), classes
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
