"""Data sets of Hugging Face on disk (`Dataset.save_to_disk`): Arrow files, memory-mapped.

A folder holds `data-00000-of-00002.arrow` and so on, in Arrow's streaming format, `state.json`
with their order, and `dataset_info.json` with what the columns mean; one of several splits holds a
folder for each. The encoded images lie in these files as they are: where, is found once, and no
worker needs pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.archives import Archives
from ibot.data.sets.files import FileImages
from ibot.data.sets.parts import Part
from ibot.data.sets.table_rows import Rows, images_of_rows
from ibot.data.sets.tables import arrow, common_columns, find_columns
from ibot.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def scan_arrow(paths: Sequence[Path], part: Part | None = None) -> FileImages | None:
    """Images of Arrow files, as `parquet.scan_parquet` of Parquet files.

    Raises:
        DataError: damaged files, no column of images, rows that `select` or `shuffle` chose without
            a copy, compressed columns.
        MissingExtra: pyarrow is not installed.
    """
    paths = _in_order(paths)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    opened = [_open(path) for path in paths]
    tables = [table for table, _ in opened]
    found = [
        find_columns(table.schema, str(path), _features(path.parent, table.schema))
        for table, path in zip(tables, paths, strict=True)
    ]
    columns = common_columns(found, paths)
    if part == "val" and columns.split is None:
        return None  # before anything is read
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    rows = Rows(
        root=root,
        files=names,
        columns=columns,
        tables=tables,
        sizes=[table.num_rows for table in tables],
    )

    def places(chosen: NDArray[np.int64]) -> Archives:
        assert columns.image is not None
        every = [
            _places(table, whole, columns.image, number, path)
            for number, ((table, whole), path) in enumerate(zip(opened, paths, strict=True))
        ]
        found = np.concatenate(every)[chosen]
        if (found[:, 2] < 0).all():
            raise DataError(
                f"no row of '{rows.origin}' holds an image",
                why=f"the column '{columns.image}' is empty, as where only paths are kept",
                fix="save the data set with its images, as save_to_disk does",
            )
        return Archives(names, found)

    return images_of_rows(rows, part, "arrow", places)


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """The files in the order of their folder's state, without what caches left beside them."""
    found = []
    for folder in dict.fromkeys(path.parent for path in paths):
        here = [path for path in paths if path.parent == folder]
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if state.get("_indices_data_files"):
                raise DataError(
                    f"the rows of '{folder}' are chosen by a list of numbers",
                    why="state.json names _indices_data_files, as select and shuffle leave them",
                    fix="call flatten_indices() on the data set, and save it again",
                )
            names = [str(entry["filename"]) for entry in state["_data_files"]]
            here = [folder / name for name in names if folder / name in here] or here
        found += here
    return found


def _open(path: Path) -> tuple[pa.Table, pa.Buffer]:
    """The table of a file, and the mapped memory in which its columns lie. Raises DataError."""
    library, ipc = arrow(), arrow("pyarrow.ipc")
    try:
        with library.memory_map(str(path)) as content:
            whole = content.read_buffer(content.size())
            is_file = whole[:6].to_pybytes() == b"ARROW1"
            content.seek(0)
            reader = ipc.open_file(content) if is_file else ipc.open_stream(content)
            return reader.read_all(), whole
    except (OSError, ValueError) as error:  # those of pyarrow are of these kinds
        why = str(error).split("\n")[0]
        raise DataError(
            f"'{path}' cannot be read as an Arrow file", why=why, fix="copy it again"
        ) from None


def _features(folder: Path, schema: pa.Schema) -> dict[str, Any] | None:
    """What the columns mean by `dataset_info.json`, where the schema does not say it."""
    if b"huggingface" in (schema.metadata or {}):
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        return info["features"] if isinstance(info["features"], dict) else None
    return None


def _places(
    table: pa.Table, whole: pa.Buffer, column: str, number: int, path: Path
) -> NDArray[np.int64]:
    """Number of the file, first byte and bytes of the value in each row, int64 [rows, 3].

    Raises DataError for values that do not lie in the file as they are.
    """
    types, found = arrow().types, [np.empty((0, 3), np.int64)]
    outer, _, inner = column.partition(".")
    for chunk in table.column(outer if inner else column).chunks:
        values = chunk.field(inner) if inner else chunk
        valid = np.asarray(values.is_valid()) & np.asarray(chunk.is_valid())
        if types.is_binary_view(values.type):
            raise DataError(
                f"the column '{column}' of '{path}' holds views, which lie in pieces",
                fix="save it as binary, or as Parquet",
            )
        wide = types.is_large_binary(values.type)
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int64 if wide else np.int32)
        ends = ends[values.offset : values.offset + len(values) + 1].astype(np.int64)
        found.append(np.stack([np.full(len(values), number), ends[:-1], np.diff(ends)], 1))
        found[-1][~valid, 2] = -1
        size = data.size if data is not None else 0
        # Where all rows are empty their bytes lie nowhere.
        start = data.address - whole.address if data is not None and size else 0
        if not 0 <= start <= whole.size - size:
            raise DataError(
                f"the column '{column}' of '{path}' is compressed",
                fix="save the data set again without compression, as save_to_disk does",
            )
        found[-1][:, 1] += start
    return np.concatenate(found)
