import fcntl
import json

import pytest

from ibot.config.override import apply
from ibot.engine.logging import Progress, TensorBoard
from ibot.engine.processes import Processes
from ibot.engine.run import RunFolder, read_config, read_jsonl
from ibot.errors import RunError
from ibot.types import ResultRecord

INFO = {"root": "x", "images": 3, "classes": 0, "names_sha256": "abc"}


def open_run(path, config, rank=0):
    return RunFolder.create(path, config, command="ibot pretrain", source_info=INFO, processes=Processes(rank, 2))


def test_a_new_run_records_its_settings_and_where_it_came_from(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    assert read_config(tmp_path / "run") == small
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["data"] == INFO and provenance["packages"]["torch"] and provenance["commit"]
    assert read_jsonl(tmp_path / "run" / "events.jsonl")[0]["command"] == "ibot pretrain"


def test_speed_and_records_may_change_on_resumption_the_method_may_not(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    open_run(tmp_path / "run", apply(small, ["system.workers=2", "log.every=1", "train.max_steps=3"])).close()
    with pytest.raises(RunError, match="other settings"):
        open_run(tmp_path / "run", apply(small, ["train.seed=1"]))
    open_run(tmp_path / "run", small).close()  # the refusal released the lock


def test_a_lock_of_a_dead_process_is_taken_over(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    (tmp_path / "run" / "lock").write_text("process 1 on elsewhere")
    open_run(tmp_path / "run", small).close()
    with (tmp_path / "run" / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use"):
            open_run(tmp_path / "run", small)


def test_other_ranks_write_nothing_but_the_bad_files_they_met(small, tmp_path):
    other = open_run(tmp_path / "run", small, rank=1)
    assert not (tmp_path / "run").exists()
    main = open_run(tmp_path / "run", small)
    main.bad_file("b.jpg", "corrupt")
    other.bad_file("a.jpg", "truncated")
    assert main.bad_files() == [("a.jpg", "truncated"), ("b.jpg", "corrupt")]


def test_a_line_torn_by_a_crash_is_skipped_and_does_not_swallow_the_next(small, tmp_path):
    run = open_run(tmp_path / "run", small)
    run.metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "cls_lo')
    run.metrics({"step": 3})
    assert [row["step"] for row in read_jsonl(run.path / "metrics.jsonl")] == [1, 3]


def test_rows_after_the_checkpoint_are_forgotten(small, tmp_path):
    run = open_run(tmp_path / "run", small)
    for step in (1, 2, 3):
        run.metrics({"step": step})
        run.result(ResultRecord("knn", "knn_top1", 1.0, {}, 1, 1, extra={"step": step}))
    run.forget_after(2)
    assert [row["step"] for row in read_jsonl(run.path / "metrics.jsonl")] == [1, 2]
    assert [row["extra"]["step"] for row in read_jsonl(run.path / "results.jsonl")] == [1, 2]


def test_a_bad_file_is_listed_once_also_across_resumptions(small, tmp_path):
    run = open_run(tmp_path / "run", small)
    assert run.bad_file("b.jpg", "truncated") and not run.bad_file("b.jpg", "truncated")
    run.close()
    again = open_run(tmp_path / "run", small)
    assert not again.bad_file("b.jpg", "truncated") and again.bad_file("a.jpg", "corrupt")
    assert again.bad_files() == [("a.jpg", "corrupt"), ("b.jpg", "truncated")]


def test_progress_away_from_a_terminal_is_plain_lines(capsys):
    row = {"cls_loss": 5.0, "patch_loss_masked": 4.0, "ln_k": 6.0, "images_per_second": 100.0, "health": "healthy"}
    with Progress() as progress:
        progress.update(1, 10, row)
        progress.update(2, 10, row)
        progress.message("a message")
    out = capsys.readouterr().out
    assert (
        out.count("\n") == 3 and "\x1b" not in out and "step 2/10" in out and "100 images/s" in out and "healthy" in out
    )
    with Progress(quiet=True) as progress:
        progress.update(1, 10, row)
    assert capsys.readouterr().out == ""


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path)
    board.scalars({"cls_loss": 1.5, "health": "healthy"}, 3)
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("cls_loss")] == [(3, 1.5)]
