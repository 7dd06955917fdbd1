"""What is kept about weights that a run starts from: a name may mean another file tomorrow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ibot.weights.files import locate, shards_of
from ibot.weights.forms import as_text


def origin(weights: str | Path) -> dict[str, Any]:
    """What a run that starts from weights keeps about them: name, file, bytes, SHA-256 (of an index
    and its shards in their order).

    Raises as `locate`.
    """
    file = locate(weights, "teacher")
    files = [file, *(shards_of(file) if file.name.endswith(".index.json") else ())]
    digest, size = hashlib.sha256(), 0
    for one in files:
        size += one.stat().st_size
        with one.open("rb") as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    about = {"file": str(file.absolute()), "bytes": size, "sha256": digest.hexdigest()}
    return {"name": as_text(weights), **about}
