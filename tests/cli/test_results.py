"""`ibot results` on records as evaluations and trainings leave them."""

import csv
import json
import sys
from dataclasses import asdict

import commands
import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import main
from ibot.data.scenes import write_folder
from ibot.report.text import aligned
from ibot.system.jsonl import append_jsonl
from ibot.types import ResultRecord


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


def test_runs_and_weights_stand_side_by_side(show, tmp_path):
    write(tmp_path / "runs" / "a", in_training(0, 10), in_training(5, 30), run=True)
    write(tmp_path / "runs" / "a", knn(10, 40, weights="runs/a"), knn(20, 41, weights="runs/a"))
    write(
        tmp_path / "runs" / "a",
        record("linear_top1", 60, weights="runs/a", key="student", extra={"row": "n4m0"}),
    )
    write(tmp_path / "other", knn(20, 70, weights="dino.pth"), knn(20, 71, weights="dino.pth"))
    printed, rows = show("runs", "other")
    assert list(rows[0]) == [
        "protocol",
        "row",
        *(
            name + end
            for name in ("runs/a, student", "runs/a, teacher", "dino.pth, teacher")
            for end in ("", ", low", ", high")
        ),
    ]
    assert numbers(rows, "dino.pth, teacher") == {"knn, k = 20, clean": "71.00"}
    assert numbers(rows, "runs/a, student") == {"linear, n4m0": "60.00"}
    assert numbers(rows, "runs/a, teacher") == {
        "knn, k = 10": "40.00",
        "knn, k = 20, clean": "41.00",
        "knn, k = 20, pre-training": "30.00",
    }
    assert (rows[0]["runs/a, teacher, low"], rows[0]["runs/a, teacher, high"]) == ("38.00", "43.00")
    assert printed.splitlines()[:-1] == [
        "protocol  row                    runs/a   runs/a  dino.pth",
        "                                student  teacher   teacher",
        "knn       k = 10                           40.00",
        "knn       k = 20, pre-training             30.00",
        "knn       k = 20, clean                    41.00     71.00",
        "linear    n4m0                    60.00",
        "3 networks, 6 records; --all lists them with dates and settings",
    ]


def test_rows_are_grouped_by_protocol_and_told_apart_by_no_more_than_it_takes(show, tmp_path):
    few = [
        record("semi_knn_top1", k, extra={"row": f"{share}% seed 0, knn, k = {k}"})
        for share in (10, 1)
        for k in (20, 5)
    ]
    others = [record("depth_error", 1), record("best_of", 2), record("depth_scale", 3)]
    twice = [record(f"occlusion_{name}", 4, extra={"row": "R.5"}) for name in ("top1", "top5")]
    write(
        tmp_path / "r",
        *others,
        *twice,
        record("cluster_nmi", 5),
        *few,
        record("cluster_acc", 6),
        knn(5, 7),
    )
    titles = list(numbers(show("r")[1]))
    assert titles == [
        "knn, k = 5",
        "cluster, nmi",
        "cluster, acc",
        "semi, 1% seed 0, knn, k = 5",
        "semi, 1% seed 0, knn, k = 20",
        "semi, 10% seed 0, knn, k = 5",
        "semi, 10% seed 0, knn, k = 20",
        "occlusion, R.5, occlusion_top1",
        "occlusion, R.5, occlusion_top5",
        "best, of",
        "depth, error",
        "depth, scale",
    ]


def test_all_metrics_of_several_networks_fit_a_terminal(show, tmp_path):
    names = [
        "weights/of another group/vit_small_patch16_300_epochs.safetensors",
        "runs/photos/second-try",
        "c.pth",
    ]
    settings = {"size": [224, 224], "fit": "crop", "temperature": 0.07}
    for name in names:
        rows = [f"10% seed {seed}, logistic regression" for seed in range(60)]
        many = [
            record("semi_top1", seed, extra={"row": row}, weights=name)
            for seed, row in enumerate(rows)
        ]
        write(
            tmp_path / "r",
            *many,
            *(knn(k, 100, weights=name, mode="published") for k in (5, 10, 20)),
        )
    for changed in ({}, {"size": [48, 48]}, {"fit": "pad"}, {"temperature": 0.1}):
        write(tmp_path / "r", record(settings={**settings, "k": 20, **changed}, weights="c.pth"))
    printed, rows = show("r")
    assert len(rows) == 60 + 3 + 4 and max(map(len, printed.splitlines())) <= 120
    assert [f"{name}, teacher" in rows[0] for name in names] == [True] * 3
    assert (
        "k = 20, clean, 224x224 pixels, fit=crop," in printed
        and "k = 20, clean, 224x224 pixels, fit=pad" in printed
    )


