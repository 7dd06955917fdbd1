"""Packages that this one stands on, as pyproject.toml lists them: no list is kept here.

The name `ibot` on the public index is somebody else's project. So whatever is missing is named by
its own name, never by an extra of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "ibot-vision"
"""What this package is called where packages are installed; it is imported as `ibot`."""
DEVELOPERS = ("dev", "all")
"""Extras for those who work on this package, and the one that holds all others."""
CORE = ""
"""Stands for what is needed without any extra."""
_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def missing(extra: str) -> list[str]:
    """Packages of an extra that are absent or too old, with their bounds: `scikit-learn>=1.6`."""
    return [need for need in extras().get(extra, ()) if not is_met(need)]


def command(packages: Iterable[str]) -> str:
    """What installs packages into the environment of this process."""
    # An environment that uv made has no pip, and the system's would install elsewhere.
    pip = "pip install" if find_spec("pip") else "uv pip install"
    return " ".join([pip, *(f'"{package}"' for package in packages)])


def installed(package: str) -> str:
    """The version of a package; empty where it is absent."""
    from importlib.metadata import PackageNotFoundError, version  # a quarter of the help's time

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def is_met(need: str) -> bool:
    """Whether a package is there and not below its bound, if it has one as `>=1.6`."""
    found, bound = installed(name_of(need)), need.partition(">=")[2]
    return bool(found) and _numbers(found) >= _numbers(bound)


def name_of(need: str) -> str:
    """`scikit-learn` of `scikit-learn>=1.6`."""
    return re.split(r"[^\w.-]", need, maxsplit=1)[0]


def extras() -> dict[str, tuple[str, ...]]:
    """Packages with their bounds by extra; empty for sources without pyproject.toml that nobody
    installed.
    """
    table = _table()
    return {
        extra: tuple(_flat(extra, table)) for extra in table if extra not in (CORE, *DEVELOPERS)
    }


def needed() -> tuple[str, ...]:
    """Packages without which nothing works, with their bounds."""
    return tuple(_table().get(CORE, ()))


@cache
def _table() -> dict[str, list[str]]:
    return _of_checkout() or _of_installed()


def _of_checkout() -> dict[str, list[str]]:
    """From the file beside the sources: what is installed may be older, or have another name."""
    import tomllib

    try:
        project = tomllib.loads(_PYPROJECT.read_text("utf-8"))["project"]
        needs = {CORE: project["dependencies"], **project["optional-dependencies"]}
        return needs if project["name"] == DISTRIBUTION else {}
    except (OSError, ValueError, KeyError):
        return {}


def _of_installed() -> dict[str, list[str]]:
    from importlib.metadata import PackageNotFoundError, requires

    table: dict[str, list[str]] = {}
    try:
        needs = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return table
    for need in needs:
        package, _, marker = need.partition(";")
        said = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        table.setdefault(said[1] if said else CORE, []).append(package.strip())
    return table


def _numbers(version: str) -> list[int]:
    """[2, 13, 0] of `2.13.0+cpu`, [] of nothing."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []


def _flat(extra: str, table: dict[str, list[str]]) -> Iterator[str]:
    """Packages of an extra, and of those that it stands on."""
    for need in table[extra]:
        if need.startswith(f"{DISTRIBUTION}["):
            for inner in need[len(DISTRIBUTION) + 1 :].rstrip("]").split(","):
                yield from _flat(inner.strip(), table)
        else:
            yield need
