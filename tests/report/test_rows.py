"""Which records share a row of the table, and what a row is called."""

from recorded import knn, linear, numbers, record, write


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


def test_blocks_of_one_kind_stand_together_in_the_order_of_their_numbers(show, tmp_path):
    blocks = ["jpegqual/20", "crops/10", "strong", "jpegqual/3", "crops/80"]
    rows = [record("copy_detection_map", 1, extra={"row": block}) for block in blocks]
    write(tmp_path / "r", *rows)
    ordered = ["crops/10", "crops/80", "jpegqual/3", "jpegqual/20", "strong"]
    assert list(numbers(show("r")[1])) == [f"copy, {block}" for block in ordered]


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
        "corruptions, snow, error (lower is better)": "3.00",
        "occlusion, R.5 (random)": "4.00",
        "shuffle, 4 x 4": "2.00",
        "backgrounds, gap (lower is better)": "5.00",
    }
    # A mean over other corruptions is another number.
    assert first == {**alike, "corruptions, mean, corruptions=fog,snow (lower is better)": "6.00"}
    assert second == {**alike, "corruptions, mean, corruptions=snow (lower is better)": "7.00"}


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
