"""Parts of the loop on made-up trainers; whole runs are in test_loop.py."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibot.config.duration import duration
from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.data.loader import Loader
from ibot.data.masks import masks_from_map
from ibot.data.sets.scan import scan
from ibot.engine import guards, loop
from ibot.engine.evaluation import fallen_below_start, run_evaluation
from ibot.engine.guards import FailureCheck, note_bad_files
from ibot.engine.health import HealthReport
from ibot.engine.loop import finish, mask_grid, save, train, write_log
from ibot.engine.meter import StageMeter
from ibot.engine.schedule import Schedules
from ibot.engine.trainer import Trainer
from ibot.engine.transfer import to_device
from ibot.engine.update import Update
from ibot.engine.verdicts import Verdict
from ibot.errors import TrainingStopped
from ibot.rng import Purpose, torch_seed
from ibot.system.jsonl import append_jsonl, read_jsonl
from ibot.system.processes import Processes
from ibot.types import Batch, Made, ResultRecord, RunState, StepValues

VALUES = StepValues(
    lr=0.1,
    weight_decay=0.2,
    momentum=0.3,
    teacher_temp=0.4,
    patch_temp=0.5,
    freeze_last_layer=False,
)
LOSSES = {
    "cls_loss": torch.tensor(1.5),
    "patch_loss": torch.tensor(2.5),
    "features": torch.zeros(2, 2),
}


BACKBONE = torch.nn.Linear(1, 1)


class Notes:
    """Records every call by name."""

    def __init__(self, path=None):
        self.calls, self.path = [], path

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, *args, *([kwargs] if kwargs else [])))
            return True

        return call

    def named(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


def trainer(config, tmp_path, step=7, **changes):
    schedules = SimpleNamespace(
        steps_per_epoch=6, total_steps=20, epochs_passed=lambda step: step / 6
    )
    made = {
        "config": config,
        "run": Notes(tmp_path),
        "processes": Processes(),
        "device": torch.device("cpu"),
        "model": SimpleNamespace(teacher=SimpleNamespace(backbone=BACKBONE)),
        "update": SimpleNamespace(),
        "schedules": schedules,
        "derived": None,
        "source": None,
        "progress": Notes(),
        "health": SimpleNamespace(meter=StageMeter()),
        "board": Notes(),
        "state": RunState(step=step, images_seen=8 * step, skipped_steps=2),
    }
    return Trainer(**(made | changes))


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        ("4 steps", 4),
        ("2 epochs", 12),
        ("16 images", 2),
        ("50 percent", 10),
        ("0 epochs", 0),
        ("1 images", 1),
        ("0.01 epochs", 1),
    ],
)
def test_what_is_due_every_so_often_is_due_at_multiples_of_its_steps(
    small, tmp_path, interval, steps
):
    made, due = trainer(small, tmp_path), []
    assert made.steps(duration(interval)) == steps
    for step in range(1, 25):
        made.state = replace(made.state, step=step)
        if made.every(duration(interval)):
            due.append(step)
    assert due == (list(range(steps, 25, steps)) if steps else [])


def test_a_log_row_holds_state_schedule_and_report_and_verdicts_are_said(small, tmp_path):
    verdict = Verdict("low rank", "evidence", "advice")
    health = SimpleNamespace(report=lambda: HealthReport({"cls_loss": 3.0}, (verdict,), "low rank"))
    made = trainer(small, tmp_path, health=health)
    write_log(made, VALUES, 20)
    want = {
        "step": 7,
        "images_seen": 56,
        "epoch": 7 / 6,
        "skipped_steps": 2,
        "lr": 0.1,
        "weight_decay": 0.2,
        "momentum": 0.3,
        "teacher_temp": 0.4,
        "patch_temp": 0.5,
        "cls_loss": 3.0,
    }
    assert made.run.calls[0] == ("metrics", {**want, "health": "low rank"})
    assert made.run.calls[1:] == [("verdict", 7, verdict)]
    assert made.board.calls == [("scalars", want, 7)]
    assert made.progress.calls[0] == ("update", 7, 20, {**want, "health": "low rank"})
    assert made.progress.calls[1] == ("message", f"step 7: {verdict}")
    other = trainer(small, tmp_path, health=health, processes=Processes(1, 2))
    write_log(other, VALUES, 20)
    assert other.run.calls == [] and other.board.calls == []


def batch(index=(3, 5), bad=()):
    return Batch(torch.zeros(2, 2, 3, 4, 4), None, None, np.array(index), bad=tuple(bad))


def failing(value=1.0):
    return SimpleNamespace(failed=torch.tensor(value), metrics=LOSSES)


def test_a_failed_step_stops_with_its_losses_rate_and_files(small, tmp_path):
    source = SimpleNamespace(root=Path(), name=lambda i: f"{i}.png")
    made = trainer(small, tmp_path, source=source)
    check = FailureCheck(made)
    check.check(3, failing(0.0), VALUES, [batch()])
    check.drain()
    with pytest.raises(
        TrainingStopped, match=r"not finite at step 4 \(learning rate 0.1\)"
    ) as caught:
        check.check(4, failing(), VALUES, [batch(), batch((9,))])
    files = ["3.png", "5.png", "9.png"]
    losses = {"cls_loss": 1.5, "patch_loss": 2.5}
    assert made.run.calls == [
        ("event", "non-finite loss", {"step": 4, "lr": 0.1, "losses": losses, "files": files})
    ]
    assert "3 files from 3.png" in caught.value.why and "last good state: none" in caught.value.fix
    check.drain()  # it was told
    other = trainer(small, tmp_path, source=source, processes=Processes(1, 2))
    with pytest.raises(TrainingStopped):
        FailureCheck(other).check(4, failing(), VALUES, [batch()])
    assert other.run.calls == []


def test_a_failed_step_lists_the_files_of_all_processes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "gather", lambda own: [own, ["of the other"]])
    made = trainer(small, tmp_path, source=SimpleNamespace(root=Path(), name=lambda i: f"{i}.png"))
    with pytest.raises(TrainingStopped) as caught:
        FailureCheck(made).check(4, failing(), VALUES, [batch()])
    assert (
        made.run.calls[0][2]["files"] == ["3.png", "5.png", "of the other"]
        and "3 files" in caught.value.why
    )


def test_on_a_gpu_a_failure_is_read_one_step_late_and_before_anything_is_saved(small, tmp_path):
    source = SimpleNamespace(root=Path(), name=lambda i: f"{i}.png")
    made = trainer(small, tmp_path, source=source, device=torch.device("cuda", 0))
    check = FailureCheck(made)
    check.check(4, failing(), VALUES, [batch()])
    with pytest.raises(TrainingStopped, match="at step 4"):
        check.check(5, failing(), VALUES, [batch()])
    check = FailureCheck(made)
    check.check(6, failing(), VALUES, [batch()])
    with pytest.raises(TrainingStopped, match="at step 6"):
        check.drain()


def test_on_a_gpu_the_step_before_is_waited_for_and_not_this_one(small, tmp_path, monkeypatch):
    said = []

    class Event:
        def record(self):
            self.step = len(said)
            said.append(("on its way after", self.step))

        def synchronize(self):
            said.append(("waited for", self.step))

    class OnGpu:
        is_cuda = True

        def to(self, where, non_blocking):
            assert where == "cpu" and non_blocking
            return torch.tensor(0.0)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    check = FailureCheck(trainer(small, tmp_path, device=torch.device("cuda", 0)))
    for step in (0, 1):
        check.check(step, SimpleNamespace(failed=OnGpu(), metrics=LOSSES), VALUES, [batch()])
    assert said == [("on its way after", 0), ("on its way after", 1), ("waited for", 0)]


@pytest.mark.parametrize(
    ("fraction", "images", "world_size", "allowed"),
    [
        (0.1, 9, 1, 4),
        (0.1, 100, 1, 20),
        (0.1, 300, 1, 30),
        (0.1, 1000, 2, 50),
        (0.1, 1000, 1, 100),
    ],
)
def test_unreadable_files_stop_a_run_beyond_twenty_or_half_and_the_share_of_this_process(
    small, tmp_path, fraction, images, world_size, allowed
):
    config = apply(small, [f"data.max_bad_fraction={fraction}"])
    made = trainer(config, tmp_path, source=range(images), processes=Processes(0, world_size))
    note_bad_files(made, [batch(bad=[(f"{i}.jpg", "cut")]) for i in range(allowed)])
    assert made.bad_files == allowed
    assert made.run.named("bad_file")[:2] == [("0.jpg", "cut"), ("1.jpg", "cut")]
    made.run.bad_file = lambda *args: False  # known already
    note_bad_files(made, [batch(bad=[("0.jpg", "cut")])])
    made.run.bad_file = lambda *args: True
    with pytest.raises(TrainingStopped, match=f"{allowed + 1} of {images} files") as caught:
        note_bad_files(made, [batch(bad=[("new.jpg", "cut")])])
    assert f"max_bad_fraction={fraction}" in caught.value.why


def record(value, metric="knn_top1"):
    return ResultRecord(protocol="knn", metric=metric, value=value, settings={})


def test_a_score_is_recorded_shown_and_compared_with_the_first_of_the_run(small, tmp_path):
    config = apply(small, ["evaluate.guard=2"])
    asked = []

    def evaluate(backbone, step):
        asked.append((backbone, step))
        return [record(50.0), record(1.0, "knn_k5")]

    made = trainer(config, tmp_path, evaluate=evaluate)
    run_evaluation(made)
    assert asked == [(BACKBONE, 7)]
    assert [r.metric for (r,) in made.run.named("result")] == ["knn_top1", "knn_k5"]
    assert made.board.calls == [
        ("scalars", {"knn_top1": 50.0}, 7, "evaluate"),
        ("scalars", {"knn_k5": 1.0}, 7, "evaluate"),
    ]
    assert made.progress.named("message") == [("step 7: knn_top1 50.0",), ("step 7: knn_k5 1.0",)]
    begun = trainer(config, tmp_path, step=0, evaluate=evaluate)
    run_evaluation(begun)
    first, second = (text for (text,) in begun.progress.named("message"))
    assert first.startswith("step 0: knn_top1 50.0 (% of validation images that k-NN names rightly")
    assert second == "step 0: knn_k5 1.0"
    other = trainer(config, tmp_path, evaluate=evaluate, processes=Processes(1, 2))
    run_evaluation(other)
    assert other.run.calls == other.progress.calls == []
    run_evaluation(trainer(config, tmp_path))  # nothing to evaluate


@pytest.mark.parametrize(
    ("guard", "value", "metric", "said"),
    [
        (2, 48.0, "knn_top1", False),
        (2, 47.9, "knn_top1", True),
        (0, 1.0, "knn_top1", False),
        (2, 1.0, "other", False),
    ],
)
def test_the_guard_compares_k_nn_alone_with_its_first_value(
    small, tmp_path, guard, value, metric, said
):
    rows = [record(90.0, "other"), record(50.0), record(80.0)]
    append_jsonl(tmp_path / "results.jsonl", *map(asdict, rows))
    made = trainer(apply(small, [f"evaluate.guard={guard}"]), tmp_path)
    words = fallen_below_start(made, record(value, metric))
    assert words == ("k-NN 47.9 at step 7, 50.0 at the start; evaluate.guard=2" if said else "")
    want = [("guard", {"step": 7, "start": 50.0, "now": 47.9})] if said else []
    assert made.run.named("event") == want


@pytest.mark.parametrize(
    ("every", "protected"), [("0 epochs", []), ("1 epochs", [6, 12]), ("4 steps", [4, 8, 12])]
)
def test_saving_hands_over_everything_and_protects_multiples(
    small, tmp_path, monkeypatch, every, protected
):
    calls = []
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    config = apply(small, [f"checkpoint.keep_every={every}", "checkpoint.keep=5"])
    rows = [replace(record(value, "match_r1"), step=step) for step, value in ((5, 2.0), (7, 1.0))]
    append_jsonl(tmp_path / "results.jsonl", *map(asdict, rows))
    made = trainer(config, tmp_path, update=SimpleNamespace(optimizer="optimizer", scaler="scaler"))
    save(made)
    ((args, kwargs),) = calls
    assert args == (tmp_path, made.model, "optimizer", made.state)
    protect = kwargs.pop("protect")
    assert kwargs == {"config": config, "scaler": "scaler", "keep": 5, "best_dense": 5}
    assert [step for step in range(1, 13) if protect(step)] == protected
    save(trainer(config, tmp_path, update=made.update, processes=Processes(1, 2)))
    assert len(calls) == 1


def test_a_step_is_not_saved_twice(small, tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "step_00000007").mkdir(parents=True)
    calls = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args, **kwargs: calls.append(args))
    made = trainer(small, tmp_path, update=SimpleNamespace(optimizer=None, scaler=None))
    save(made)
    assert len(calls) == 1, "without a state a folder is no checkpoint"
    (tmp_path / "checkpoints" / "step_00000007" / "state.json").touch()
    save(made)
    assert len(calls) == 1


def test_the_end_of_a_run_is_recorded_with_its_bad_files(small, tmp_path):
    done = trainer(small, tmp_path, step=20, bad_files=1)
    done.run.bad_files = lambda: [("a.jpg", "cut")]
    finish(done, 20)
    assert done.run.named("event") == [("end", {"step": 20, "bad_files": 1})]
    said = [text for (text,) in done.progress.named("message")]
    assert said[0].startswith("1 file could not be read") and said[1:] == ["  a.jpg: cut"]
    stopped = trainer(small, tmp_path, step=19, processes=Processes(0, 2))
    stopped.run.bad_files = list
    finish(stopped, 20)
    assert stopped.run.named("event") == [("stopped by signal", {"step": 19, "bad_files": 0})]
    assert stopped.progress.named("message") == [
        ("stopped at step 19 of 20, saved; the same command resumes it",)
    ]
    other = trainer(small, tmp_path, step=20, processes=Processes(1, 2))
    other.run.bad_files = list
    finish(other, 20)
    assert other.run.calls == []


def test_the_end_says_what_set_the_pace(small, tmp_path):
    done = trainer(small, tmp_path, step=20)
    done.run.bad_files = list
    meter = done.health.meter = StageMeter(workers=1)
    batch = Batch(torch.empty(0), None, None, np.arange(8), made=Made(decode=3.0, busy=0.3))
    meter.observe([batch], 4.0, 2.0)
    meter.read()
    finish(done, 20)
    ((event, row), (last, _)) = done.run.named("event")
    assert (event, last) == ("pace", "end") and row["step"] == 20
    assert row["decode_seconds"] == 3.0 and row["wait_fraction"] == 0.5
    (said,) = done.progress.named("message")[0]
    assert said == f"pace   {row['text']}"
    assert "50% of the time goes into waiting" in said and "decode limits" in said


def test_views_are_normalised_on_the_device_for_the_network_and_masks_moved_as_they_are(small):
    g = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (n, 2, 3, 8, 8), generator=g, dtype=torch.uint8) for n in (2, 3)]
    masks = masks_from_map(torch.rand(2, 2, 4, generator=g) < 0.5)
    config = apply(small, ["model.mean=0.1,0.2,0.3", "model.std=0.5,0.6,0.7"])
    moved = to_device(Batch(*views, masks, np.arange(2)), torch.device("cpu"), config)
    for got, given in zip((moved.global_views, moved.local_views), views, strict=True):
        for channel in range(3):
            want = (given[:, :, channel] / 255 - (0.1, 0.2, 0.3)[channel]) / (0.5, 0.6, 0.7)[
                channel
            ]
            torch.testing.assert_close(got[:, :, channel], want)
    assert torch.equal(moved.masks.map, masks.map) and torch.equal(moved.masks.weight, masks.weight)
    without = Batch(views[0], None, masks, np.arange(2))
    assert to_device(without, torch.device("cpu"), config).local_views is None
    elsewhere = to_device(Batch(*views, masks, np.arange(2)), torch.device("meta"), config)
    for tensor in (
        elsewhere.global_views,
        elsewhere.local_views,
        elsewhere.masks.map,
        elsewhere.masks.weight,
    ):
        assert tensor.is_meta


def test_the_mask_has_a_cell_for_each_patch_rows_first(small):
    assert mask_grid(apply(small, ["augment.global_size=48,40", "model.patch=8"])) == (6, 5)


def test_each_step_sees_its_own_schedule_seed_and_the_images_of_the_loader(
    small, tmp_path, monkeypatch
):
    """What the loop hands to the step, against what the parts give when they are asked alone."""
    seen, seeds = [], []
    plain = Update.step

    def step(self, batches, values, observe=True):
        seen.append((values, observe, [batch.index.tolist() for batch in batches]))
        seeds.append(torch.initial_seed())
        return plain(self, batches, values, observe)

    monkeypatch.setattr(Update, "step", step)
    config = apply(
        small, ["train.accumulate=2", "train.max_steps=9", "log.every=5", "train.seed=3"]
    )
    state = train(config, tmp_path / "run", quiet=True)
    assert (state.step, state.images_seen, state.epoch, state.skipped_steps) == (9, 72, 1, 0)
    schedules = Schedules.of(config, derive(config, 48))
    assert [values for values, _, _ in seen] == [schedules.at(step) for step in range(9)]
    assert seeds == [torch_seed(3, step, 0, Purpose.DROP_PATH) for step in range(9)]
    batches = Loader(config, scan(config.data.path), grid=(4, 4), end_step=9)
    assert [index for _, _, index in seen] == [
        [b.index.tolist() for b in parts] for parts in batches
    ]
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["lr"] for row in rows] == [schedules.at(4).lr, schedules.at(8).lr]
    assert [row["images_seen"] for row in rows] == [40, 72] and rows[0]["epoch"] == pytest.approx(
        5 / 6
    )
    assert (tmp_path / "run" / "checkpoints" / "step_00000009").exists()
