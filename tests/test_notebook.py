"""The notebooks in docs/, executed as a reader would, in kernels of their own."""

from pathlib import Path

import nbformat
import pytest
from blobs import blobs, save
from nbclient import NotebookClient
from random_weights import VIT, write_random

DOCS = Path(__file__).parents[1] / "docs"


def test_every_cell_of_the_notebook_runs_and_its_pictures_are_there(tmp_path, monkeypatch):
    for number in range(6):
        save(tmp_path / "photos" / f"{number}.png", blobs(number, 40 + 8 * number, 56))
    weights = write_random(tmp_path / "weights.safetensors", *VIT, times=3)
    monkeypatch.setenv("IBOT_WEIGHTS", str(weights))
    monkeypatch.setenv("IBOT_DATA", str(tmp_path / "photos"))
    monkeypatch.setenv("IBOT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("IBOT_SIZE", "64")
    pictures, _ = executed("pictures.ipynb", tmp_path)
    assert len(pictures) == 4, "attention, colours, correspondences, words"


@pytest.mark.slow
def test_features_are_mapped_and_mistakes_found(photos_world, monkeypatch):
    monkeypatch.setenv("IBOT_WEIGHTS", "runs/photos")
    monkeypatch.setenv("IBOT_DATA", "photos")
    pictures, texts = executed("features.ipynb", photos_world)
    assert len(pictures) == 2, "the map, the mistakes"
    assert "[36, 24]) in 2 classes; 0 not read" in texts and "% of 36 images" in texts


def executed(name, folder):
    """Pictures and text of a notebook that was run in `folder`; it says nothing on stderr."""
    notebook = nbformat.read(DOCS / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return pictures, "".join(output.get("text", "") for output in outputs)
