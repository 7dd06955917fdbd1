"""Height and width of the plainest JPEG files, without what Pillow's reader of headers costs."""

from __future__ import annotations

_FRAMES = 0xC0, 0xC1, 0xC2
"""Markers of baseline, extended and progressive frames."""
_SCAN, _TABLES, _PROFILE, _PHOTOSHOP, _ADOBE = 0xDA, 0xDB, 0xE2, 0xED, 0xEE
_OTHERS = 0xC4, 0xDD, 0xE0, 0xFE
"""Of Huffman tables, restarts, JFIF and comments, in which Pillow takes offence at nothing."""
_ICC = b"ICC_PROFILE\0"
_ENOUGH = {_PROFILE: 16, _ADOBE: 14}
"""Bytes of a segment of which Pillow takes some without asking whether they are there."""


def plain_size(head: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG of three channels that Pillow opens as RGB and turns nowhere.

    head: its first bytes. None where Pillow itself must look: at EXIF, at whatever else is not
    known here, and at headers that go on after `head`.
    """
    try:
        return _size(head)
    except IndexError:
        return None


def _size(head: bytes) -> tuple[int, int] | None:
    size, place = None, 2
    while head[place] == 0xFF:
        kind, length = head[place + 1], head[place + 2] << 8 | head[place + 3]
        if kind == _SCAN:
            # Of one to three channels, and all there.
            return size if length in (8, 10, 12) and head[place + 1 + length] >= 0 else None
        if kind in _FRAMES:
            if size is not None or (length, head[place + 4], head[place + 9]) != (17, 8, 3):
                return None  # further frames, other than 8 bits or three channels
            size = head[place + 5] << 8 | head[place + 6], head[place + 7] << 8 | head[place + 8]
            if 0 in size:
                return None  # the height comes after the first scan
        elif kind == _TABLES:
            first = head[place + 4 : place + 2 + length : 65]
            if (length - 2) % 65 or length < 67 or max(first) > 15:
                return None  # others than of bytes
        elif kind in _ENOUGH:
            known = kind == _ADOBE or head.startswith(_ICC, place + 4)
            if length < _ENOUGH[kind] or not known:
                return None
        elif kind == _PHOTOSHOP:
            if length < 2 or not _resources_end_well(head[place + 4 : place + 2 + length]):
                return None
        elif kind not in _OTHERS or length < 2:
            return None
        place += 2 + length
    return None


def _resources_end_well(segment: bytes) -> bool:
    """Whether what Photoshop added does not stop at the length of a name, of all places."""
    if not segment.startswith(b"Photoshop 3.0\0"):
        return True
    place = 14
    while segment[place : place + 4] == b"8BIM":
        place += 6
        if place >= len(segment):
            return place > len(segment)
        place += 1 + segment[place]
        place += place & 1
        place += 4 + int.from_bytes(segment[place : place + 4], "big")
        place += place & 1
    return True
