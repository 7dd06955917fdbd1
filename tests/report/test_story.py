"""What is known of a run from its folder, in whatever state."""

import json
import shutil
from pathlib import Path

import pytest
from pages import NAMES
from told_runs import VERDICT, event, knn, row, settings, write_run

from ibot.config.override import apply, diff, show
from ibot.engine.run import RunFolder
from ibot.recipes import recipe
from ibot.report import story as module
from ibot.report.story import story, training
from ibot.system.processes import Processes

KEYS = ["state", "curves", "verdicts", "results", "settings", "updated"]


def asked(run):
    """The training as a server sends it: JSON of any browser."""
    found = training(run)
    assert json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    assert list(found) == KEYS
    return found


def test_the_training_of_a_run_has_all_that_a_page_shows(tmp_path):
    run = write_run(tmp_path / "run", events=[event("start"), VERDICT, event("end", step=30)])
    found = asked(run)
    assert found["state"] == "ended" and found["updated"].startswith("20")
    curves = {curve["id"]: curve for curve in found["curves"]}
    assert list(curves)[:2] == ["knn_top1", "loss"]
    assert set(curves["loss"]) == {"id", "title", "unit", "level", "series"}
    assert curves["loss"]["series"][0]["points"][0] == [640, row(10)["cls_loss"]]
    assert curves["knn_top1"]["series"][0]["points"] == [[0, 30.0], [1920, 50.0]]
    keys = {"step", "kind", "evidence", "advice"}
    assert found["verdicts"] == [
        {key: VERDICT["verdict" if key == "kind" else key] for key in keys}
    ]
    (result,) = found["results"]
    assert result["name"] == "knn, k = 20" and result["when"] == "step 30"
    assert result["low"] < result["value"] == 50.0 < result["high"]
    assert ["model.patch", "8", "16"] in found["settings"]


@pytest.mark.parametrize("state", ["missing", "empty", "a file"])
def test_what_is_no_run_has_no_story(tmp_path, state):
    run = tmp_path / "run"
    if state != "missing":
        run.mkdir() if state == "empty" else run.write_text("photo")
    assert asked(run) == {"state": "none", **{key: [] for key in KEYS[1:5]}, "updated": ""}


@pytest.mark.parametrize("reader", ["read_metrics", "_own_records", "_bad_files", "_checkpoints"])
def test_a_run_that_is_deleted_meanwhile_breaks_nothing(tmp_path, monkeypatch, reader):
    run = write_run(tmp_path / "run")
    read = getattr(module, reader)

    def deleting(*given):
        shutil.rmtree(run, ignore_errors=True)
        return read(*given)

    monkeypatch.setattr(module, reader, deleting)
    asked(run)


def test_a_run_is_running_while_its_folder_is_in_use(tmp_path):
    config = recipe("demo")
    process = Processes()
    folder = RunFolder.create(
        tmp_path / "run", config, command="ibot demo", source_info={}, processes=process
    )
    assert asked(folder.path)["state"] == "running"
    folder.metrics(row(10))
    assert asked(folder.path)["state"] == "running"
    folder.close()
    killed = story(folder.path)
    assert killed.state == "ended" and killed.end is None


@pytest.mark.parametrize("kind", ["end", "stopped by signal", "failed"])
def test_the_last_event_says_how_a_run_ended(tmp_path, kind):
    run = write_run(tmp_path, events=[event("start"), event(kind, step=30)])
    assert story(run).end == event(kind, step=30)


def test_a_run_that_was_resumed_after_its_end_has_none(tmp_path):
    events = [event("start"), event("stopped by signal"), event("start"), event("resume", step=20)]
    assert story(write_run(tmp_path, events=events)).end is None


def test_verdicts_of_an_earlier_version_are_understood():
    old = Path(__file__).parents[1] / "before" / "left" / "run"
    verdict = story(old).verdicts[0]
    assert (verdict.step, verdict.kind) == (6, "diverging")
    assert verdict.evidence == "class loss 5.01 is far above ln K = 2.48"
    assert verdict.advice.startswith("Lower optim.lr (now 0.004 per 256 images)")


def test_a_verdict_that_a_resumed_run_repeats_is_told_once(tmp_path):
    later = {**VERDICT, "step": 10}
    run = write_run(tmp_path, events=[VERDICT, event("resume"), later, VERDICT])
    assert [verdict.step for verdict in story(run).verdicts] == [10, 20]


def test_settings_that_differ_are_those_of_the_difference_of_both(tmp_path):
    assignments = ["optim.lr=0.1", "mask.ratio=0:0,0.7:0.05", "train.length=3 epochs"]
    run = write_run(tmp_path, config=settings(*assignments))
    own = apply(recipe("tiny64"), ["model.patch=8", *assignments])
    wanted = {key: (show(mine), show(theirs)) for key, theirs, mine in diff(recipe("tiny64"), own)}
    differing = [one for one in story(run).settings if one.differs]
    assert {one.key: (one.value, one.recipe) for one in differing} == wanted
    assert [one.key for one in differing if one.asked] == ["model.patch"]


def test_a_run_without_a_known_recipe_is_compared_with_the_published_one(tmp_path):
    run = write_run(tmp_path, config={**settings(), "recipe": "auto"})
    widths = {one.key: one.recipe for one in story(run).settings}
    assert widths["model.width"] == show(recipe("vit_s16").model.width)


def test_settings_of_other_versions_are_shown_as_they_are(tmp_path):
    config = settings()
    config["model"]["curvature"] = [[1, 2.5], [None, True]]
    config["later"] = {"key": "<b>"}
    del config["optim"]
    known = {one.key: one for one in story(write_run(tmp_path, config=config)).settings}
    assert known["model.curvature"].value == "1:2.5,none:true" and known["later.key"].differs
    assert known["model.curvature"].recipe is None and "optim.lr" not in known


def test_the_reasons_of_auto_are_those_of_the_last_start(tmp_path):
    events = [event("choices", reasons=["old"]), event("choices", reasons=["batch 64", "K 1024"])]
    assert story(write_run(tmp_path, events=events)).reasons == ["batch 64", "K 1024"]


@pytest.mark.parametrize("junk", ["", "{", "[]", "null", '{"train": 3}', "\x00", '"a"'])
def test_damaged_files_are_passed_over(tmp_path, junk):
    run = write_run(tmp_path)
    for name in ("config.json", "provenance.json", "results.jsonl", "events.jsonl"):
        (run / name).write_text(junk)
    (run / "bad_files.jsonl").write_text(junk + '\n{"path": 3}\n{"path": "a", "reason": null}\n')
    found = asked(run)
    assert found["state"] == "ended" and found["curves"]
    assert story(run).bad_files == [("", ""), ("a", "")]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_letters_can_be_sent(tmp_path, name):
    events = [{**VERDICT, "evidence": name, "verdict": name}, event("choices", reasons=[name])]
    run = write_run(
        tmp_path,
        config={**settings(), "recipe": name, "data": {"path": name}},
        events=events,
        results=[knn(3, 5.0, row=name, metric=name, chosen=name, when=name)],
    )
    assert asked(run)["verdicts"]


def test_results_that_cannot_be_read_are_named(tmp_path):
    run = write_run(tmp_path)
    (run / "results.jsonl").write_bytes(b"\xff\xfe")
    told = story(run)
    assert "utf-8" in told.unread and told.entries == []
