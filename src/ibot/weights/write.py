"""How tensors are written: with the permissions of every other file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that others may read as far as the umask (or the file before) says.

    The library writes beside the file and renames, which leaves a file for its owner alone (0600).
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
