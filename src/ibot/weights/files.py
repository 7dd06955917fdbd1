"""Files of weights as plain Python: what stands in them, whoever wrote them, with nothing executed.

Read are safetensors, what `torch.save` writes, either in shards with an index, and plain pickles.
Of a pickle only tensors, containers and plain settings are built; other objects leave a `Foreign`
in their place.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibot.errors import WeightsError
from ibot.system.inert import ALLOWED, InertUnpickler, as_tensors
from ibot.weights.beginning import PICKLE, not_weights, taken_for_weights
from ibot.weights.forms import meant
from ibot.weights.named import located

OWN_FILES = {"teacher": "teacher.safetensors", "student": "model.safetensors"}
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
FOREIGN_FILES = (*WHOLE_FILES, *(f"{name}.index.json" for name in WHOLE_FILES))
"""What a folder of Hugging Face or timm holds beside its config.json: one file, or the index of
its shards."""
FORMATS = "a run folder, .safetensors, and what torch.save writes (.pth, .pt, .bin, .ckpt)"
MAGIC = torch.serialization.MAGIC_NUMBER
_ALLOWING = threading.Lock()
RUNS_CODE = {
    *("os", "posix", "nt", "subprocess", "sys", "shutil"),
    *("socket", "importlib", "runpy", "pty", "ctypes", "signal"),
    *("builtins.eval", "builtins.exec", "builtins.compile"),
    *("builtins.open", "builtins.__import__", "builtins.breakpoint"),
}
"""Modules and functions that no weights need: a file that names them is not trusted, although
nothing is run."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds."""

    tree: Any
    """Usually dictionaries of tensors, by name, and of settings."""
    file: Path
    settings: dict[str, Any]
    """Our configuration, where the file holds it."""
    beside: dict[str, Any]
    """Otherwise what config.json and preprocessor_config.json in the same folder say: perhaps of
    other weights."""
    foreign: tuple[str, ...] = ()
    """Classes and functions of which the file holds objects that were passed over."""
    step: int | None = None
    """Of the training, where a checkpoint of ours says it."""


def read_content(path: str | Path, key: str) -> Content:
    """Read a run folder, a checkpoint folder, a file or folder of another project, or by name.

    key: which network's file, "teacher" or "student", where there are two.

    Raises WeightsError: absent, damaged, unknown, or asking for code to be run.
    """
    file = locate(path, key)
    foreign: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    step = None
    if file.name.endswith(".index.json"):
        tree = _read_shards(file)
    elif not is_pickle(file):
        tree, settings, step = _read_safetensors(file)
    else:
        tree, foreign = _read_pickle(file)
    beside = {} if settings else _beside(file.parent)
    return Content(tree, file, settings, beside, foreign, step)


def is_pickle(file: Path) -> bool:
    """Whether a file is one for torch.save's reader: neither safetensors nor an index."""
    return not file.name.endswith((".safetensors", ".index.json"))


def locate(path: str | Path, key: str) -> Path:
    """The file of weights that a path or a name means; see `read_content`, `ibot.weights.named`."""
    path = located(path)
    if path.is_dir():
        return _in_folder(path, key)
    if not path.is_file():
        raise WeightsError(f"there is no file or folder '{path}'", fix=meant(path))
    if path.parent.name == "checkpoints" and path.name in (
        "last",
        "best_dense",
    ):  # text files that name a folder
        return locate(path.parent / path.read_text().strip(), key)
    if path.suffix == ".onnx":
        raise WeightsError(
            f"'{path}' is an ONNX file, which is written for other programs and not read back",
            fix="name the run or weights from which it was made",
        )
    return path


def _in_folder(path: Path, key: str) -> Path:
    last = path / "checkpoints" / "last"
    if last.is_file():
        path = path / "checkpoints" / last.read_text().strip()
    own = (path / "state.json").is_file()
    if own and key not in OWN_FILES:
        raise WeightsError(f"unknown network '{key}'", fix="a run has two, teacher and student")
    names = [OWN_FILES.get(key, OWN_FILES["teacher"])]
    candidates = names if own else [*names, *FOREIGN_FILES]
    file = next((path / name for name in candidates if (path / name).is_file()), None)
    if file is None:
        raise WeightsError(
            f"'{path}' holds no weights",
            why="there is no checkpoints/last and no "
            f"{names[0]}{'' if own else f' or {WHOLE_FILES[1]}'} in it",
            fix="name a run folder, one of its checkpoint folders, or a weights file",
        )
    return file


def _beside(folder: Path) -> dict[str, Any]:
    """Settings of another project in the same folder, those of its images under "preprocessor"."""
    settings = read_settings(folder / "config.json")
    if is_configuration(settings):  # a run's: about its own files, which say it themselves
        return {}
    images = read_settings(folder / "preprocessor_config.json")
    return {**settings, **({"preprocessor": images} if images else {})}


