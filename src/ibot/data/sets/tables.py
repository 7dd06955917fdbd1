"""What the columns of a table mean: which holds the images, which their classes, names and parts.

Tables are those of pyarrow, from Parquet files or data sets of Hugging Face on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.classes import number_classes
from ibot.data.sets.parts import quoted
from ibot.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
"""Names of a column with images, the likeliest first."""
_LABELS = ("label", "labels", "cls", "class", "fine_label", "target")
_HEAD = "huggingface"
"""Where the `datasets` library keeps what the columns mean, in the metadata of a schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table are read; None for those that it lacks."""

    image: str | None
    """Of the encoded images, as Parquet calls it: `image`, or `image.bytes` inside of a struct."""
    path: str | None
    """Of what the images are called, or where they lie."""
    label: str | None
    classes: tuple[str, ...]
    """What the numbers in `label` mean; empty where nothing says so."""
    split: str | None
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was chosen of several, and what was not found, a sentence each."""

    @property
    def texts(self) -> list[str]:
        """The columns that are read when a set is opened."""
        return [name for name in (self.path, self.label, self.split) if name]


def arrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow. Raises MissingExtra."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra("pyarrow", "parquet") from None


def find_columns(schema: pa.Schema, origin: str, features: dict[str, Any] | None = None) -> Columns:
    """Which columns of a table hold what.

    Images are encoded files in a column of bytes, or in the struct {bytes, path} of Hugging Face;
    a table without them is a list when it has a column `path` of text. Classes have names where the
    features of Hugging Face say so.

    Args:
        schema: of the table.
        origin: what a user calls it, in errors.
        features: those of Hugging Face, where they do not stand in the schema.

    Raises:
        DataError: neither images nor paths.
    """
    types = arrow().types
    features = features or _features(schema)
    by_name = {name.lower(): name for name in schema.names}
    image = _image_column(schema, features)
    nested = image is not None and types.is_struct(schema.field(image).type)
    inside = _names_inside(schema.field(image).type) if nested and image else []
    texts = [name for name in schema.names if _is_text(schema.field(name).type)]
    path = f"{image}.path" if nested and "path" in inside else by_name.get("path")
    if path in schema.names and path not in texts:
        path = None
    if image is None and path is None:
        raise DataError(
            f"'{origin}' has no column of images",
            why="its columns are " + quoted((f"{f.name} ({f.type})" for f in schema), 12),
            fix="call that of encoded images (bytes, or a struct of bytes and path) 'image', or "
            "that of file names 'path'",
        )
    label = _label_column(schema, features)
    return Columns(
        image=f"{image}.bytes" if nested else image,
        path=path,
        label=label,
        classes=tuple(map(str, (features.get(label) or {}).get("names") or ())) if label else (),
        split=by_name.get("split") if by_name.get("split") in texts else None,
        notes=tuple(_notes(schema, image, path, label)),
    )


def label_images(
    values: Sequence[pa.ChunkedArray],
    classes: tuple[str, ...],
    origin: str,
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
    """Labels int32 [n] of `rows` of several tables, and the classes; None where one lacks it.

    Whole numbers count into `classes` where there are some; below 0 they mean none, as nulls do.
    Else a class is called by its number or text. Raises DataError for numbers beyond the classes.
    """
    every = [value for column in values for value in column.to_pylist()]
    found = [every[row] for row in rows.tolist()]
    if any(value is None or value == "" or (type(value) is int and value < 0) for value in found):
        return None
    if not classes or not all(type(value) is int for value in found):
        return number_classes([str(value) for value in found])
    numbers = np.array(found, np.int64)
    if numbers.max(initial=0) >= len(classes):
        raise DataError(
            f"'{origin}' has the label {numbers.max()}",
            why=f"it names {len(classes)} classes, numbered from 0",
            fix="correct the labels, or the names in the metadata",
        )
    return numbers.astype(np.int32), classes


def common_columns(found: Sequence[Columns], paths: Sequence[Path]) -> Columns:
    """The columns that all files of a set have. Raises DataError where they differ."""
    for columns, path in zip(found, paths, strict=True):
        if columns != found[0]:
            names = [field.name for field in fields(Columns)]
            differ = [n for n in names if getattr(columns, n) != getattr(found[0], n)]
            raise DataError(
                f"'{path}' has other columns than '{paths[0]}'",
                why=f"they differ in {', '.join(differ)}",
                fix="name the files apart",
            )
    return found[0]


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column; one inside of a struct by its dotted name."""
    outer, _, inner = name.partition(".")
    if name in table.column_names or not inner:
        return table.column(name)
    return arrow("pyarrow.compute").struct_field(table.column(outer), inner)


def texts_of(column: pa.ChunkedArray) -> list[str]:
    """The texts of a column; empty for nulls."""
    return [text or "" for text in column.to_pylist()]


def _notes(
    schema: pa.Schema, image: str | None, path: str | None, label: str | None
) -> Iterator[str]:
    """Which column is taken where others could be meant, and how another is."""
    types = arrow().types
    pictures = [field.name for field in schema if _holds_files(field.type)]
    if image is not None and (others := [name for name in pictures if name != image]):
        yield (
            f"pictures are those of the column '{image}'; not read: {quoted(others)} (one that is "
            f"called '{_IMAGES[0]}' goes first)"
        )
    taken = (image, path, label)
    further = [
        field.name
        for field in schema
        if (_is_text(field.type) or types.is_integer(field.type))
        and field.name not in taken
        and field.name.lower() != "split"
    ]
    if image is not None and label is None and further:
        yield (
            f"no classes: no column is called '{_LABELS[0]}'; there are {quoted(further)} (rename "
            f"one to '{_LABELS[0]}' if it holds them)"
        )
    elif label is not None and label.lower() != _LABELS[0]:
        yield f"classes are those of the column '{label}'"


def _features(schema: pa.Schema) -> dict[str, Any]:
    with suppress(KeyError, ValueError, TypeError):
        found = json.loads((schema.metadata or {})[_HEAD.encode()])["info"]["features"]
        return found if isinstance(found, dict) else {}
    return {}


def _image_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    """The column that is marked as images, else the one called so, else the only one of bytes."""
    fit = [field.name for field in schema if _holds_files(field.type)]
    marked = [name for name in fit if _kind(features.get(name)) == "Image"]
    if marked:
        return _first_of(_IMAGES, marked) or marked[0]
    return _first_of(_IMAGES, fit) or (fit[0] if len(fit) == 1 else None)


def _label_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    """The column called so, else the only one that is marked as classes."""
    types = arrow().types
    fit = [
        field.name
        for field in schema
        if _is_text(field.type) or types.is_integer(field.type) or types.is_boolean(field.type)
    ]
    marked = [name for name in fit if _kind(features.get(name)) == "ClassLabel"]
    return _first_of(_LABELS, marked or fit) or (marked[0] if len(marked) == 1 else None)


def _kind(feature: object) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {name.lower(): name for name in reversed(names)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _holds_files(kind: pa.DataType) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return "bytes" in _names_inside(kind) and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _names_inside(kind: pa.DataType) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _is_bytes(kind: pa.DataType) -> bool:
    types = arrow().types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = arrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
