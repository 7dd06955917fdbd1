"""Folders of runs as a training leaves them, without training."""

import json
from dataclasses import asdict, replace

from ibot.config.override import apply, to_plain
from ibot.recipes import recipe
from ibot.system.jsonl import append_jsonl
from ibot.types import ResultRecord

COMMAND = "ibot pretrain tiny64 model.patch=8 --data photos --run runs/told"


def row(step, **values):
    """A row of metrics.jsonl."""
    known = {
        "step": step,
        "images_seen": step * 64,
        "lr": 0.001,
        "weight_decay": 0.04,
        "momentum": 0.99,
        "teacher_temp": 0.04,
        "patch_temp": 0.04,
        "cls_loss": 6.9 - step / 100,
        "patch_loss_masked": 6.5 - step / 100,
        "teacher_entropy": 5.0,
        "patch_entropy": 5.5,
        "marginal_entropy": 6.9,
        "patch_marginal_entropy": 6.8,
        "agreement": 0.1,
        "koleo_loss": 0.2,
        "grad_backbone": 1.0,
        "grad_head_mlp": 0.5,
        "grad_last_layer": 0.2,
        "ln_k": 6.931471805599453,
        "ln_k_patch": 6.931471805599453,
        "cls_kl": 1.0,
        "patch_kl": 1.1,
        "cls_prototypes_used": 600.0,
        "patch_prototypes_used": 900.0,
        "effective_rank": 10.0 + step / 10,
        "images_per_second": 64.0,
        "wait_fraction": 0.01,
        "health": "healthy",
    }
    return {**known, **values}


def knn(step, value, **given):
    """What a training measures on its way."""
    made = ResultRecord(
        protocol="knn",
        metric="knn_top1",
        value=value,
        settings={"k": 20, "temperature": 0.07},
        num_train=900,
        num_val=100,
        step=step,
    )
    return replace(made, **given)


def settings(*assignments, base="tiny64"):
    """config.json as plain data."""
    first = ["model.patch=8", "data.path=photos"]
    config = apply(recipe(base), [*first, *assignments])
    return {**to_plain(config), "command": COMMAND}


def provenance(**data):
    found = {"root": "photos/train", "images": 1280, "classes": 10, "names_sha256": "0914c3e9"}
    return {
        "ibot": "0.1.0",
        "commit": "db40006be763",
        "python": "3.11.7",
        "packages": {"torch": "2.12.0"},
        "platform": "Linux",
        "cores": 2,
        "host": "vm",
        "data": {**found, **data},
        "started": "2026-11-30T19:00:25",
    }


def event(kind, **details):
    return {"event": kind, "time": "2026-11-30T19:10:00", **details}


VERDICT = event(
    "health",
    step=20,
    verdict="low rank",
    evidence="class tokens vary along 1.5 of 128 directions",
    advice="Calm the run: lower optim.lr",
)


ROWS = (row(10), row(20), row(30))
EVENTS = (event("start"), event("end", step=30))
RESULTS = (knn(0, 30.0), knn(30, 50.0))


def write_run(
    folder,
    *,
    rows=ROWS,
    events=EVENTS,
    results=RESULTS,
    config=None,
    source=None,
):
    """The folder of a run; it has ended well where nothing else is said."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or settings()))
    (folder / "provenance.json").write_text(json.dumps(source or provenance()))
    for name, lines in (("metrics", rows), ("events", events)):
        append_jsonl(folder / f"{name}.jsonl", *lines)
    append_jsonl(folder / "results.jsonl", *map(asdict, results))
    return folder


def saved(run):
    """The run with a checkpoint."""
    checkpoint = run / "checkpoints" / "step_00000030"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    return run
