"""Features as files for other programs: arrays, or tables with a row for each image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibot.data.sets.window_places import parse_window
from ibot.eval.features.tokens import Features
from ibot.system.tables import fill_table
from ibot.weights.write import save_tensors
from ibot.words import encodable

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

GROUP_BYTES = 2**26
"""Of the numbers of a row group of Parquet: what is copied, and later read, at a time."""
DIGITS = "%.9g"
"""Nine digits tell any two float32 apart: what is read as float32 is what was computed."""


def tensors_of(features: Features) -> dict[str, Tensor]:
    """What there is of the features, by the names in the file."""
    found = {"cls": features.cls, "patches": features.patches, "labels": features.labels}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def write_features(path: Path, suffix: str, features: Features, classes: Sequence[str]) -> None:
    """Write a file of the form that `suffix` says, whatever `path` ends with.

    Tables have the columns `name`; of windows `image`, `x`, `y`, `width`, `height` in pixels; of
    labelled images `label` and `class`; and the class token: `cls_0`, `cls_1`, ... in CSV, in
    Parquet `cls` and perhaps `patches` as lists of fixed length of float32.

    classes: names of the labels.
    """
    tensors = tensors_of(features)
    if suffix == ".npz":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays |= {"names": np.array(features.names), "classes": np.array(classes)}
        with path.open("wb") as file:  # a path would get its suffix
            np.savez(file, allow_pickle=False, **arrays)
    elif suffix == ".safetensors":
        about = {"names": json.dumps(features.names), "classes": json.dumps(classes)}
        save_tensors(tensors, path, about)
    elif suffix == ".csv":
        columns = _columns(features, classes)
        width = features.cls.shape[1]
        header = [*columns, *(f"cls_{i}" for i in range(width))]
        fill_table(path, header, _rows(columns, features.cls))
    else:
        _write_parquet(path, _columns(features, classes), tensors, classes)


def _columns(features: Features, classes: Sequence[str]) -> dict[str, list[Any]]:
    """What a table says of each image beside its tokens."""
    columns: dict[str, list[Any]] = {"name": features.names}
    windows = [parse_window(name) for name in features.names]
    places = [window for window in windows if window is not None]
    if len(places) == len(windows):
        columns["image"] = [image for image, _ in places]
        for title, number in (("x", 1), ("y", 0), ("width", 3), ("height", 2)):
            columns[title] = [box[number] for _, box in places]
    if features.labels is not None:
        columns["label"] = features.labels.tolist()
        columns["class"] = [classes[label] for label in columns["label"]]
    return columns


def _rows(columns: dict[str, list[Any]], cls: Tensor) -> Iterator[list[Any]]:
    numbers = ",".join([DIGITS] * cls.shape[1])
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        yield [*cells, *(numbers % tuple(cls[number].tolist())).split(",")]


def _write_parquet(
    path: Path, columns: dict[str, list[Any]], tensors: dict[str, Tensor], classes: Sequence[str]
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    tokens = {name: tensors[name].numpy() for name in ("cls", "patches") if name in tensors}
    texts = {
        name: [encodable(c) if isinstance(c, str) else c for c in columns[name]] for name in columns
    }
    bytes_a_row = sum(part[0].nbytes for part in tokens.values())
    step, count = max(1, GROUP_BYTES // bytes_a_row), len(texts["name"])

    def group(start: int) -> pa.Table:
        rows = slice(start, start + step)
        arrays = {name: pa.array(values[rows]) for name, values in texts.items()}
        return pa.table({**arrays, **{name: _lists(part[rows]) for name, part in tokens.items()}})

    first = group(0)
    schema = first.schema.with_metadata({"classes": json.dumps(list(classes))})
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, count, step):
            table = group(start) if start else first
            writer.write_table(table.cast(schema), row_group_size=step)


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    """float32 [n, ...] as lists of fixed length, of lists where there are more dimensions."""
    import pyarrow as pa

    array = pa.array(rows.reshape(-1))
    for length in reversed(rows.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array
