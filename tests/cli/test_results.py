"""`ibot results` on records as evaluations and trainings leave them."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from ibot.cli import results
from ibot.cli.main import main
from ibot.data.scenes import write_folder
from ibot.engine.run import append_jsonl
from ibot.types import ResultRecord


def record(metric="knn_top1", value=50.0, *, when="2026-01-01T00:00:00", **given):
    protocol = given.pop("protocol", metric.split("_")[0])
    defaults = {
        "settings": {}, "num_train": 90, "num_val": 10, "weights": "net.pth", "mode": "clean", "key": "teacher",
        "interval": (value - 2, value + 3), "when": when, "data": {"root": "photos/val"},
    }  # fmt: skip
    return ResultRecord(protocol=protocol, metric=metric, value=value, **{**defaults, **given})


def knn(k, value, **given):
    return record(value=value, settings={"k": k}, extra={"row": f"k = {k}"}, **given)


def in_training(step, value):
    """As `ibot.cli.train.knn_probe` makes them."""
    return ResultRecord("knn", "knn_top1", value, {"k": 20, "temperature": 0.07}, 90, 10, extra={"step": step})


def write(folder, *records, run=False):
    folder.mkdir(parents=True, exist_ok=True)
    for made in records:
        append_jsonl(folder / "results.jsonl", asdict(made))
    if run:
        (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Run the command with a CSV file: what it prints, and the lines of the file."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert main(["results", *map(str, arguments), "--csv", "table.csv"]) == 0
        with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
            return capsys.readouterr().out, list(csv.DictReader(file))

    return run


def test_runs_and_weights_stand_side_by_side(show, tmp_path):
    write(tmp_path / "runs" / "a", in_training(0, 10), in_training(5, 30), run=True)
    write(tmp_path / "runs" / "a", knn(10, 40, weights="runs/a"), knn(20, 41, weights="runs/a"))
    write(tmp_path / "runs" / "a", record("linear_top1", 60, weights="runs/a", key="student", extra={"row": "n4m0"}))
    write(tmp_path / "other", knn(20, 70, weights="dino.pth"), knn(20, 71, weights="dino.pth"))
    printed, rows = show("runs", "other")
    values = [{name: cell for name, cell in row.items() if cell and "low" not in name and "high" not in name}
              for row in rows]  # fmt: skip
    assert values == [
        {"run": "dino.pth", "network": "teacher", "knn_top1, k = 20, clean": "71.00"},
        {"run": "runs/a", "network": "student", "linear_top1, n4m0": "60.00"},
        {
            "run": "runs/a", "network": "teacher", "knn_top1, k = 10": "40.00", "knn_top1, k = 20, clean": "41.00",
            "knn_top1, k = 20, pre-training": "30.00",
        },
    ]  # fmt: skip
    titles = [name for name in rows[0] if "low" not in name and "high" not in name]
    assert titles == ["run", "network", "knn_top1, k = 10", "knn_top1, k = 20, pre-training",
                      "knn_top1, k = 20, clean", "linear_top1, n4m0"]  # fmt: skip
    assert (rows[2]["knn_top1, k = 10, low"], rows[2]["knn_top1, k = 10, high"]) == ("38.00", "43.00")
    lines = printed.splitlines()
    assert lines[0].split() == ["run", "network", *["knn_top1"] * 3, "linear_top1"]
    assert lines[1].split() == ["k", "=", "10", "k", "=", "20", "k", "=", "20", "n4m0"]
    assert lines[2].split() == ["pre-training", "clean"] and lines[3].split() == ["dino.pth", "teacher", "71.00"]
    assert lines[6].startswith("3 networks, 6 records; --all")


def test_modes_images_and_their_number_are_never_mixed(show, tmp_path):
    write(
        tmp_path / "r", knn(20, 1, mode="published"), knn(20, 2), knn(20, 3, num_val=5), knn(10, 5),
        knn(20, 4, data={"root": "birds"}),
    )  # fmt: skip
    _, rows = show("r")
    assert {name: cell for name, cell in rows[0].items() if cell and "low" not in name and "high" not in name} == {
        "run": "net.pth", "network": "teacher", "knn_top1, k = 10": "5.00", "knn_top1, k = 20, published": "1.00",
        "knn_top1, k = 20, clean, photos, 10 images": "2.00", "knn_top1, k = 20, clean, photos, 5 images": "3.00",
        "knn_top1, k = 20, clean, birds": "4.00",
    }  # fmt: skip


def numbers(row):
    """Values of a line of the file by title, without the intervals."""
    ends = ("run", "network", "low", "high")
    return {name: cell for name, cell in row.items() if cell and not name.endswith(ends)}


def test_other_views_training_sets_and_settings_get_columns_of_their_own(show, tmp_path):
    view = {"size": [32, 32], "fit": "crop", "interpolation": "bicubic"}
    given = [{}, {"size": [48, 48]}, {"fit": "pad"}, {"temperature": 0.1}, {"size": [48, 48], "temperature": 0.1}]
    for i, settings in enumerate(given):
        write(tmp_path / "r", record(value=i, settings={**view, "k": 20, "temperature": 0.07, **settings}))
    write(
        tmp_path / "r", record(value=5, settings={**view, "k": 20}, weights="old.pth")
    )  # before there was the setting
    write(tmp_path / "r", record(value=6, settings={**view, "k": 20}, num_train=50))
    _, (first, old) = show("r")
    name, whole = "knn_top1, k = 20", "90 training images"
    assert numbers(first) == {
        f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.07": "0.00",
        f"{name}, {whole}, 48x48 pixels, temperature=0.07": "1.00",
        f"{name}, {whole}, 32x32 pixels, fit=pad": "2.00",
        f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.1": "3.00",
        f"{name}, {whole}, 48x48 pixels, temperature=0.1": "4.00",
        f"{name}, 50 training images": "6.00",
    }
    assert numbers(old) == {f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.07": "5.00"}


def linear(value, **settings):
    defaults = {"epochs": 100, "batch": 90, "features": "n4m0", "augment": "crop"}
    return record("linear_top1", value, settings={**defaults, **settings}, extra={"row": "n4m0"})


def test_lists_are_named_by_their_ends_unless_these_are_alike(show, tmp_path):
    write(tmp_path / "r", linear(1), linear(2, rates=[0.1, 0.2]), linear(3, augment="none"))
    _, [row] = show("r")
    assert numbers(row) == {
        "linear_top1, n4m0, rates=0.0001..9 (45 values), augment=crop": "1.00",
        "linear_top1, n4m0, rates=0.1,0.2": "2.00",
        "linear_top1, n4m0, rates=0.0001..9 (45 values), augment=none": "3.00",
    }
    write(tmp_path / "two", linear(1, rates=[1, 2, 3, 4, 5]), linear(2, rates=[1, 2, 3.5, 4, 5]))
    _, [row] = show("two")
    assert numbers(row) == {
        "linear_top1, n4m0, rates=1,2,3,4,5": "1.00",
        "linear_top1, n4m0, rates=1,2,3.5,4,5": "2.00",
    }


def test_where_defaults_depend_on_the_images_records_are_compared_with_each_other(show, tmp_path):
    def tuned(value, name, **settings):
        settings = {"epochs": 30, "batch": 32, "mixup": 0.0, **settings}
        return record("finetune_top1", value, settings=settings, weights=name, extra={"row": "30 epochs"})

    write(tmp_path / "r", tuned(1, "a.pth"), tuned(2, "b.pth"))
    assert [numbers(row) for row in show("r")[1]] == [{"finetune_top1, 30 epochs": "1.00"},
                                                      {"finetune_top1, 30 epochs": "2.00"}]  # fmt: skip
    write(tmp_path / "r", tuned(3, "b.pth", lr=2e-3))
    assert numbers(show("r")[1][1]) == {"finetune_top1, 30 epochs, lr=0.001": "2.00",
                                        "finetune_top1, 30 epochs, lr=0.002": "3.00"}  # fmt: skip


def test_which_rows_were_asked_for_makes_no_column(show, tmp_path):
    for i, name in enumerate(("a.pth", "b.pth")):
        few = {"share": [0.01, 0.1][i:], "probes": ["knn", "linear"][i:], "subset": "10%", "temperature": 0.07}
        grids = {"grids": [[2, 2], [4, 4]][i:], "grid": [4, 4], "head": {"protocol": "linear", "epoch": i}}
        corruptions = {"corruptions": ["fog", "snow"][i:], "baseline": ["", "a/results.jsonl"][i]}
        saliency = {"steps": 10, "head": {"protocol": "linear", "epoch": i}}
        write(
            tmp_path / "r", record("semi_knn_top1", 1, settings=few, weights=name, extra={"row": "10% seed 0, knn"}),
            record("shuffle_top1", 2, settings=grids, weights=name, extra={"row": "4 x 4"}),
            record("corruptions_snow", 3, settings=corruptions, weights=name, extra={"row": "snow, error"}),
            record("occlusion_R.5", 4, settings=saliency, weights=name, extra={"row": "R.5 (random)"}),
            record("backgrounds_gap", 5, settings={"root": f"{i}/bg", "challenge": bool(i)}, weights=name),
            record("corruptions_mean", 6 + i, settings=corruptions, weights=name, extra={"row": "mean"}),
        )  # fmt: skip
    first, second = (numbers(row) for row in show("r")[1])
    alike = {
        "semi_knn_top1, 10% seed 0, knn": "1.00", "corruptions_snow, snow, error": "3.00",
        "occlusion_R.5, R.5 (random)": "4.00", "shuffle_top1, 4 x 4": "2.00", "backgrounds_gap": "5.00",
    }  # fmt: skip
    # A mean over other corruptions is another number.
    assert first == {**alike, "corruptions_mean, corruptions=fog,snow": "6.00"}
    assert second == {**alike, "corruptions_mean, corruptions=snow": "7.00"}


def test_records_of_an_unknown_protocol_are_compared_as_a_whole(show, tmp_path):
    write(tmp_path / "r", *(record("depth_error", i, settings={"bins": i, "size": [32, 32]}) for i in (1, 2)))
    assert numbers(show("r")[1][0]) == {"depth_error, bins=1": "1.00", "depth_error, bins=2": "2.00"}


def test_a_mean_over_draws_shows_their_range(show, tmp_path):
    mean = record("semi_knn_top1_mean", 50, interval=None, extra={"row": "1%, knn", "range": [48.0, 53.5]})
    write(
        tmp_path / "r",
        mean,
        record("semi_knn_top1_mean", 51, interval=None, weights="other.pth", extra={"row": "1%, knn"}),
    )
    printed, rows = show("r", "--markdown", "table.md")
    name = "semi_knn_top1_mean, 1%, knn"
    assert [row[f"{name}, range"] for row in rows] == ["48.00 to 53.50", ""] and rows[0][f"{name}, low"] == ""
    assert (tmp_path / "table.md").read_text().splitlines()[0::2] == [
        f"| run | network | {name} | {name}, range |", "| net.pth | teacher | 50.00 | 48.00 to 53.50 |",
    ]  # fmt: skip
    assert "48.00" not in printed
    _, rows = show("r", "--all")
    assert sorted(row["95 % interval"] for row in rows) == ["", "range 48.00 to 53.50"]


def test_what_was_chosen_makes_no_column(show, tmp_path):
    for name, chosen in (("a.pth", "lambda 0.1/n"), ("b.pth", "lambda 1/n")):
        few = {"row": f"1% seed 0, logistic, {chosen}", "chosen": chosen}
        write(
            tmp_path / "r", record("logistic_top1", 5, weights=name, extra={"row": chosen, "chosen": chosen}),
            record("semi_logistic_top1", 6, weights=name, extra=few),
        )  # fmt: skip
    _, rows = show("r")
    wanted = {"logistic_top1": "5.00", "semi_logistic_top1, 1% seed 0, logistic": "6.00"}
    assert [numbers(row) for row in rows] == [wanted, wanted]


def test_a_run_that_was_moved_or_evaluated_from_within_stays_one_row(show, tmp_path):
    folder = write(tmp_path / "new" / "a", in_training(3, 30), knn(20, 31, weights="/old/runs/a/"), run=True)
    write(folder, knn(10, 32, weights="."), knn(100, 33, weights="imagenet.pth"))
    _, rows = show("new", folder, "new/../new")
    assert [row["run"] for row in rows] == ["imagenet.pth", "new/a"]


def test_all_lists_dates_and_the_settings_that_differ(show, tmp_path):
    first = record(value=1, settings={"k": 10, "temperature": 0.07}, when="2026-01-02T00:00:00")
    second = record(value=2, settings={"k": 20, "temperature": 0.07}, when="2026-01-01T00:00:00", seed=1)
    write(tmp_path / "r", first, second, record("cluster_acc", 3, settings={"k": 5}))
    _, rows = show("r", "--all")
    assert [row["date"][:10] for row in rows] == ["2026-01-01", "2026-01-01", "2026-01-02"]
    by_value = {row["value"]: row for row in rows}
    assert by_value["1.00"]["settings that differ"] == "k=10 seed=0"
    assert by_value["2.00"]["settings that differ"] == "k=20 seed=1"
    assert by_value["3.00"]["settings that differ"] == "" and by_value["3.00"]["95 % interval"] == "1.00 to 6.00"


def test_torn_lines_and_lines_of_others_are_passed_over(show, tmp_path):
    folder = write(tmp_path / "r", knn(20, 5))
    with (folder / "results.jsonl").open("a") as file:
        file.write('3\n{"name": "of another program"}\n{"protocol": "knn", "metric": "knn_top1", "val')
    _, rows = show("r")
    assert len(rows) == 1 and rows[0]["knn_top1, k = 20"] == "5.00"


def test_markdown_is_a_table(show, tmp_path):
    write(tmp_path / "r", knn(20, 5, weights="a|b.pth"), knn(10, 6, weights="c.pth"))
    show("r", "--markdown", "table.md")
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| run | network | knn_top1, k = 10 | knn_top1, k = 20 |",
        "| --- | --- | ---: | ---: |",
        "| a\\|b.pth | teacher |  | 5.00 |",
        "| c.pth | teacher | 6.00 |  |",
    ]


def test_the_plot_has_a_bar_for_each_number_with_its_interval(show, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from ibot.show import results as pictures

    drawn = []
    draw = pictures._draw
    monkeypatch.setattr(pictures, "_draw", lambda axis, place, bar: drawn.append(bar) or draw(axis, place, bar))
    write(tmp_path / "r", knn(20, 40, weights="a $x$.pth"), knn(10, 41), knn(20, 50, interval=None))
    show("r", "--plot", "plot.png")
    assert {(bar.name, bar.value, bar.interval and tuple(bar.interval)) for bar in drawn} == {
        ("a $x$.pth", 40, (38, 43)), ("net.pth", 41, (39, 44)), ("net.pth", 50, None),
    }  # fmt: skip
    assert (np.asarray(Image.open(tmp_path / "plot.png").convert("L")) < 250).any()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = write(tmp_path / "r", knn(20, 40))
    assert main(["results", str(folder), "--plot", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert "'matplotlib' is not installed" in error and 'pip install "ibot[show]"' in error


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["missing"], "'missing' does not exist", "name a run"),
        (["good/results.jsonl"], "is a file", "name a run"),
        (["good", "empty"], "no results in or below 'empty'", "ibot eval knn empty --data DIR"),
        (["torn"], "no results in or below 'torn'", "ibot eval knn torn --data DIR"),
        (["binary"], "'binary/results.jsonl' cannot be read", "move it away"),
        (["good", "--csv", "empty"], "'empty' is a folder", "name a file"),
        (["good", "--markdown", "missing/a.md"], "there is no folder 'missing'", "create it"),
        (["good", "--plot", "a.jpg"], "'a.jpg' is no name for a picture", ".png"),
    ],
)
def test_mistakes_get_a_remedy(arguments, message, remedy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good", knn(20, 40))
    for name, content in (("empty", None), ("torn", b'{"protocol": "k'), ("binary", b"\xff\xfe\x00")):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "results.jsonl").write_bytes(content)
    assert main(["results", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ibot: error:") and message in error.splitlines()[0] and remedy in error


def test_a_training_and_an_evaluation_meet_in_one_row(tmp_path):
    """The whole way in processes of their own, as a person goes it."""
    write_folder(tmp_path / "data", train=20, val=20)

    def ibot(*arguments):
        done = subprocess.run([sys.executable, "-m", "ibot", *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["model.depth=1", "head.out_dim=32", "head.patch_out_dim=32", "train.batch=8", "system.workers=0"]
    ibot("pretrain", "tiny32", "--data", "data", "--run", "runs/a", "--steps", "2", "--device", "cpu", *small)
    ibot("eval", "knn", "runs/a", "--data", "data", "--device", "cpu", "--cache", "cache", "k=10")
    rows = [json.loads(line) for line in (tmp_path / "runs" / "a" / "results.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["extra"].get("step") == 2][-1]
    lines = [line.split() for line in ibot("results", "runs").splitlines()]
    assert lines[-2] == ["runs/a", "teacher", f"{rows[-1]['value']:.2f}", f"{last['value']:.2f}"]
    assert lines[-1][:4] == ["1", "networks,", "2", "records;"]


def test_numbers_stand_to_the_right():
    assert results.aligned([["name", "a\nb"], ["x", "1.00"], ["long name", "10.00"]]) == (
        "name           a\n               b\nx           1.00\nlong name  10.00\n"
    )
