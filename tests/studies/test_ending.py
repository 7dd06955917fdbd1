"""The end of real trainings: what is said, kept and written."""

import numpy as np
import pytest
import torch
from several import run_forked

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.data.scenes import write_folder
from ibot.data.sets.open import open_images
from ibot.errors import DataError
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.method.model import StudentTeacher
from ibot.recipes import recipe
from ibot.report.story import story
from ibot.report.summary import Summary
from ibot.studies import ending
from ibot.studies.compared import measured
from ibot.studies.pretraining import pretrain, reached_step
from ibot.studies.probes import Evaluated, probes
from ibot.studies.settings import Prepared
from ibot.system.distributed import joined
from ibot.system.jsonl import read_jsonl
from ibot.system.processes import Processes, launched_processes
from ibot.system.records import BESIDE, read_records

CPU = torch.device("cpu")
SMALL = [
    *("model.width=24", "model.depth=1", "model.heads=3", "model.patch=8"),
    *("head.out_dim=16", "head.patch_out_dim=16", "head.hidden_dim=16", "head.bottleneck_dim=8"),
    *("evaluate.match=8", "train.batch=8", "train.length=6 steps", "system.workers=0"),
    *("augment.num_local=1", "log.tensorboard=false", "log.every=3", "system.device=cpu"),
    *("method.momentum=0.5", "optim.lr=1e-5"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes of ten classes, the same without folders, and of one class alone."""
    folder = tmp_path_factory.mktemp("world")
    write_folder(folder / "scenes", train=40, val=20, size=32)
    for i, file in enumerate(sorted((folder / "scenes").glob("*/*/*.png"))):
        part = file.parent.parent.name
        for place in (folder / "flat" / f"{i}.png", folder / "one" / part / "a" / f"{i}.png"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Reports without pictures, which cost seconds."""
    monkeypatch.setattr(ending, "PICTURES", 0)


def configured(world, data, *settings):
    return apply(recipe("tiny32"), [f"data.path={world / data}", *SMALL, *settings])


def trained(world, data, run, *settings):
    config = configured(world, data, *settings)
    prepared = Prepared(config, open_images(config.data.path), run, [], [])
    pretrain(prepared, command="ibot pretrain tiny32", steps_option=config.train.max_steps)


def closings(run):
    return [row for row in read_jsonl(run / "events.jsonl") if row["event"] == "closing"]


def test_what_was_gained_is_said_kept_and_reported_also_when_a_run_goes_on(
    world, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    trained(world, "scenes", run, "train.max_steps=3")
    said = capsys.readouterr().out
    assert "own random start" in said and "train to the end of the schedule" in said
    assert f"report {run / 'report.html'}" in said
    first = read_jsonl(run / BESIDE)
    assert [row["baseline"] for row in first] == ["pixels", "colours"]
    trained(world, "scenes", run)
    assert read_jsonl(run / BESIDE) == first  # they are what they were
    assert [row["step"] for row in closings(run)] == [3, 6]
    values = closings(run)[-1]["values"]
    assert set(values) == {"now", "random", "pixels", "colours"}
    own = [r.value for r in read_records(run / "results.jsonl") if r.metric == "knn_top1"]
    assert (values["random"], values["now"]) == (own[0], own[-1])
    told = story(run)
    assert told.state == "ended" and Summary(told).status == ("finished", "good")
    assert "<strong>Gained:</strong> k-NN" in (run / "report.html").read_text()
    assert "gained k-NN" in (run / "log.txt").read_text()
    capsys.readouterr()
    monkeypatch.setattr(ending, "at_the_end", lambda *given: pytest.fail("measured again"))
    trained(world, "scenes", run)
    again = capsys.readouterr().out
    assert "nothing to do" in again and all(line in again for line in closings(run)[-1]["said"])
    assert len(closings(run)) == 2


@pytest.mark.parametrize("data", ["flat", "one"])
def test_without_labels_that_tell_patches_do(data, world, tmp_path, capsys):
    trained(world, data, tmp_path / "run")
    said = capsys.readouterr().out
    assert "found again in another view" in said and "--split 0.2" in said
    assert [row["baseline"] for row in read_jsonl(tmp_path / "run" / BESIDE)] == ["pixels"]
    assert set(closings(tmp_path / "run")[0]["values"]) == {"now", "random", "pixels"}


def test_with_nothing_measured_rank_and_agreement_remain(world, tmp_path, capsys):
    trained(world, "flat", tmp_path / "run", "evaluate.match=0")
    said = capsys.readouterr().out
    assert "gained student and teacher choose the same prototype" in said and "directions" in said


def test_weights_are_compared_before_they_are_trained_and_after(world, tmp_path, capsys):
    trained(world, "scenes", tmp_path / "first")
    capsys.readouterr()
    trained(world, "scenes", tmp_path / "run", f"train.init={tmp_path / 'first'}")
    said = capsys.readouterr().out
    start, gained = said.index("start  the weights as they are: k-NN"), said.index("gained k-NN")
    assert start < said.index("step 3/") < gained
    assert {row["baseline"] for row in read_jsonl(tmp_path / "run" / BESIDE)} == {
        "random",
        "pixels",
        "colours",
    }
    found = closings(tmp_path / "run")[0]
    assert set(found["values"]) == {"now", "start", "random", "pixels", "colours"}
    assert found["values"]["start"] == closings(tmp_path / "first")[0]["values"]["now"]
    assert "weights it started from" in said[gained:]


def test_a_short_training_on_many_images_leaves_dear_baselines_out(
    world, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("ibot.studies.compared.ALWAYS", 10)
    trained(world, "scenes", tmp_path / "run")
    said = capsys.readouterr().out
    assert "not compared with plain pixels and colour histograms, which takes 120 looks" in said
    assert "whether more than colours" in said or "random network" in said
    assert not (tmp_path / "run" / BESIDE).exists()


def test_nothing_at_the_end_makes_a_training_fail(world, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(
        ending, "at_the_end", lambda *given: (_ for _ in ()).throw(DataError("gone"))
    )
    monkeypatch.setattr(
        ending, "write_report", lambda *given: (_ for _ in ()).throw(OSError("full"))
    )
    trained(world, "flat", run)
    said = capsys.readouterr().out
    assert "note   what was gained is not said: gone" in said
    assert "note   the report is not written: full" in said and "next: " in said
    assert reached_step(run) == 6


def test_plain_pixels_in_a_training_are_those_of_a_simple_loop(world):
    config = configured(world, "scenes")
    source = open_images(config.data.path)
    evaluated = Evaluated.of(config, source, print)
    given = {r.baseline: r for r in measured(config, evaluated, ("pixels",), 0, CPU, Processes())}
    rows = [np.stack([part.read(i).ravel() for i in range(len(part))]) for part in evaluated.sets]
    mean, deviation = rows[0].mean(axis=0), rows[0].std(axis=0, ddof=1).clip(1e-6)
    bank, queries = ((part - mean) / deviation for part in rows)
    labels = [part.labels for part in evaluated.sets]
    (want,) = knn_accuracy(bank, labels[0], queries, labels[1], ks=20, temperature=0.07).values()
    assert given["pixels"].value == pytest.approx(want.top1)


def test_two_processes_compare_weights_as_one_does(world, tmp_path):
    config = configured(world, "scenes", "train.init=somewhere")

    def compared(folder):
        evaluated = Evaluated.of(config, open_images(config.data.path), print)
        torch.manual_seed(0)
        backbone = StudentTeacher(config).teacher.backbone
        probe = probes(config, evaluated, CPU, print)
        derived = derive(config, len(evaluated.source))
        ending.with_start(probe, config, folder, evaluated, derived, CPU)(backbone, 0)
        return [row["value"] for row in read_jsonl(folder / BESIDE)]

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    want = compared(tmp_path / "one")

    def work(rank):
        torch.set_num_threads(1)
        with joined(CPU):
            found = compared(tmp_path / "two")
        return 0 if found == want or launched_processes().rank else 3

    codes, said = run_forked(work, tmp_path)
    assert codes == [0, 0], said
    assert len(want) == 3
