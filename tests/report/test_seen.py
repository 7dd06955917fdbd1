"""What a run's network makes of a few images, in its report."""

import io

import numpy as np
import pytest
from pages import Page
from PIL import Image
from random_weights import SWIN, VIT, write_random
from told_runs import settings, write_run

from ibot.data.scenes import write_folder
from ibot.engine.run import read_config
from ibot.report.run_report import write_report
from ibot.report.seen import COLUMNS, seen_by
from ibot.show.attention import attention_of
from ibot.show.inputs import WholeView
from ibot.weights.read import load_backbone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_folder(folder, train=40, val=9, seed=0, size=32)
    return folder


def trained(folder, data, network=VIT):
    """A run with a checkpoint of a random network."""
    config = settings(f"data.path={data}", "augment.global_size=32", *network, base="tiny32")
    run = write_run(folder, config=config)
    checkpoint = run / "checkpoints" / "step_00000030"
    checkpoint.mkdir(parents=True)
    write_random(checkpoint / "teacher.safetensors", *network, times=3)
    (checkpoint / "state.json").write_text('{"step": 30}')
    (run / "checkpoints" / "last").write_text("step_00000030\n")
    return run


def test_pictures_are_of_evenly_spaced_validation_images_as_the_network_sees_them(tmp_path, data):
    run = trained(tmp_path / "run", data)
    seen = seen_by(run, read_config(run), 3)
    names = sorted(str(path.relative_to(data / "val")) for path in (data / "val").rglob("*.png"))
    assert [name for name, _ in seen.rows] == [names[i] for i in (0, 4, 8)]
    assert "3 validation images, evenly spaced, shorter side 128 pixels" in seen.words
    (_, row) = seen.rows[1]
    shown = [np.asarray(Image.open(io.BytesIO(one.content)), float) for one in row]
    assert [one.shape for one in shown] == 4 * [(128, 128, 3)]
    image = np.asarray(Image.open(data / "val" / names[4]))
    found = attention_of(load_backbone(run), image, WholeView(128))
    assert np.abs(shown[0] - found.view).mean() < 6  # JPEG
    assert np.abs(shown[1] - found.overlay()).mean() < 25  # sharp colours
    assert [one.title for one in row] == [f"{names[4]}: {column}" for column in COLUMNS]


def test_the_page_shows_them_with_their_names(tmp_path, data):
    run = trained(tmp_path / "run", data, SWIN)
    write_report(run, run / "report.html", 2)
    page = Page(run / "report.html")
    assert len(page.images()) == 8 and "Pictures" in page.text("h2")
    assert any("windows" in text for text in page.text("p"))


def test_without_images_or_weights_a_line_says_how_to_make_them(tmp_path, data):
    run = trained(tmp_path / "gone", tmp_path / "nowhere")
    write_report(run, run / "report.html", 2)
    (line,) = [text for text in Page(run / "report.html").text("p") if "could not be drawn" in text]
    assert "nowhere" in line and f"ibot show attention {run} IMAGES" in line
    broken = trained(tmp_path / "broken", data)
    (broken / "checkpoints" / "step_00000030" / "teacher.safetensors").write_bytes(b"cut")
    write_report(broken, broken / "report.html", 2)
    assert "could not be drawn" in Page(broken / "report.html").source


def test_a_run_without_validation_images_shows_those_of_its_training(tmp_path, data):
    run = trained(tmp_path / "run", data / "train")
    assert "2 training images" in seen_by(run, read_config(run), 2).words


def test_none_are_made_where_none_are_asked_for(tmp_path, data):
    run = trained(tmp_path / "run", data)
    write_report(run, run / "report.html")
    assert "Pictures" not in Page(run / "report.html").text("h2")