def is_configuration(settings: Mapping[str, Any]) -> bool:
    """Whether settings are our configuration as plain data, not others with the same words."""
    return all(isinstance(settings.get(name), dict) for name in ("model", "augment"))


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of settings; an unreadable one is as good as none."""
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any], int | None]:
    """Tensors by name, and our settings and the step of the training, where they are ours."""
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        why = taken_for_weights(file) if file.is_file() else ""
        raise WeightsError(
            f"'{file}' cannot be read", why=why or str(error), fix="copy the file again"
        ) from None
    settings: Any = {}
    with suppress(ValueError):  # a stranger's
        settings = json.loads(metadata.get("config", "{}"))
    if not (isinstance(settings, dict) and is_configuration(settings)):
        return tensors, {}, None
    step = metadata.get("step", "")
    return tensors, settings, int(step) if step.isdecimal() else None


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index names."""
    tensors: dict[str, Tensor] = {}
    for file in shards_of(index):
        tensors |= (
            _read_safetensors(file)[0] if file.suffix == ".safetensors" else read_pickle(file)
        )
    return tensors


def shards_of(index: Path) -> list[Path]:
    """The files that an index names. Raises WeightsError where one is missing."""
    names = read_settings(index).get("weight_map")
    if not isinstance(names, dict):
        raise WeightsError(
            f"'{index}' names no shards", why="it has no weight_map", fix="copy the folder again"
        )
    files = [index.parent / Path(str(name)).name for name in sorted(set(names.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(
            f"'{index.parent}' is incomplete",
            why=f"{len(absent)} of its {len(files)} shards are missing, the first is {absent[0]}",
            fix="copy the folder again",
        )
    return files


def read_pickle(file: Path) -> Any:
    """Everything in a file of torch.save that is tensor, container, number, text or settings.

    Anything else is a `Foreign`, of which nothing was executed. Raises WeightsError for a damaged
    file and for one that asks for code to be run.
    """
    return _read_pickle(file)[0]


def _read_pickle(file: Path) -> tuple[Any, tuple[str, ...]]:
    try:
        with _allowing(ALLOWED):
            return torch.load(file, map_location="cpu", weights_only=True), ()
    except pickle.UnpicklingError as error:
        return _read_around(file, error)
    # What an unpickler makes of bytes that are no pickle is not documented.
    except Exception as error:
        raise _unreadable(file, error) from None


@contextmanager
def _allowing(types: list[Any]) -> Iterator[None]:
    """Torch's unpickler knows `types` inside; one thread at a time changes its list."""
    with _ALLOWING:
        known = torch.serialization.get_safe_globals()  # what a caller allowed stays so
        with torch.serialization.safe_globals([name for name in types if name not in known]):
            yield


def _read_around(file: Path, error: Exception) -> tuple[Any, tuple[str, ...]]:
    """A pickle of classes that are not ours to build; `error` is what torch says of it."""
    found: list[str] = []

    class Inert(InertUnpickler):
        foreign = found

    module = SimpleNamespace(
        __name__="inert", Unpickler=Inert, load=lambda stream, **_: Inert(stream).load()
    )
    try:
        if _is_plain_pickle(file):
            with file.open("rb") as stream:
                content = Inert(stream).load()
        else:
            content = torch.load(file, map_location="cpu", weights_only=False, pickle_module=module)
        content = as_tensors(content)
    except Exception:  # as above
        raise _unreadable(file, error) from None
    wrong = [name for name in found if RUNS_CODE & {name, name.split(".")[0]}]
    if wrong or (found and not isinstance(content, dict)):
        raise refused(file, [*wrong, *found])
    return content, tuple(dict.fromkeys(found))


def refused(file: Path, foreign: list[str] | tuple[str, ...]) -> WeightsError:
    """What is said of a file whose objects stand where tensors should."""
    return WeightsError(
        f"'{file}' is refused",
        why=f"it holds more than tensors and settings: {foreign[0]}",
        fix="do not load it, or ask its author for a safetensors file",
    )


def _is_plain_pickle(file: Path) -> bool:
    """Whether torch did not write it: no archive, and no number of its own in front."""
    with file.open("rb") as stream:
        if stream.read(1) != PICKLE:
            return False
        stream.seek(0)
        steps = pickletools.genops(stream)  # read one by one, not run
        return (
            next((value for step, value, _ in steps if step.name not in ("PROTO", "FRAME")), None)
            != MAGIC
        )


def _unreadable(file: Path, error: Exception) -> WeightsError:
    """What is wrong with a file that torch cannot read, without its advice to run code."""
    if isinstance(error, OSError):
        return WeightsError(
            f"'{file}' cannot be read",
            why=error.strerror or str(error),
            fix="check its permissions",
        )
    if other := not_weights(file):
        return WeightsError(f"'{file}' is no weights file", why=other, fix=f"known are {FORMATS}")
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        return refused(file, [named[1] if named else "objects"])
    words = str(error).strip().splitlines()
    why = words[0][:200] if words else f"it is cut off ({type(error).__name__})"
    return WeightsError(f"'{file}' cannot be read", why=why, fix="copy the file again")