def test_one_of_each_is_named_in_the_singular(show, tmp_path):
    write(tmp_path / "r", knn(20, 5))
    assert show("r")[0].splitlines()[-2].startswith("1 network, 1 record; --all")


def test_modes_images_and_their_number_are_never_mixed(show, tmp_path):
    write(
        tmp_path / "r",
        knn(20, 1, mode="published"),
        knn(20, 2),
        knn(20, 3, num_val=5),
        knn(10, 5),
        knn(20, 4, data={"root": "birds"}),
    )
    _, rows = show("r")
    assert numbers(rows) == {
        "knn, k = 10": "5.00",
        "knn, k = 20, published": "1.00",
        "knn, k = 20, clean, photos, 10 images": "2.00",
        "knn, k = 20, clean, photos, 5 images": "3.00",
        "knn, k = 20, clean, birds": "4.00",
    }


def test_other_views_training_sets_and_settings_get_rows_of_their_own(show, tmp_path):
    view = {"size": [32, 32], "fit": "crop", "interpolation": "bicubic"}
    given = [
        {},
        {"size": [48, 48]},
        {"fit": "pad"},
        {"temperature": 0.1},
        {"size": [48, 48], "temperature": 0.1},
    ]
    for i, settings in enumerate(given):
        write(
            tmp_path / "r",
            record(value=i, settings={**view, "k": 20, "temperature": 0.07, **settings}),
        )
    write(
        tmp_path / "r", record(value=5, settings={**view, "k": 20}, weights="old.pth")
    )  # before there was the setting
    write(tmp_path / "r", record(value=6, settings={**view, "k": 20}, num_train=50))
    _, rows = show("r")
    name, whole = "knn, k = 20", "90 training images"
    assert numbers(rows) == {
        f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.07": "0.00",
        f"{name}, {whole}, 48x48 pixels, temperature=0.07": "1.00",
        f"{name}, {whole}, 32x32 pixels, fit=pad": "2.00",
        f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.1": "3.00",
        f"{name}, {whole}, 48x48 pixels, temperature=0.1": "4.00",
        f"{name}, 50 training images": "6.00",
    }
    assert numbers(rows, "old.pth, teacher") == {
        f"{name}, {whole}, 32x32 pixels, fit=crop, temperature=0.07": "5.00"
    }


def test_images_that_are_not_turned_upright_get_a_row_of_their_own(show, tmp_path):
    for i, given in enumerate(
        ({}, {"exif_orientation": "apply"}, {"exif_orientation": "ignore"})
    ):  # the first is old
        write(tmp_path / "r", record(value=i, settings={"k": 20, **given}))
    name = "knn, k = 20, exif_orientation"
    assert numbers(show("r")[1]) == {f"{name}=apply": "1.00", f"{name}=ignore": "2.00"}


def linear(value, **settings):
    defaults = {"epochs": 100, "batch": 90, "features": "n4m0", "augment": "crop"}
    return record("linear_top1", value, settings={**defaults, **settings}, extra={"row": "n4m0"})


def test_lists_are_named_by_their_ends_unless_these_are_alike(show, tmp_path):
    write(tmp_path / "r", linear(1), linear(2, rates=[0.1, 0.2]), linear(3, augment="none"))
    _, rows = show("r")
    assert numbers(rows) == {
        "linear, n4m0, rates=0.0001..9 (45 values), augment=crop": "1.00",
        "linear, n4m0, rates=0.1,0.2": "2.00",
        "linear, n4m0, rates=0.0001..9 (45 values), augment=none": "3.00",
    }
    write(tmp_path / "two", linear(1, rates=[1, 2, 3, 4, 5]), linear(2, rates=[1, 2, 3.5, 4, 5]))
    _, rows = show("two")
    assert numbers(rows) == {
        "linear, n4m0, rates=1,2,3,4,5": "1.00",
        "linear, n4m0, rates=1,2,3.5,4,5": "2.00",
    }


