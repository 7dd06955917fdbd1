"""Packages that are missing are named by their own names, with the bounds of pyproject.toml."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ibot import extras
from ibot.errors import MissingExtra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def absent(monkeypatch):
    """Let packages count as not installed, or as of another version: `absent(timm="0.9")`."""

    def let(**versions):
        found = extras.installed
        renamed = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(extras, "installed", lambda name: renamed.get(name, found(name)))

    return let


def test_every_extra_of_the_project_is_known_without_our_own_name():
    table = extras.extras()
    assert set(table) == set(PROJECT["optional-dependencies"]) - {"all", "dev"}
    assert table["slides"] == table["channels"]
    for extra, needs in table.items():
        own = PROJECT["optional-dependencies"][extra]
        assert list(needs) == own or own == [f"{extras.DISTRIBUTION}[channels]"]
    assert extras.needed() == tuple(PROJECT["dependencies"])
    assert PROJECT["name"] == extras.DISTRIBUTION != "ibot"


def test_an_installed_package_says_the_same_as_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "src" / "ibot").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "src/ibot/__init__.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "out").mkdir()
    build = "from setuptools.build_meta import *; prepare_metadata_for_build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.syspath_prepend(tmp_path / "out")
    found, expected = (
        {name: needs for name, needs in table.items() if name not in extras.DEVELOPERS}
        for table in (extras._of_installed(), extras._of_checkout())
    )
    assert found == expected and found["channels"] and found[extras.CORE]
    # Where the sources lie without pyproject.toml, that is what is read.
    monkeypatch.setattr(extras, "_PYPROJECT", tmp_path / "absent")
    assert not extras._of_checkout()


def test_a_missing_package_is_named_with_the_others_of_its_extra_that_are_missing(absent):
    absent(scikit_learn="", timm="1.0.19", scipy="1.14")
    bounds = {extras.name_of(need): need for need in extras.extras()["eval"]}
    said = MissingExtra("scikit-learn", "eval")
    assert "'scikit-learn' is not installed" in str(said)
    assert said.fix == f'pip install "{bounds["scikit-learn"]}" "{bounds["timm"]}"'
    # What a package of the extra needs itself has no bound of ours.
    absent(scikit_learn="9", timm="9", scipy="9")
    assert MissingExtra("joblib", "eval").fix == 'pip install "joblib"'


def test_sources_that_nobody_installed_name_the_package_alone(monkeypatch):
    monkeypatch.setattr(extras, "_table", dict)
    assert MissingExtra("zarr", "zarr").fix == 'pip install "zarr"'


def test_an_environment_without_pip_is_uvs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert extras.command(["zarr>=3"]) == 'uv pip install "zarr>=3"'


@pytest.mark.parametrize(
    ("version", "met"),
    [("1.14", True), ("1.14.0rc1", True), ("2+cpu", True), ("1.9.9", False), ("", False)],
)
def test_bounds_are_compared_as_numbers(absent, version, met):
    absent(scipy=version)
    assert extras.is_met("scipy>=1.14") is met


def test_what_the_code_asks_for_belongs_to_the_extra_that_it_names():
    asked = 0
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "MissingExtra(" in text else ():
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtra"):
                continue
            package, extra = node.args
            assert isinstance(extra, ast.Constant) and extra.value in extras.extras(), path
            if isinstance(package, ast.Constant):
                names = [extras.name_of(need) for need in extras.extras()[extra.value]]
                assert package.value in names, (path, package.value)
                asked += 1
    assert asked > 10


def test_nothing_tells_anybody_to_install_the_project_that_has_our_old_name():
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    for path in texts:
        assert not re.search(r"pip install[^`\n]*[ \"']ibot[\[\s\"'`]", path.read_text()), path
        assert "ibot[" not in path.read_text(), path
