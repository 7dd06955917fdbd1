"""Records as evaluations and trainings leave them, and what `ibot results` makes of them."""

import csv
from dataclasses import asdict

import pytest

from ibot.cli.main import main
from ibot.system.jsonl import append_jsonl
from ibot.types import ResultRecord

OLD, NEW = "aaaaaaaa" + 56 * "0", "11111111" + 56 * "0"


def record(metric="knn_top1", value=50.0, *, when="2026-01-01T00:00:00", **given):
    protocol = given.pop("protocol", metric.split("_")[0])
    defaults = {
        "settings": {},
        "num_train": 90,
        "num_val": 10,
        "weights": "net.pth",
        "mode": "clean",
        "key": "teacher",
        "interval": (value - 2, value + 3),
        "when": when,
        "data": {"root": "photos/val"},
    }
    return ResultRecord(protocol=protocol, metric=metric, value=value, **{**defaults, **given})


def knn(k, value, **given):
    return record(value=value, settings={"k": k}, extra={"row": f"k = {k}"}, **given)


def linear(value, **settings):
    defaults = {"epochs": 100, "batch": 90, "features": "n4m0", "augment": "crop"}
    return record("linear_top1", value, settings={**defaults, **settings}, extra={"row": "n4m0"})


def in_training(step, value):
    """As the probe of a training makes them."""
    return ResultRecord(
        protocol="knn",
        metric="knn_top1",
        value=value,
        settings={"k": 20, "temperature": 0.07},
        num_train=90,
        num_val=10,
        step=step,
    )


def write(folder, *records, run=False):
    folder.mkdir(parents=True, exist_ok=True)
    for made in records:
        append_jsonl(folder / "results.jsonl", asdict(made))
    if run:
        (folder / "config.json").write_text("{}")
    return folder


def trained_on(folder):
    """A run that was evaluated at step 100 and, by another protocol too, at step 260."""
    first = knn(20, 40, weights="runs/photos", weights_hash=OLD)
    probe = record(
        "linear_top1", 60, weights="runs/photos", weights_hash=NEW, when="2026-01-02T00:00:00"
    )
    return write(folder, in_training(100, 30), first, in_training(260, 50), probe, run=True)


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Run the command with a CSV file: what it prints, and the lines of the file."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert main(["results", *map(str, arguments), "--csv", "table.csv"]) == 0
        with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
            return capsys.readouterr().out, list(csv.DictReader(file))

    return run


def numbers(rows, network="net.pth, teacher"):
    """Values of a network in the lines of the file, by protocol and row."""
    return {f"{row['protocol']}, {row['row']}": row[network] for row in rows if row[network]}