def test_where_defaults_depend_on_the_images_records_are_compared_with_each_other(show, tmp_path):
    def tuned(value, name, **settings):
        settings = {"epochs": 30, "batch": 32, "mixup": 0.0, **settings}
        return record(
            "finetune_top1", value, settings=settings, weights=name, extra={"row": "30 epochs"}
        )

    write(tmp_path / "r", tuned(1, "a.pth"), tuned(2, "b.pth"))
    _, rows = show("r")
    assert numbers(rows, "a.pth, teacher") == {"finetune, 30 epochs": "1.00"}
    assert numbers(rows, "b.pth, teacher") == {"finetune, 30 epochs": "2.00"}
    write(tmp_path / "r", tuned(3, "b.pth", lr=2e-3))
    assert numbers(show("r")[1], "b.pth, teacher") == {
        "finetune, 30 epochs, lr=0.001": "2.00",
        "finetune, 30 epochs, lr=0.002": "3.00",
    }


def test_which_rows_were_asked_for_makes_no_row(show, tmp_path):
    for i, name in enumerate(("a.pth", "b.pth")):
        few = {
            "share": [0.01, 0.1][i:],
            "probes": ["knn", "linear"][i:],
            "subset": "10%",
            "temperature": 0.07,
        }
        grids = {
            "grids": [[2, 2], [4, 4]][i:],
            "grid": [4, 4],
            "head": {"protocol": "linear", "epoch": i},
        }
        corruptions = {"corruptions": ["fog", "snow"][i:], "baseline": ["", "a/results.jsonl"][i]}
        saliency = {"steps": 10, "head": {"protocol": "linear", "epoch": i}}
        write(
            tmp_path / "r",
            record(
                "semi_knn_top1", 1, settings=few, weights=name, extra={"row": "10% seed 0, knn"}
            ),
            record("shuffle_top1", 2, settings=grids, weights=name, extra={"row": "4 x 4"}),
            record(
                "corruptions_snow",
                3,
                settings=corruptions,
                weights=name,
                extra={"row": "snow, error"},
            ),
            record(
                "occlusion_R.5", 4, settings=saliency, weights=name, extra={"row": "R.5 (random)"}
            ),
            record(
                "backgrounds_gap",
                5,
                settings={"root": f"{i}/bg", "challenge": bool(i)},
                weights=name,
            ),
            record(
                "corruptions_mean", 6 + i, settings=corruptions, weights=name, extra={"row": "mean"}
            ),
        )
    _, rows = show("r")
    first, second = (numbers(rows, f"{name}, teacher") for name in ("a.pth", "b.pth"))
    alike = {
        "semi, 10% seed 0, knn": "1.00",
        "corruptions, snow, error": "3.00",
        "occlusion, R.5 (random)": "4.00",
        "shuffle, 4 x 4": "2.00",
        "backgrounds, gap": "5.00",
    }
    # A mean over other corruptions is another number.
    assert first == {**alike, "corruptions, mean, corruptions=fog,snow": "6.00"}
    assert second == {**alike, "corruptions, mean, corruptions=snow": "7.00"}


def test_records_of_an_unknown_protocol_are_compared_as_a_whole(show, tmp_path):
    write(
        tmp_path / "r",
        *(record("depth_error", i, settings={"bins": i, "size": [32, 32]}) for i in (1, 2)),
    )
    assert numbers(show("r")[1]) == {"depth, error, bins=1": "1.00", "depth, error, bins=2": "2.00"}


