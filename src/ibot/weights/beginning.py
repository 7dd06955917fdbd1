"""What a file shows of itself before anybody reads it as weights. Imports nothing heavy."""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress
from pathlib import Path

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""How the files of torch.save begin: new ones and old ones."""
_POINTER = b"version https://git-lfs"
"""How a file of a repository begins that was cloned without its large files."""


def not_weights(file: Path) -> str:
    """In words, how a file shows by its beginning that torch did not write it; else empty."""
    if taken := taken_for_weights(file):
        return taken
    with file.open("rb") as stream:
        start = stream.read(len(ZIP))
    if not start:
        return "it is empty"
    if start == ZIP:
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "it is a zip archive that torch.save did not write"
        return ""
    if start[:1] == PICKLE:
        return ""
    return "it is neither a zip archive nor a pickle, as torch.save writes them"


def taken_for_weights(file: Path) -> str:
    """In words, what came in the place of weights, whatever their format; else empty."""
    with file.open("rb") as stream:
        start = stream.read(512).lstrip().lower()
    if re.match(rb"<[a-z!?]", start):
        return "it is a web page: an error or a login in the place of the file"
    if start.startswith(_POINTER):
        return "it is the pointer of Git LFS to a file that was not copied (git lfs pull)"
    return ""


def is_cut_short(file: Path) -> bool:
    """Whether it is an archive whose end is missing; older files do not say where they end."""
    with file.open("rb") as stream:
        start = stream.read(len(ZIP))
    return start == ZIP and not zipfile.is_zipfile(file)
