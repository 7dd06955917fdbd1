"""`ibot results`: its forms, files and mistakes."""

import json
import sys

import commands
import numpy as np
import pytest
from PIL import Image
from recorded import knn, numbers, record, trained_on, write

from ibot.cli.main import main
from ibot.data.scenes import write_folder
from ibot.report.text import aligned


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
    titles = [row["row"] for row in rows if row["protocol"] == "knn"]
    for fit in ("crop,", "pad"):
        assert any(f"k = 20, clean, 224x224 pixels, fit={fit}" in title for title in titles)
    assert "59 rows left out" in printed and printed.count("\nsemi ") == 4


def test_one_of_each_is_named_in_the_singular(show, tmp_path):
    write(tmp_path / "r", knn(20, 5))
    assert show("r")[0].splitlines()[-2].startswith("1 network, 1 record; --all")


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

    def picture(given, path):
        groups.update(given)
        path.touch()

    monkeypatch.setattr(pictures, "results_picture", picture)
    trained_on(tmp_path / "runs" / "photos")
    show("runs", "--plot", "plot.png")
    bars = [bar for panel in groups.values() for row in panel.values() for bar in row]
    names = sorted(bar.name for bar in bars)
    assert names == ["photos, step 100", "photos, step 260", "photos, step 260"]
    assert len({(bar.name, bar.colour) for bar in bars}) == 2 == len({bar.colour for bar in bars})


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = write(tmp_path / "r", knn(20, 40))
    assert main(["results", str(folder), "--plot", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert "'matplotlib' is not installed" in error and 'pip install "matplotlib>=' in error


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
        "model.width=24",
        "model.heads=2",
        "head.hidden_dim=32",
        "head.bottleneck_dim=16",
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
    ibot(
        "eval",
        "knn",
        "runs/a",
        "--data",
        "data",
        "--device",
        "cpu",
        "--cache",
        "cache",
        "k=10",
        "--baselines",
        "none",
    )
    rows = [
        json.loads(line)
        for line in (tmp_path / "runs" / "a" / "results.jsonl").read_text().splitlines()
    ]
    last = [row for row in rows if (row["metric"], row["step"]) == ("knn_top1", 2)][-1]
    lines = [line.split() for line in ibot("results", "runs").splitlines()]
    assert lines[0] == ["protocol", "row", "a", "pixels", "colours"]
    # Beside the training's stand pixels and colours.
    found = [line[place] for line, place in zip(lines[1:3], (-1, -3), strict=True)]
    assert found == [f"{row['value']:.2f}" for row in (rows[-1], last)]
    assert lines[-1][:4] == ["1", "network,", "3", "records;"]


def test_numbers_stand_to_the_right():
    assert aligned([["name", "a\nb"], ["x", "1.00"], ["long name", "10.00"]]) == (
        "name           a\n               b\nx           1.00\nlong name  10.00\n"
    )