def test_a_mean_over_draws_shows_their_range(show, tmp_path):
    mean = record(
        "semi_knn_top1_mean", 50, interval=None, extra={"row": "1%, knn", "range": [48.0, 53.5]}
    )
    write(
        tmp_path / "r",
        mean,
        record(
            "semi_knn_top1_mean", 51, interval=None, weights="other.pth", extra={"row": "1%, knn"}
        ),
    )
    printed, rows = show("r", "--markdown", "table.md")
    assert [row["net.pth, teacher, range"] for row in rows] == ["48.00 to 53.50"]
    assert rows[0]["net.pth, teacher, low"] == "" and "other.pth, teacher, range" not in rows[0]
    assert (tmp_path / "table.md").read_text().splitlines()[0::2] == [
        "| protocol | row | net.pth, teacher | net.pth, teacher, range | other.pth, teacher |",
        "| semi | 1%, knn | 50.00 | 48.00 to 53.50 | 51.00 |",
    ]
    assert "48.00" not in printed
    _, rows = show("r", "--all")
    assert sorted(row["95 % interval"] for row in rows) == ["", "range 48.00 to 53.50"]


def test_records_of_earlier_versions_stand_beside_later_ones(show, tmp_path):
    later = {"row": "10%, chosen l2", "chosen": "l2", "notes": ("few images",)}
    write(tmp_path / "r", record("semi_top1", 1, weights="later.pth", **later))
    write(tmp_path / "r", record("semi_top1", 2, weights="earlier.pth", extra=later))
    trained = {"settings": {"k": 20}, "weights": "", "when": "", "interval": None}
    write(tmp_path / "runs" / "later", record(value=3, step=4, **trained), run=True)
    write(tmp_path / "runs" / "earlier", record(value=5, extra={"step": 4}, **trained), run=True)
    _, rows = show("r", "runs")
    assert len(rows) == 2
    for name, values in (("later", {"3.00", "1.00"}), ("earlier", {"5.00", "2.00"})):
        columns = [column for column in rows[0] if name in column and column.endswith("teacher")]
        assert {row[column] for row in rows for column in columns if row[column]} == values


def test_what_was_chosen_makes_no_row(show, tmp_path):
    for name, chosen in (("a.pth", "lambda 0.1/n"), ("b.pth", "lambda 1/n")):
        few = {"row": f"1% seed 0, logistic, {chosen}", "chosen": chosen}
        write(
            tmp_path / "r",
            record("logistic_top1", 5, weights=name, extra={"row": chosen, "chosen": chosen}),
            record("semi_logistic_top1", 6, weights=name, extra=few),
        )
    _, rows = show("r")
    wanted = {"logistic, top1": "5.00", "semi, 1% seed 0, logistic": "6.00"}
    assert [numbers(rows, f"{name}, teacher") for name in ("a.pth", "b.pth")] == [wanted, wanted]


def test_a_run_that_was_moved_or_evaluated_from_within_stays_one_column(show, tmp_path):
    folder = write(
        tmp_path / "new" / "a", in_training(3, 30), knn(20, 31, weights="/old/runs/a/"), run=True
    )
    write(folder, knn(10, 32, weights="."), knn(100, 33, weights="imagenet.pth"))
    _, rows = show("new", folder, "new/../new")
    networks = [name for name in rows[0] if not name.endswith(("low", "high"))][2:]
    assert networks == ["imagenet.pth, teacher", "new/a, teacher"]


OLD, NEW = "aaaaaaaa" + 56 * "0", "11111111" + 56 * "0"


def trained_on(folder):
    """A run that was evaluated at step 100 and, by another protocol too, at step 260."""
    first = knn(20, 40, weights="runs/photos", weights_hash=OLD)
    probe = record(
        "linear_top1", 60, weights="runs/photos", weights_hash=NEW, when="2026-01-02T00:00:00"
    )
    return write(folder, in_training(100, 30), first, in_training(260, 50), probe, run=True)


