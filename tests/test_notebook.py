"""The notebooks in docs/: their cells, and slowly as a reader executes them, in kernels of their
own.
"""

import ast
from pathlib import Path

import nbformat
import pytest
from blobs import blobs, save
from nbclient import NotebookClient
from PIL import Image
from random_weights import VIT, write_random

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Six photographs and weights, by the variables that pictures.ipynb asks for."""
    for number in range(6):
        save(tmp_path / "photos" / f"{number}.png", blobs(number, 40 + 8 * number, 56))
    weights = write_random(tmp_path / "weights.safetensors", *VIT, times=3)
    monkeypatch.setenv("IBOT_WEIGHTS", str(weights))
    monkeypatch.setenv("IBOT_DATA", str(tmp_path / "photos"))
    monkeypatch.setenv("IBOT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("IBOT_SIZE", "64")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_cell_of_the_notebook_runs_and_ends_in_its_picture(told, capsys):
    names, shown = {"__name__": "notebook"}, []
    for cell in read("pictures.ipynb").cells:
        if cell.cell_type == "code":
            *lines, last = ast.parse(cell.source).body
            if not isinstance(last, ast.Expr):
                lines, last = [*lines, last], None
            exec(compile(ast.Module(lines, []), "cell", "exec"), names)
            if last:
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    pictures = [one for one in shown if isinstance(one, Image.Image)]
    assert len(pictures) == 4, "attention, colours, correspondences, words"
    assert not capsys.readouterr().err


@pytest.mark.slow  # a kernel, which imports everything anew
def test_in_a_kernel_the_pictures_are_there(told):
    assert len(executed("pictures.ipynb", told)[0]) == 4


@pytest.mark.slow
def test_features_are_mapped_and_mistakes_found(photos_world, monkeypatch):
    monkeypatch.setenv("IBOT_WEIGHTS", "runs/photos")
    monkeypatch.setenv("IBOT_DATA", "photos")
    pictures, texts = executed("features.ipynb", photos_world)
    assert len(pictures) == 2, "the map, the mistakes"
    assert "[36, 24]) in 2 classes; 0 not read" in texts and "% of 36 images" in texts
    assert "random start: " in texts and "colours: " in texts


def read(name):
    notebook = nbformat.read(DOCS / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    return notebook


def executed(name, folder):
    """Pictures and text of a notebook that was run in `folder`; it says nothing on stderr."""
    notebook = read(name)
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return pictures, "".join(output.get("text", "") for output in outputs)
