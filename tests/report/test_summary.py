"""A run in sentences: each is true of the run it is said of."""

import html
import re

import pytest
from told_runs import ROWS, event, knn, provenance, row, saved, settings, write_run

from ibot.report.sections import about_verdicts
from ibot.report.story import story
from ibot.report.summary import Summary, lasting

START = event("start")


def summed_up(run):
    """State, sentences and advice as text, a line each."""
    summary = Summary(story(run))
    advice = [f"{reason}: {command}" for reason, command in summary.next_steps()]
    lines = [summary.status[0], *summary.sentences(), *advice]
    return html.unescape(re.sub("<[^>]+>", "", "\n".join(lines)))


def test_intervals_that_overlap_are_said_to(tmp_path):
    run = write_run(tmp_path, results=[knn(0, 30.0), knn(30, 31.0)])
    assert "The intervals overlap." in summed_up(run)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((30.0, 60.0, 50.0), "Its best was 60.0\u00a0% after step 20."),
        ((60.0, 55.0, 50.0), "Its best was 60.0\u00a0% before the training."),
        ((30.0, 40.0, 50.0), ""),
    ],
)
def test_a_best_that_is_past_is_named(tmp_path, values, words):
    results = [knn(step, value) for step, value in zip((0, 20, 30), values, strict=True)]
    text = summed_up(write_run(tmp_path, results=results))
    assert words in text and ("Its best" in text) is bool(words)


@pytest.mark.parametrize(
    ("steps", "words", "few"), [(3, "None, in 3 reports: a failure", True), (40, "no sign", False)]
)
def test_a_log_without_verdicts_is_praised_only_where_it_was_judged(tmp_path, steps, words, few):
    rows = [row(10 * step) for step in range(1, steps + 1)]  # 312 steps of warm-up
    run = write_run(tmp_path, rows=rows)
    assert ("few reports to judge by" in summed_up(run)) is few
    assert words in "".join(about_verdicts(story(run), few=few))


STATES = {
    "stopped": ([START, event("stopped by signal", step=20)], "Resume it"),
    "failed": (
        [START, event("failed", what="<loss>", why="nan", fix="lower it")],
        "<loss>. Why: nan. What helps: lower it.",
    ),
    "stopped by its guard": (
        [START, event("guard"), event("failed", what="worse", why="", fix="")],
        "Its guard stopped it at 2026-11-30 19:10:00: worse.\n",
    ),
    "finished": ([START, event("end", step=6250), START], "It came to its end"),
    "ended without a word": ([START, event("failed"), START], "killed"),
}


@pytest.mark.parametrize("state", STATES)
def test_how_a_run_ended_is_said(tmp_path, state):
    events, words = STATES[state]
    text = summed_up(saved(write_run(tmp_path, events=events)))
    assert text.startswith(f"{state}\n") and words in text


def test_a_run_that_saved_nothing_is_not_said_to_be_resumed(tmp_path):
    text = summed_up(write_run(tmp_path, events=[START]))
    assert "command starts it again" in text and "Start it again: ibot pretrain" in text


@pytest.mark.parametrize(("end", "early"), [(30, True), (6250, False)])
def test_an_end_before_that_of_the_schedules_is_said_to_be_one(tmp_path, end, early):
    """The settings keep where the first of several commands was to stop."""
    events = [START, event("end", step=30), START, event("resume", step=30), event("end", step=end)]
    config = settings("train.max_steps=30")
    text = summed_up(write_run(tmp_path, rows=[*ROWS, row(end)], events=events, config=config))
    assert ("6,220 steps of its schedules are left" in text) is early
    assert text.startswith("stopped as asked\n" if early else "finished\n")


@pytest.mark.parametrize(
    ("command", "limit", "on"),
    [
        ("ibot pretrain tiny64 --steps 30 --run r", "--steps", "ibot pretrain tiny64 --run r"),
        ("ibot pretrain tiny64 --run r --steps=30", "--steps", "ibot pretrain tiny64 --run r"),
        (
            "ibot pretrain tiny64 train.max_steps=30 --run 'a b'",
            "train.max_steps",
            "ibot pretrain tiny64 --run 'a b'",
        ),
        ("ibot pretrain my.json", "train.max_steps", ""),
    ],
)
def test_a_run_that_was_asked_to_stop_is_to_be_trained_on(tmp_path, command, limit, on):
    events = [event("start", command=command), event("end", step=30)]
    config = settings("train.max_steps=30")
    run = saved(write_run(tmp_path, rows=ROWS, events=events, config=config))
    text = summed_up(run)
    assert f"as {limit} asked: 6,220 steps of its schedules are left" in text
    how = "" if on else ", with its command and train.max_steps=0"
    assert f"Train on: 6,220 steps left{how}: {on}" in text


@pytest.mark.parametrize(("classes", "names"), [(None, ["match"]), (10, ["knn", "linear"])])
def test_a_run_without_labels_is_not_to_be_measured_by_them(tmp_path, classes, names):
    run = saved(write_run(tmp_path, source=provenance(classes=classes), results=[]))
    assert re.findall(r": ibot eval (\w+)", summed_up(run)) == names


@pytest.mark.parametrize(
    ("more", "results", "words"),
    [((), [], " --split 0.2"), ((), [knn(0, 30.0)], ""), (("data.val_path=v",), [], "v")],
)
def test_images_without_a_validation_part_are_measured_by_some_set_aside(
    tmp_path, more, results, words
):
    """Else the command ends at once, as it asks for that part."""
    config = settings("data.path=photos", *more)
    run = saved(write_run(tmp_path, config=config, results=results))
    found = re.search(r"ibot eval linear \S+ --data photos( --[^:]*)?$", summed_up(run), re.M)
    words = " --val-data v" if more else words
    assert found is not None and (found[1] or "") == words


def test_half_written_lines_are_no_hindrance(tmp_path):
    run = write_run(tmp_path, events=[START])
    for name in ("metrics", "events", "results"):
        with (run / f"{name}.jsonl").open("a") as file:
            file.write('{"step": 40, "ima')
    assert "30 of 6,250 steps" in summed_up(run)


def test_a_run_that_goes_on_is_said_to(tmp_path, monkeypatch):
    monkeypatch.setattr("ibot.report.story.is_in_use", lambda run: True)
    text = summed_up(write_run(tmp_path, events=[START]))
    assert text.startswith("still running\n") and "is being pre-trained by" in text
    assert "1,920 images seen so far" in text and "See it again later" in text


def test_settings_that_auto_chose_are_no_recipe(tmp_path):
    text = summed_up(write_run(tmp_path, config={**settings(), "recipe": "auto"}))
    assert "was pre-trained with the settings that auto chose on 1,280 images" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.44, "0.4 seconds"),
        (1.0, "1 second"),
        (60, "60 seconds"),
        (600, "10 minutes"),
        (9000, "2.5 hours"),
        (10 * 86400, "10 days"),
    ],
)
def test_times_have_the_unit_that_suits_them(seconds, words):
    assert lasting(seconds) == words
