"""How Parquet and snappy write numbers, headers and blocks: what is needed to find values in pages.

Formats: the specifications of Apache Parquet (Encodings.md) and Thrift (compact protocol), and
google/snappy's format_description.txt. Damaged bytes raise ValueError or LookupError.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Bytes that snappy compresses without regard to those before."""
LARGEST = 32
"""Bits of the largest number of a value in a dictionary."""
LONGEST = 1 << 24
"""Bytes of a header; damaged ones may promise lists of any length."""
Bytes = mmap.mmap | bytes


def hybrid(packed: bytes, width: int, count: int) -> NDArray[np.int64]:
    """`count` whole numbers of `width` bits from runs and packed groups of eight."""
    if not width:
        return np.zeros(count, np.int64)
    if width > LARGEST:
        raise ValueError(f"numbers of {width} bits")
    parts, found, place = [], 0, 0
    while found < count:
        header, place = _read_varint(packed, place)
        if header & 1:
            end = place + (header >> 1) * width
            bits = np.unpackbits(np.frombuffer(packed[place:end], np.uint8), bitorder="little")
            parts.append(bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width)))
        else:
            end = place + (width + 7) // 8
            length = min(header >> 1, count - found)
            parts.append(np.full(length, int.from_bytes(packed[place:end], "little")))
        if not len(parts[-1]):
            raise ValueError("an empty run")
        found, place = found + len(parts[-1]), end
    return np.concatenate([np.zeros(0, np.int64), *parts])[:count]


def snappy_blocks(packed: bytes, size: int) -> NDArray[np.int32] | None:
    """Where each block of 64 KB begins, and the end; None where one needs another.

    Photographs hardly compress: a block is a few literals, and this a few steps.
    """
    _, place = _read_varint(packed, 0)
    blocks, done, begun = [place], 0, 0
    while place < len(packed):
        tag = packed[place]
        kind, count = tag & 3, tag >> 2
        if kind == 0:
            place += 1
            if count >= 60:
                width = count - 59
                count = int.from_bytes(packed[place : place + width], "little")
                place += width
            count += 1
            place += count
        else:
            width = (1, 2, 4)[kind - 1]
            offset = int.from_bytes(packed[place + 1 : place + 1 + width], "little")
            if kind == 1:
                offset, count = offset | (tag >> 5) << 8, 4 + (count & 7)
            else:
                count += 1
            place += 1 + width
            if offset > done - begun:
                return None
        done += count
        if done - begun > BLOCK:
            return None
        if done - begun == BLOCK or place >= len(packed):
            begun = done
            blocks.append(place)
    return np.array(blocks, np.int32) if done == size else None


def varint(number: int) -> bytes:
    """A whole number of 0 or more in groups of seven bits."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def _read_varint(content: Bytes, place: int) -> tuple[int, int]:
    """A whole number, and where the next byte lies."""
    number = shift = 0
    while True:
        byte = content[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
        if shift >= 70:  # 64 bits; damaged bytes may go on for gigabytes
            raise ValueError("a number without end")


class Thrift:
    """A reader of the compact protocol, in which Parquet writes its headers."""

    def __init__(self, content: Bytes, place: int) -> None:
        self.content, self.place, self.end = content, place, place + LONGEST

    def struct(self) -> dict[int, Any]:
        """Fields by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15)
        return fields

    def _value(self, kind: int) -> Any:
        if self.place >= self.end:
            raise ValueError("a header without end")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (7, 8):
            size = 8 if kind == 7 else self._number()
            self.place += size
            return self.content[self.place - size : self.place]
        if kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._number()
            # A truth is a byte here, and in a struct a part of its head.
            kind = 3 if head & 15 in (1, 2) else head & 15
            return [self._value(kind) for _ in range(size)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"a field of kind {kind}")

    def _byte(self) -> int:
        self.place += 1
        return self.content[self.place - 1]

    def _number(self) -> int:
        number, self.place = _read_varint(self.content, self.place)
        return number

    def _signed(self) -> int:
        number = self._number()
        return (number >> 1) ^ -(number & 1)
