"""Versions of this package and of what it stands on."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ibot


@cache
def software() -> dict[str, Any]:
    """Versions of this package and of what it stands on."""
    return {
        "ibot": ibot.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {
            name: _version(name)
            for name in ("torch", "torchvision", "numpy", "pillow", "safetensors")
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """Commit of the code and whether it was changed, or 'unknown' for an installed package."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5
        )
        if head.returncode:
            return "unknown"
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5
        )
        return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
