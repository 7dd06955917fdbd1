"""The forms of files of features. Nothing heavy is imported: a wrong one is told at once."""

from __future__ import annotations

import importlib.util

from ibot.errors import MissingExtra, UserError

SUFFIXES = (".npz", ".safetensors", ".csv", ".parquet")


def check_form(suffix: str, patches: bool) -> None:
    """Raise UserError for a form that features cannot have; MissingExtra without what writes it."""
    if suffix not in SUFFIXES:
        raise UserError(
            f"cannot write features as '{suffix}'", fix=f"end --out with {' or '.join(SUFFIXES)}"
        )
    if patches and suffix == ".csv":
        others = " or ".join(other for other in SUFFIXES if other != suffix)
        raise UserError(
            "patch tokens do not fit into a CSV file",
            why="each image has many of them",
            fix=f"end --out with {others}, or leave out --patches",
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "parquet")
