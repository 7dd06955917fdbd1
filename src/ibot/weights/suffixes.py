"""What an export is called. Nothing heavy is imported, so that a wrong name is told at once."""

from __future__ import annotations

from pathlib import Path

from ibot.errors import UserError

SUFFIXES = {
    "safetensors": ".safetensors",
    "published": ".pth",
    "timm": "",
    "huggingface": "",
    "onnx": ".onnx",
    "checkpoint": "",
    "classifier": ".safetensors",
}
"""Targets, and the suffix of the file; empty for a folder and a checkpoint (a file of any name)."""


def require_new(out: Path, target: str) -> None:
    """Raise UserError for an `out` that exists or lacks the suffix of `target`."""
    suffix = SUFFIXES[target]
    if out.exists():
        raise UserError(f"'{out}' exists", fix="name a new file or folder with --out")
    if suffix and out.suffix != suffix:
        raise UserError(
            f"'{out}' does not end with {suffix}", fix=f"name it {out.with_suffix(suffix)}"
        )
