"""docs/architecture.md against the tree and the import contracts."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "src" / "ibot"
PICTURE = re.search(r"```\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
LAYERS = next(
    contract["layers"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    if contract["type"] == "layers"
)


def test_the_picture_shows_the_layers_that_are_held():
    names = {path.stem for path in PACKAGE.iterdir() if path.stem[0] not in "_p"}
    for line, layer in zip(PICTURE, LAYERS, strict=True):
        held = [name.strip().removeprefix("ibot.") for name in layer.split("|")]
        assert re.findall(r"[a-z]+", line)[: len(held)] == held
        names -= set(held)
    assert not names, "every package and module has its line"


ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("package", ROWS)
def test_what_the_table_says_of_a_package_is_there(package):
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", ROWS[package]):
        assert (PACKAGE / package / name).exists(), name


def test_every_package_has_a_row():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {*ROWS, "cli", "recipes", "show"}


def test_what_is_named_elsewhere_is_there():
    rest = re.sub(r"^\|.*$", "", PAGE, flags=re.MULTILINE)
    named = re.findall(r"`((?:[a-z_]+/)+[\w.]*\.py)(?:: ([\w.]+))?", rest)
    assert len(named) > 25
    for path, member in named:
        source = next(f for f in (PACKAGE / path, ROOT / path) if f.is_file()).read_text()
        name = member.rpartition(".")[2]
        assert not name or re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), member
