"""What an optimizer remembers of sharded networks, on disk: every process writes its part.

A folder of torch's distributed checkpoint, tensors `INDEX.NAME`: the number of the parameter as in
`Optimizer.state_dict`, and what it is, such as exp_avg. It is read by any number of processes,
sharded or not.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from ibot.errors import WeightsError

INERT = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float16", "bfloat16", "float32", "float64", "int64"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "PurePosixPath", "PureWindowsPath"},
}
"""What the list of the tensors may name: it is a pickle, and a run folder may be anybody's."""


def save_moments(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write the tensors of the optimizer; every process must call it, and all return together.

    Files lie safely on the disk then. Raises in all processes what writing raised in one.
    """
    tensors = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    with _plain_errors():
        dcp.save(tensors, storage_writer=FileSystemWriter(folder, sync_files=True))


def load_moments(optimizer: torch.optim.Optimizer, folder: Path) -> dict[int, dict[str, Tensor]]:
    """`state_dict()["state"]` as it was saved; this process reads its parts alone.

    Raises WeightsError for damaged files, or those of another network.
    """
    own = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    try:
        reader = _Reader(folder)
        for key, stored in reader.read_metadata().state_dict_metadata.items():
            index, _, name = key.partition(".")
            p, size = own[int(index)], getattr(stored, "size", ())
            there = torch.zeros_like(p) if p.shape == size else torch.zeros(size)
            state.setdefault(int(index), {})[name] = there
        tensors = {f"{i}.{name}": t for i, named in state.items() for name, t in named.items()}
        with _plain_errors():
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except (EOFError, LookupError, OSError, RuntimeError, ValueError, UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"'{folder}' cannot be read", why=why) from None
    return state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in INERT.get(module, ()):
            return super().find_class(module, name)
        raise UnpicklingError(f"it names {module}.{name}")


class _Reader(FileSystemReader):
    """Torch's, but for the list of the tensors, whose pickle it would obey."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What went wrong in a process, without the wrapping, which no `except Exception` would meet;
    and no warning where processes load alone, as they are meant to.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled")
            yield
    except CheckpointException as error:
        first: BaseException = next(iter(error.failures.values()))[0]
        raise first from None
