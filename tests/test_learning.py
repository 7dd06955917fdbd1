"""The trainings of the study of what is learnt, and the tables of its records."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ibot.config.resolve import check
from ibot.data.scenes import write_folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import learning, learning_tables
from benchmarks.learning import jobs_of
from benchmarks.learning_studies import RANDOM, STUDIES, Study

DATA = {"cifar10": "small", "imagenette": "photos"}


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_a_study_can_be_trained_in_a_folder_of_its_own(name):
    jobs = jobs_of(name, STUDIES[name], data=DATA, out=Path("out"))
    for job in jobs:
        check(job.config)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert {job.seed for job in jobs} == set(STUDIES[name].seeds)


def test_rows_and_data_that_are_not_known_are_named():
    study = Study(question="?", data="cifar10", rows={"random": RANDOM, "iBOT": ()})
    with pytest.raises(SystemExit, match="no row 'ibot' in s: random, iBOT"):
        jobs_of("s", study, data=DATA, out=Path("out"), rows=["ibot"])
    with pytest.raises(SystemExit, match="where is cifar10"):
        jobs_of("s", study, data={}, out=Path("out"))


def test_a_record_names_no_folder_of_the_machine():
    rows = {"words": ("method.patch_target=frozen", "method.tokenizer={out}/a-s{seed}")}
    study = Study(question="?", data="cifar10", rows=rows)
    (job,) = jobs_of("s", study, data=DATA, out=Path("/here"), seeds=[3])
    assert job.config.method.tokenizer == "/here/a-s3" and not any(
        "here" in text for text in job.settings
    )


def test_a_training_that_a_signal_stopped_is_not_measured(tmp_path, monkeypatch):
    write_folder(tmp_path / "set", train=160, val=20, size=32)
    study = Study(question="?", data="cifar10", rows={"iBOT": ()}, base=["train.length=5 steps"])
    (job,) = jobs_of("s", study, data={"cifar10": str(tmp_path / "set")}, out=tmp_path, seeds=[0])
    job = replace(job, curve=False)
    monkeypatch.setattr(learning, "train", lambda *given, **more: SimpleNamespace(step=4))
    monkeypatch.setattr(learning, "measure", lambda *given: pytest.fail("it was measured"))
    with pytest.raises(SystemExit, match="stopped at step 4 of 5"):
        learning.run(job, "")


def test_a_cell_is_the_mean_over_seeds_with_its_interval(tmp_path):
    rows = [
        {"row": "iBOT", "seed": 1, "knn_cls": 31.0},
        {"row": "iBOT", "seed": 0, "knn_cls": 33.0},
        {"row": "random", "seed": 0, "knn_cls": 20.0, "words_same": 1.0},
    ]
    record = tmp_path / "losses36.jsonl"
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "a\n<!-- table losses36 knn_cls words_same -->\nold\n<!-- end -->\nb\n"
    page = learning_tables.page(text, tmp_path)
    # Student's t of one degree of freedom: 12.7 times the standard error, 1.
    assert "| iBOT | 0 1 | 32.0 ± 12.7 | - |" in page
    assert "| random | 0 | 20.0 | 1.0 |" in page and "old" not in page
    assert page.startswith("a\n<!-- table") and page.endswith("<!-- end -->\nb\n")
