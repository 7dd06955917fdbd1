"""Which files are taken for images, by their names or first bytes, and which are not."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import BinaryIO

from PIL import Image, features

from ibot.system.process_state import ignored_warnings

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""What every Pillow reads, and most folders hold."""
FURTHER = {
    "JPEG": (".jpe", ".jfif", ".mpo"),
    "PNG": (".apng",),
    "BMP": (".dib",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "QOI": (".qoi",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "TIFF": (".svs", ".ndpi", ".scn", ".bif", ".btf", ".tf8"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Other names and formats of photographs. Icons, drawings and documents that Pillow reads too
are left out."""
PAGED = frozenset({".tif", ".tiff", ".gif", ".webp", ".apng", ".avifs"})
"""Those that may hold more than the one page of three bands that is read."""
LIBRARIES = {"JPEG2000": "jpg_2000", "AVIF": "avif"}
"""Formats that Pillow may have been built without, and its word for what it then lacks."""
SYSTEM_FOLDERS = frozenset(
    {
        "__macosx",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "network trash folder",
        "temporary items",
    }
)
"""In small letters: what systems and storage servers make, thumbnails and deleted files among
them."""
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def extensions() -> frozenset[str]:
    """The extensions read here, in small letters: those whose format the installed Pillow knows."""
    Image.init()
    known = {*Image.OPEN, *(("HEIF",) if heif_reader() else ())}
    with ignored_warnings():  # older ones do not know the word
        # Their readers are there all the same, and fail at the pixels.
        known -= {kind for kind, word in LIBRARIES.items() if not features.check(word)}
    return EXTENSIONS.union(*(names for kind, names in FURTHER.items() if kind in known))


def is_litter(name: str, folder: bool) -> bool:
    """Whether a file or folder is hidden, or made by a system or a storage server for itself."""
    return name.startswith(".") or name.lower() in (SYSTEM_FOLDERS if folder else SYSTEM_FILES)


def extension(name: str) -> str:
    """With its dot and in small letters; empty without one."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - this runs over millions of names


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head`, 16 bytes or more, is an image."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
        or (is_heif(head) and heif_reader() is not None)
    )


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is a photograph in HEIF (.heic); an AVIF may begin so too."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def heif_reader() -> Callable[[BinaryIO], Image.Image] | None:
    """What opens HEIF where pillow-heif is installed; called directly, it leaves Pillow alone."""
    if importlib.util.find_spec("pillow_heif") is None:
        return None
    return importlib.import_module("pillow_heif.as_plugin").HeifImageFile
