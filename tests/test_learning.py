"""The study of what losses teach: its trainings can be made, its measures and tables are true."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import learning, learning_tables
from benchmarks.learned_words import agreement
from benchmarks.learning import jobs_of
from benchmarks.learning_studies import STUDIES, Study
from benchmarks.measures import Sets, measure

from ibot import apply, recipe
from ibot.config.override import items
from ibot.config.resolve import derive
from ibot.data.scenes import write_folder
from ibot.eval.baselines import random_start
from ibot.eval.features.views import evenly
from ibot.eval.probes.match import MatchPlan
from ibot.models.head import ProjectionHead


@pytest.mark.parametrize("name", STUDIES)
def test_every_training_of_a_study_can_be_made_and_is_of_its_own(name, tmp_path):
    study = STUDIES[name]
    jobs = jobs_of(name, study, data={study.data: str(tmp_path)}, out=tmp_path)
    assert len(jobs) == len(study.rows) * len(study.seeds)
    assert len({job.folder for job in jobs}) == len(jobs)
    settings = [tuple(items(job.config)) for job in jobs if job.trained]
    assert len(set(settings)) == len(settings)
    for job in jobs:
        derive(job.config, 10_000)  # raises where settings cannot work together


def test_rows_and_data_that_are_not_known_are_named(tmp_path):
    with pytest.raises(SystemExit, match="no row 'ibot'"):
        jobs_of("losses64", STUDIES["losses64"], data={}, out=tmp_path, rows=["ibot"])
    with pytest.raises(SystemExit, match="where is cifar10"):
        jobs_of("losses64", STUDIES["losses64"], data={}, out=tmp_path)


def test_a_record_names_no_folder_of_the_machine():
    rows = {"words": ("method.patch_target=frozen", "method.tokenizer={out}/a-s{seed}")}
    study = Study(question="?", data="cifar10", rows=rows)
    (job,) = jobs_of("s", study, data={"cifar10": "small"}, out=Path("/here"), seeds=[3])
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


def test_a_gain_is_taken_seed_by_seed(tmp_path):
    rows = [("a", 0, 5.0), ("b", 0, 3.0), ("a", 1, 9.0), ("b", 1, 8.0), ("a", 2, 7.0)]
    text = "".join(json.dumps({"row": r, "seed": s, "knn_cls": v}) + "\n" for r, s, v in rows)
    (tmp_path / "losses36.jsonl").write_text(text)
    page = "<!-- gain losses36: a over b: knn_cls -->\n<!-- end -->"
    page = learning_tables.page(page, tmp_path)
    assert "|  | seed 0 | seed 1 | mean |" in page
    assert "| k-NN, class token | +2.0 | +1.0 | 1.5 ± 6.3 |" in page  # 12.7 * 0.707 / 1.414


def test_curves_stand_seed_by_seed_with_a_dash_where_nothing_was_measured(tmp_path):
    rows = [("random", 0, {}), ("iBOT", 1, {"64": 31.5}), ("iBOT", 0, {"0": 9.0, "64": 30.0})]
    text = "".join(json.dumps({"row": r, "seed": s, "curve": c}) + "\n" for r, s, c in rows)
    (tmp_path / "losses36.jsonl").write_text(text)
    page = learning_tables.page("<!-- curve losses36 -->\nold\n<!-- end -->", tmp_path)
    assert page.splitlines()[1:-1] == [
        "| images seen | iBOT, seeds 0 / 1 |",
        "|---|---|",
        "| 0 | 9.0 / - |",
        "| 64 | 30.0 / 31.5 |",
    ]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_folder(folder, train=60, val=30)
    return Sets.of(str(folder))


@pytest.fixture(scope="module")
def network():
    config = apply(recipe("tiny32"), ["model.width=32", "model.depth=2", "model.heads=2"])
    return config, random_start(config.model, 0, built_for=(32, 32))


def test_all_measures_of_a_random_network_are_shares_or_ranks(scenes, network):
    config, backbone = network
    head = ProjectionHead(config.model.width, config.head, shared=True).eval()
    found = measure(backbone, head, scenes, 32)
    assert all(np.isfinite(value) for value in found.values())
    shares = [value for name, value in found.items() if name.startswith(("knn", "linear", "match"))]
    assert len(shares) == 8 and all(0 <= value <= 100 for value in shares)
    assert found["match_r0"] < found["match_r1"] < found["match_r2"]
    assert 1 <= found["rank_cls"] <= 32 and 0 < found["within_images"] < 100
    assert 1 <= found["words_per_image"] <= 16 and found["words_used"] <= config.head.out_dim


def test_words_that_are_one_for_all_agree_everywhere_by_chance_alone(scenes, network):
    config, backbone = network
    head = ProjectionHead(config.model.width, config.head, shared=True).eval()
    constant = torch.nn.functional.normalize(torch.randn(config.head.bottleneck_dim), dim=0)
    head.project_patches = lambda patches: constant.expand(len(patches), -1)
    plan = MatchPlan.of(backbone, (32, 32), seed=0, batch=8)
    found = agreement(backbone, head, scenes.val, evenly(len(scenes.val), 16), plan)
    assert found["words_same"] == found["words_chance"] == pytest.approx(100)
    assert found["words_used"] == pytest.approx(1) and found["words_per_image"] == 1


@pytest.mark.parametrize("path", learning_tables.PAGES, ids=lambda path: path.name)
def test_the_tables_of_a_page_are_those_of_the_records(path):
    text = path.read_text(encoding="utf-8")
    assert learning_tables.page(text) == text
    assert "<!-- end -->" in text