def test_weights_of_a_run_that_was_trained_on_are_never_mixed(show, tmp_path):
    trained_on(tmp_path / "runs" / "photos")
    printed, rows = show("runs", "--markdown", "table.md")
    old, new = (f"runs/photos, teacher, {version}" for version in (OLD[:8], NEW[:8]))
    assert [name for name in rows[0] if not name.endswith(("low", "high"))][2:] == [old, new]
    assert numbers(rows, old) == {"knn, k = 20, clean": "40.00"}
    assert numbers(rows, new) == {"knn, k = 20, pre-training": "50.00", "linear, top1": "60.00"}
    assert f"| {old} | {new} |" in (tmp_path / "table.md").read_text()
    lines = [line.split() for line in printed.splitlines()]
    assert (
        lines[1:3] == [["teacher", "teacher"], [OLD[:8], NEW[:8]]]
        and "2 networks, 3 records" in printed
    )
    _, rows = show("runs", "--all")
    assert {row["value"]: row["settings that differ"].split()[-1] for row in rows} == {
        "40.00": f"weights={OLD[:8]}",
        "50.00": f"weights={NEW[:8]}",
        "60.00": f"weights={NEW[:8]}",
    }


def test_what_a_training_measured_after_the_last_evaluation_is_of_other_weights(show, tmp_path):
    write(trained_on(tmp_path / "runs" / "photos"), in_training(300, 55))
    _, rows = show("runs")
    assert numbers(rows, "runs/photos, teacher, step 300") == {"knn, k = 20, pre-training": "55.00"}
    assert numbers(rows, f"runs/photos, teacher, {NEW[:8]}") == {"linear, top1": "60.00"}
    _, rows = show("runs", "--all")
    assert next(row for row in rows if row["value"] == "55.00")["settings that differ"].endswith(
        "step=300"
    )


def test_weights_that_did_not_change_stay_one_column(show, tmp_path):
    write(
        tmp_path / "a", knn(20, 40, weights_hash=OLD), record("linear_top1", 60, weights_hash=OLD)
    )
    write(tmp_path / "b", knn(10, 50, weights_hash=OLD))
    printed, rows = show("a", "b")
    assert len(numbers(rows)) == 3 and "1 network, 3 records" in printed
    assert not any("weights=" in row["settings that differ"] for row in show("a", "b", "--all")[1])


def test_all_lists_dates_and_the_settings_that_differ(show, tmp_path):
    first = record(value=1, settings={"k": 10, "temperature": 0.07}, when="2026-01-02T00:00:00")
    second = record(
        value=2, settings={"k": 20, "temperature": 0.07}, when="2026-01-01T00:00:00", seed=1
    )
    write(tmp_path / "r", first, second, record("cluster_acc", 3, settings={"k": 5}))
    _, rows = show("r", "--all")
    assert [row["date"][:10] for row in rows] == ["2026-01-01", "2026-01-01", "2026-01-02"]
    by_value = {row["value"]: row for row in rows}
    assert by_value["1.00"]["settings that differ"] == "k=10 seed=0"
    assert by_value["2.00"]["settings that differ"] == "k=20 seed=1"
    assert (
        by_value["3.00"]["settings that differ"] == ""
        and by_value["3.00"]["95 % interval"] == "1.00 to 6.00"
    )


def test_torn_lines_and_lines_of_others_are_passed_over(show, tmp_path):
    folder = write(tmp_path / "r", knn(20, 5))
    with (folder / "results.jsonl").open("a") as file:
        file.write(
            '3\n{"name": "of another program"}\n{"protocol": "knn", "metric": "knn_top1", "val'
        )
    _, rows = show("r")
    assert len(rows) == 1 and numbers(rows) == {"knn, k = 20": "5.00"}


def test_markdown_is_a_table(show, tmp_path):
    write(tmp_path / "r", knn(20, 5, weights="a|b.pth"), knn(10, 6, weights="c.pth"))
    show("r", "--markdown", "new/folder/table.md")
    assert (tmp_path / "new" / "folder" / "table.md").read_text().splitlines() == [
        "| protocol | row | a\\|b.pth, teacher | c.pth, teacher |",
        "| --- | --- | ---: | ---: |",
        "| knn | k = 10 |  | 6.00 |",
        "| knn | k = 20 | 5.00 |  |",
    ]


