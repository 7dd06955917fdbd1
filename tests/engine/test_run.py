import errno
import fcntl
import json
import logging
import os
import time

import pytest

from ibot.config.override import apply
from ibot.engine import run as run_module
from ibot.engine.logging import Progress, TensorBoard
from ibot.engine.run import RunFolder, is_in_use, read_config
from ibot.engine.tags import GROUPS
from ibot.errors import RunError
from ibot.system import files
from ibot.system.jsonl import read_jsonl, write_json
from ibot.system.processes import Processes
from ibot.types import ResultRecord

INFO = {"root": "x", "images": 3, "classes": 0, "names_sha256": "abc"}


def open_run(path, config, rank=0):
    return RunFolder.create(
        path, config, command="ibot pretrain", source_info=INFO, processes=Processes(rank, 2)
    )


def test_a_new_run_records_its_settings_and_where_it_came_from(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    assert read_config(tmp_path / "run") == small
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["data"] == INFO and provenance["packages"]["torch"] and provenance["commit"]
    assert read_jsonl(tmp_path / "run" / "events.jsonl")[0]["command"] == "ibot pretrain"


def test_speed_and_records_may_change_on_resumption_the_method_may_not(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    open_run(
        tmp_path / "run", apply(small, ["system.workers=2", "log.every=1", "train.max_steps=3"])
    ).close()
    with pytest.raises(RunError, match="other settings"):
        open_run(tmp_path / "run", apply(small, ["train.seed=1"]))
    open_run(tmp_path / "run", small).close()  # the refusal released the lock


@pytest.mark.parametrize(
    ("setting", "free"),
    [
        ("system.device=cuda", True),
        ("log.tensorboard=true", True),
        ("checkpoint.keep=9", True),
        ("evaluate.every=3 steps", True),
        ("train.max_steps=3", True),
        ("data.path=elsewhere", True),
        ("data.val_path=elsewhere", True),
        ("data.max_bad_fraction=0.5", True),
        ("train.batch=16", False),
        ("data.exif_orientation=ignore", False),
        ("train.length=30 steps", False),
        ("mask.shape=random", False),
    ],
)
def test_what_does_not_change_the_result_is_free_to_change(small, tmp_path, setting, free):
    open_run(tmp_path / "run", small).close()
    changed = apply(small, [setting])
    assert changed != small
    if free:
        open_run(tmp_path / "run", changed).close()
    else:
        with pytest.raises(RunError, match="other settings") as caught:
            open_run(tmp_path / "run", changed)
        assert (
            caught.value.why.startswith(setting.split("=")[0] + ": ")
            and "--run" in caught.value.fix
        )


def test_five_changed_settings_are_listed_and_the_others_counted(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    settings = [
        "train.batch=4",
        "train.seed=1",
        "optim.lr=1",
        "optim.clip=1",
        "mask.shape=random",
        "model.depth=1",
    ]
    for count, more in ((5, ""), (6, " and 1 more")):
        with pytest.raises(RunError) as caught:
            open_run(tmp_path / "run", apply(small, settings[:count]))
        why = caught.value.why
        assert why.count(" -> ") == 5 and why.endswith(more) and ("more" in why) == bool(more)


def info(**changes):
    return {**INFO, **changes}


def test_a_run_goes_on_with_images_of_the_same_names_alone(small, tmp_path):
    def again(source_info):
        RunFolder.create(
            tmp_path / "run", small, command="", source_info=source_info, processes=Processes(0, 1)
        ).close()

    again(INFO)
    again(info(root="moved"))
    with pytest.raises(RunError, match="other images") as caught:
        again(info(root="y", images=4, names_sha256="def"))
    assert caught.value.why.startswith("3 images then, 4 now; which ones were added")
    assert "newer versions read more kinds of files, .avif" in caught.value.why
    assert f"ibot pretrain --run {tmp_path / 'run'} --accept-images" in caught.value.fix
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    del provenance["data"]["names_sha256"]  # as in a converted run
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(provenance))
    again(info(names_sha256="def"))


def test_a_folder_is_written_by_the_main_process_alone_and_a_file_is_no_folder(small, tmp_path):
    run = open_run(tmp_path / "new" / "deep", small)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.json",
        "events.jsonl",
        "lock",
        "provenance.json",
    ]
    assert json.loads((run.path / "config.json").read_text())["command"] == "ibot pretrain"
    provenance = json.loads((run.path / "provenance.json").read_text())
    assert {"argv", "host", "cores", "platform", "started", "ibot", "python"} <= provenance.keys()
    words = (run.path / "lock").read_text()
    assert words.startswith(f"process {os.getpid()} on ")
    with pytest.raises(RunError, match="in use") as caught:
        open_run(tmp_path / "new" / "deep", small)
    assert words in caught.value.why
    assert is_in_use(tmp_path / "new" / "deep")
    run.close()
    assert not is_in_use(tmp_path / "new" / "deep") and not is_in_use(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        open_run(tmp_path / "file", small)
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", small).close()


def test_events_carry_their_time_and_details(small, tmp_path):
    run = open_run(tmp_path / "run", small)
    run.event("resume", step=3)
    run.result(
        ResultRecord(
            protocol="knn", metric="knn_top1", value=1.5, settings={"k": 20}, num_train=2, num_val=3
        )
    )
    event = read_jsonl(run.path / "events.jsonl")[-1]
    assert event["event"] == "resume" and event["step"] == 3
    assert abs(time.mktime(time.strptime(event["time"], "%Y-%m-%dT%H:%M:%S")) - time.time()) < 60
    (row,) = read_jsonl(run.path / "results.jsonl")
    assert (row["metric"], row["value"], row["settings"], row["num_train"], row["num_val"]) == (
        "knn_top1",
        1.5,
        {"k": 20},
        2,
        3,
    )


def test_rewritten_files_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    file, seen = tmp_path / "a.json", []
    plain = os.fsync
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: (seen.append(file.exists()), plain(handle))
    )
    write_json(file, {"a": [1]})
    assert seen[0] is False and json.loads(file.read_text()) == {"a": [1]}
    assert file.read_text().endswith("\n") and list(tmp_path.iterdir()) == [file]


def test_a_folder_without_readable_settings_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no readable config"):
        read_config(tmp_path)
    for text in (b"{", b"\xff\xfe"):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(RunError, match="no readable config"):
            read_config(tmp_path)
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_a_lock_of_a_dead_process_is_taken_over(small, tmp_path):
    open_run(tmp_path / "run", small).close()
    (tmp_path / "run" / "lock").write_text("process 1 on elsewhere")
    open_run(tmp_path / "run", small).close()
    with (tmp_path / "run" / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use"):
            open_run(tmp_path / "run", small)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_told_as_a_folder_in_use(
    small, tmp_path, monkeypatch, number
):
    def refuse(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_module, "lock", refuse)
    with pytest.raises(RunError, match="cannot be locked") as caught:
        open_run(tmp_path / "run", small)
    assert os.strerror(number) in caught.value.why and "another disk" in caught.value.fix


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
        run.result(
            ResultRecord(protocol="knn", metric="knn_top1", value=1.0, settings={}, step=step)
        )
    run.forget_after(2)
    assert [row["step"] for row in read_jsonl(run.path / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in read_jsonl(run.path / "results.jsonl")] == [1, 2]


def test_a_bad_file_is_listed_once_also_across_resumptions(small, tmp_path):
    run = open_run(tmp_path / "run", small)
    assert run.bad_file("b.jpg", "truncated") and not run.bad_file("b.jpg", "truncated")
    run.close()
    again = open_run(tmp_path / "run", small)
    assert not again.bad_file("b.jpg", "truncated") and again.bad_file("a.jpg", "corrupt")
    assert again.bad_files() == [("a.jpg", "corrupt"), ("b.jpg", "truncated")]


def test_progress_away_from_a_terminal_is_plain_lines(capsys):
    row = {
        "cls_loss": 5.0,
        "patch_loss_masked": 4.0,
        "ln_k": 6.0,
        "images_per_second": 100.0,
        "health": "healthy",
    }
    with Progress() as progress:
        progress.update(1, 10, row)
        progress.update(2, 10, row)
        progress.message("a message")
    out = capsys.readouterr().out
    assert (
        out.count("\n") == 3
        and "\x1b" not in out
        and "step 2/10" in out
        and "100 images/s" in out
        and "healthy" in out
    )
    with Progress(quiet=True) as progress:
        progress.update(1, 10, row)
    assert capsys.readouterr().out == ""


def test_a_slow_step_is_shown_before_the_first_numbers(monkeypatch, capsys, tmp_path):
    now = iter(range(1000, 9000, 20))  # a clock that is looked at every 20 s
    monkeypatch.setattr("ibot.engine.logging.time.monotonic", lambda: float(next(now)))
    with Progress() as progress:
        progress.keep(tmp_path / "log.txt")
        for step in (1, 2, 3):
            progress.step(step, 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 1/10" and lines[1].startswith("step 2/10  left 0:0")
    assert [line.partition("  ")[2] for line in (tmp_path / "log.txt").open()] == [
        line + "\n" for line in lines
    ]


def test_the_losses_that_a_training_has_are_shown(capsys):
    row = {"cls_loss": 5.0, "patch_loss_masked": 4.0, "ln_k": 6.0, "masked_fraction": 0.15}
    with Progress() as progress:
        progress.update(1, 10, row | {"visible_loss": 4.0125})
        progress.update(2, 10, row | {"masked_fraction": 0.0, "patch_loss_masked": 0.0})
    both, alone = capsys.readouterr().out.splitlines()
    assert "cls 5.000  patch 4.000  visible 4.013 (uniform 6.00)" in both
    assert "cls 5.000 (uniform 6.00)" in alone


def test_quick_steps_say_nothing_of_their_own(capsys):
    with Progress() as progress:
        for step in range(1, 50):
            progress.step(step, 100)
    assert capsys.readouterr().out == ""


def test_warnings_of_a_quiet_main_process_are_in_its_log_from_the_start(tmp_path, capsys):
    with Progress(quiet=True, opening=["shown before"]) as progress:
        logging.getLogger("ibot").warning("early")
        progress.keep(tmp_path / "log.txt")
        logging.getLogger("ibot").warning("late")
    assert capsys.readouterr() == ("", "")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.partition("  ")[2] for line in lines] == ["shown before", "early", "late"]


def test_warnings_of_the_other_processes_are_said_with_their_number(capsys):
    with Progress(rank=1) as progress:
        progress.message("what the main process says too")
        logging.getLogger("ibot").warning("no images for %d s", 60)
    assert capsys.readouterr() == ("", "process 1: no images for 60 s\n")


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path)
    board.scalars({"cls_loss": 1.5, "step_seconds": 2.0, "health": "healthy"}, 3)
    board.scalars({"cls_loss": 1.0, "of_a_plugin": 1}, 4)
    board.scalars({"knn_top1": 40.0}, 4, "evaluate")
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/cls_loss")] == [
        (3, 1.5),
        (4, 1.0),
    ]
    tags = {"loss/cls_loss", "clock/step_seconds", "health/of_a_plugin", "evaluate/knn_top1"}
    assert set(events.Tags()["scalars"]) == tags
    words = events.SummaryMetadata("loss/cls_loss").summary_description
    assert words == GROUPS["loss"]["cls_loss"]
