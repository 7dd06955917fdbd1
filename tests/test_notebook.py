"""The notebook in docs/, executed as a reader would, in a kernel of its own."""

from pathlib import Path

import nbformat
from blobs import blobs, save
from nbclient import NotebookClient
from random_weights import VIT, write_random

FILE = Path(__file__).parents[1] / "docs" / "pictures.ipynb"


def test_every_cell_of_the_notebook_runs_and_its_pictures_are_there(tmp_path, monkeypatch):
    for number in range(6):
        save(tmp_path / "photos" / f"{number}.png", blobs(number, 40 + 8 * number, 56))
    weights = write_random(tmp_path / "weights.safetensors", *VIT, times=3)
    monkeypatch.setenv("IBOT_WEIGHTS", str(weights))
    monkeypatch.setenv("IBOT_DATA", str(tmp_path / "photos"))
    monkeypatch.setenv("IBOT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("IBOT_SIZE", "64")
    notebook = nbformat.read(FILE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})

    client.execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4, "attention, colours, correspondences, words"
    assert not [output for output in outputs if output.get("name") == "stderr"]
