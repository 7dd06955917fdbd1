"""How tensors are written: with the permissions of every other file, and the same content always as
the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that others may read as far as the umask (or the file before) says.

    Equal tensors and metadata make equal files, which `cmp` tells. The library writes beside the
    file and renames, which leaves a file for its owner alone (0600).
    """
    with path.open("ab") as file:
        mode = os.fstat(file.fileno()).st_mode
    try:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    except BaseException:
        if not path.stat().st_size:  # ours, and nothing came of it
            path.unlink()
        raise
    if path.stat().st_mode != mode:
        path.chmod(mode)
    if metadata and len(metadata) > 1:
        _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Give the metadata the order of their names, in place: the library's changes at every write,
    as that of its hash map does.

    By the published layout of the format: 8 bytes, little-endian, with the length of the header,
    the header as JSON, filled up with spaces, and the tensors at places that count from its end.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:  # other escapes than the library's would move the tensors
            raise RuntimeError(f"the header of '{path}' takes {len(text)} bytes, not {length}")
        file.seek(8)
        file.write(text.ljust(length))
