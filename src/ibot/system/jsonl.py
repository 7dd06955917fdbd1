"""JSON on disk: lines that are appended, and files that are written as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from ibot.system.files import replacing


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none when it is absent; a last line torn by a crash is skipped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_jsonl(path: Path, *rows: dict[str, Any]) -> None:
    """Add lines to a file of JSON lines, in one write."""
    with path.open("a+b") as file:
        # A line torn by a crash would swallow the next one.
        if file.tell() and _last_byte(file) != b"\n":
            file.write(b"\n")
        file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a crash leaves the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a file of JSON lines so that a crash leaves the old lines or the new ones."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