def test_the_plot_has_a_bar_for_each_number_with_its_interval(show, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from ibot.report import chart as pictures

    drawn = []
    draw = pictures._draw
    monkeypatch.setattr(
        pictures, "_draw", lambda axis, place, bar: drawn.append(bar) or draw(axis, place, bar)
    )
    write(tmp_path / "r", knn(20, 40, weights="a $x$.pth"), knn(10, 41), knn(20, 50, interval=None))
    show("r", "--plot", "plot.png")
    assert {(bar.name, bar.value, bar.interval and tuple(bar.interval)) for bar in drawn} == {
        ("a $x$.pth", 40, (38, 43)),
        ("net.pth", 41, (39, 44)),
        ("net.pth", 50, None),
    }
    assert (np.asarray(Image.open(tmp_path / "plot.png").convert("L")) < 250).any()


def test_bars_of_several_weights_of_a_run_have_names_of_their_own(show, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from ibot.report import chart as pictures

    groups = {}
    monkeypatch.setattr(pictures, "results_picture", lambda given, path: groups.update(given))
    trained_on(tmp_path / "runs" / "photos")
    show("runs", "--plot", "plot.png")
    names = sorted(bar.name for bars in groups.values() for bar in bars)
    assert names == [f"runs/photos ({version[:8]})" for version in (NEW, NEW, OLD)]


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
        (["empty", "torn"], "no results in or below 'empty'", "ibot eval knn empty --data DIR"),
        (["torn"], "no results in or below 'torn'", "ibot eval knn torn --data DIR"),
        (["binary"], "'binary/results.jsonl' cannot be read", "move it away"),
        (["good", "--csv", "empty"], "'empty' is a folder", "name a file"),
        (
            ["good", "--markdown", "good/results.jsonl/a.md"],
            "'good/results.jsonl/a.md' cannot be written",
            "another",
        ),
        (["good", "--plot", "a.jpg"], "'a.jpg' is no name for a picture", ".png"),
    ],
)
def test_mistakes_get_a_remedy(arguments, message, remedy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good", knn(20, 40))
    for name, content in (
        ("empty", None),
        ("torn", b'{"protocol": "k'),
        ("binary", b"\xff\xfe\x00"),
    ):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "results.jsonl").write_bytes(content)
    assert main(["results", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ibot: error:") and message in error.splitlines()[0] and remedy in error


def test_columns_stand_in_the_order_of_the_folders(show, tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / name, knn(20, 40, weights=f"{name}.pth"))
    _, rows = show("c", "a", "b")
    assert [name for name in rows[0] if name.endswith("teacher")] == [
        f"{name}.pth, teacher" for name in "cab"
    ]


def test_a_folder_without_results_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "good", knn(20, 40))
    assert main(["results", "empty", "good"]) == 0
    printed = capsys.readouterr()
    assert (
        "40.00" in printed.out
        and printed.err == "note: no results in or below 'empty': it is left out\n"
    )


def test_a_training_and_an_evaluation_meet_in_one_column(tmp_path):
    """The whole way in processes of their own, as a person goes it."""
    write_folder(tmp_path / "data", train=20, val=20)

    def ibot(*arguments):
        done = commands.ibot(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = [
        "model.depth=1",
        "head.out_dim=32",
        "head.patch_out_dim=32",
        "train.batch=8",
        "system.workers=0",
    ]
    ibot(
        "pretrain",
        "tiny32",
        "--data",
        "data",
        "--run",
        "runs/a",
        "--steps",
        "2",
        "--device",
        "cpu",
        *small,
    )
    ibot("eval", "knn", "runs/a", "--data", "data", "--device", "cpu", "--cache", "cache", "k=10")
    rows = [
        json.loads(line)
        for line in (tmp_path / "runs" / "a" / "results.jsonl").read_text().splitlines()
    ]
    last = [row for row in rows if row["step"] == 2][-1]
    lines = [line.split() for line in ibot("results", "runs").splitlines()]
    assert lines[:2] == [["protocol", "row", "runs/a"], ["teacher"]]
    assert [line[-1] for line in lines[2:4]] == [f"{row['value']:.2f}" for row in (rows[-1], last)]
    assert lines[-1][:4] == ["1", "network,", "2", "records;"]


def test_numbers_stand_to_the_right():
    assert aligned([["name", "a\nb"], ["x", "1.00"], ["long name", "10.00"]]) == (
        "name           a\n               b\nx           1.00\nlong name  10.00\n"
    )
