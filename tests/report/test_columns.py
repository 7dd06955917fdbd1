"""Which records share a column of the table: runs, networks, versions of weights."""

from recorded import NEW, OLD, in_training, knn, numbers, record, trained_on, write


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
        "protocol  row                         a        a  dino.pth",
        "                                student  teacher   teacher",
        "knn       k = 10                           40.00",
        "knn       k = 20, pre-training             30.00",
        "knn       k = 20, clean                    41.00     71.00",
        "linear    n4m0                    60.00",
        "3 networks, 6 records; --all shows everything, with dates and settings",
    ]


def test_columns_stand_in_the_order_of_the_folders(show, tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / name, knn(20, 40, weights=f"{name}.pth"))
    _, rows = show("c", "a", "b")
    assert [name for name in rows[0] if name.endswith("teacher")] == [
        f"{name}.pth, teacher" for name in "cab"
    ]


def test_a_run_that_was_moved_or_evaluated_from_within_stays_one_column(show, tmp_path):
    folder = write(
        tmp_path / "new" / "a", in_training(3, 30), knn(20, 31, weights="/old/runs/a/"), run=True
    )
    write(folder, knn(10, 32, weights="."), knn(100, 33, weights="imagenet.pth"))
    _, rows = show("new", folder, "new/../new")
    networks = [name for name in rows[0] if not name.endswith(("low", "high"))][2:]
    assert networks == ["imagenet.pth, teacher", "new/a, teacher"]


def test_weights_of_a_run_that_was_trained_on_are_never_mixed(show, tmp_path):
    trained_on(tmp_path / "runs" / "photos")
    printed, rows = show("runs", "--markdown", "table.md")
    old, new = (f"runs/photos, teacher, step {step}" for step in (100, 260))
    assert [name for name in rows[0] if not name.endswith(("low", "high"))][2:] == [old, new]
    assert numbers(rows, old) == {"knn, k = 20, clean": "40.00"}
    assert numbers(rows, new) == {"knn, k = 20, pre-training": "50.00", "linear, top1": "60.00"}
    assert f"| {old} | {new} |" in (tmp_path / "table.md").read_text()
    lines = [line.split() for line in printed.splitlines()]
    assert lines[1] == ["step", "100", "step", "260"] and "2 networks, 3 records" in printed
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
    assert numbers(rows, "runs/photos, teacher, step 260") == {"linear, top1": "60.00"}
    _, rows = show("runs", "--all")
    assert next(row for row in rows if row["value"] == "55.00")["settings that differ"].endswith(
        "step=300"
    )


def test_an_earlier_checkpoint_that_is_evaluated_later_is_of_its_own_step(show, tmp_path):
    earlier = knn(20, 35, weights="runs/photos", weights_hash="c" * 64, trained=40)
    write(trained_on(tmp_path / "runs" / "photos"), earlier)
    _, rows = show("runs")
    assert numbers(rows, "runs/photos, teacher, step 40") == {"knn, k = 20, clean": "35.00"}
    assert numbers(rows, "runs/photos, teacher, step 260") == {
        "knn, k = 20, pre-training": "50.00",
        "linear, top1": "60.00",
    }


def test_weights_that_did_not_change_stay_one_column(show, tmp_path):
    write(
        tmp_path / "a", knn(20, 40, weights_hash=OLD), record("linear_top1", 60, weights_hash=OLD)
    )
    write(tmp_path / "b", knn(10, 50, weights_hash=OLD))
    printed, rows = show("a", "b")
    assert len(numbers(rows)) == 3 and "1 network, 3 records" in printed
    assert not any("weights=" in row["settings that differ"] for row in show("a", "b", "--all")[1])
