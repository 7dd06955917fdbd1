"""Features in files: every form holds the same numbers, names and classes, bit by bit."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from blobs import blobs, save
from random_weights import VIT, write_random
from safetensors import safe_open

from ibot.cli.main import main
from ibot.errors import UserError
from ibot.eval.features import files, forms
from ibot.eval.features.files import write_features
from ibot.eval.features.tokens import Features

NAMES = ["a, b.png", 'quote".jpg', "umläut.png", "line\nend.png", "x.png"]


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**31), 2**31, (5, 7), generator=generator, dtype=torch.int64)
    cls = numbers.to(torch.int32).view(torch.float32)  # any float32 there is
    cls = torch.where(cls.isfinite(), cls, torch.tensor(0.1))
    patches = torch.randn(5, 3, 7, generator=generator)
    return Features(cls, patches, torch.tensor([1, 0, 1, 1, 0]), NAMES)


def read_csv(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_nine_digits_give_back_every_float32(features, tmp_path):
    write_features(tmp_path / "f", ".csv", features, ("cat", "dog"))
    header, rows = read_csv(tmp_path / "f")
    assert header == ["name", "label", "class", *(f"cls_{i}" for i in range(7))]
    assert [row[:3] for row in rows] == [
        [name, str(label), ("cat", "dog")[label]]
        for name, label in zip(NAMES, features.labels.tolist(), strict=True)
    ]
    numbers = np.array([row[3:] for row in rows], dtype=np.float64).astype(np.float32)
    assert np.array_equal(numbers, features.cls.numpy())


@pytest.mark.parametrize("rows_a_group", [2, 100])
def test_parquet_holds_lists_of_fixed_length_in_groups(
    features, tmp_path, monkeypatch, rows_a_group
):
    monkeypatch.setattr(files, "GROUP_BYTES", rows_a_group * 4 * (7 + 21) + 3)
    write_features(tmp_path / "f", ".parquet", features, ("cat", "dog"))
    file = pq.ParquetFile(tmp_path / "f")
    assert file.num_row_groups == (3 if rows_a_group == 2 else 1)
    table = file.read()
    assert table.column_names == ["name", "label", "class", "cls", "patches"]
    assert table["name"].to_pylist() == NAMES
    assert table["class"].to_pylist() == ["dog", "cat", "dog", "dog", "cat"]
    assert json.loads(table.schema.metadata[b"classes"]) == ["cat", "dog"]
    cls = table["cls"].combine_chunks()
    assert cls.type.list_size == 7
    assert np.array_equal(cls.flatten().to_numpy().reshape(5, 7), features.cls.numpy())
    patches = table["patches"].combine_chunks().flatten().flatten().to_numpy().reshape(5, 3, 7)
    assert np.array_equal(patches, features.patches.numpy())


def test_windows_have_their_places_in_columns(features, tmp_path):
    names = [f"slide, 1.tif#x={8 * i},y=4,w=16,h=12" for i in range(5)]
    seen = Features(features.cls, None, None, names)
    write_features(tmp_path / "f", ".csv", seen, ())
    header, rows = read_csv(tmp_path / "f")
    assert header[:6] == ["name", "image", "x", "y", "width", "height"]
    assert rows[2][:6] == [names[2], "slide, 1.tif", "16", "4", "16", "12"]
    write_features(tmp_path / "p", ".parquet", seen, ())
    assert pq.read_table(tmp_path / "p")["x"].to_pylist() == [0, 8, 16, 24, 32]


def test_the_command_writes_the_same_in_every_form(tmp_path, capsys):
    for i, label in enumerate(("cat", "dog", "cat")):
        save(tmp_path / "photos" / label / f"{i}.png", blobs(i, 32, 40))
    (tmp_path / "photos" / "cat" / "bad.jpg").write_text("no picture")
    weights = write_random(tmp_path / "w.safetensors", *VIT)
    command = ["features", str(weights), "--data", str(tmp_path / "photos"), "--device", "cpu"]
    for suffix in forms.SUFFIXES:
        assert main([*command, "--out", str(tmp_path / f"f{suffix}")]) == 0
        told = capsys.readouterr().out
        assert "3 images" in told and "not read: cat/bad.jpg" in told
    arrays = np.load(tmp_path / "f.npz")
    table = pq.read_table(tmp_path / "f.parquet")
    _, rows = read_csv(tmp_path / "f.csv")
    with safe_open(tmp_path / "f.safetensors", framework="np") as stored:
        assert np.array_equal(stored.get_tensor("cls"), arrays["cls"])
    assert table["name"].to_pylist() == arrays["names"].tolist() == [row[0] for row in rows]
    assert np.array_equal(np.stack(table["cls"].to_numpy()), arrays["cls"])
    assert np.array_equal(np.array([row[3:] for row in rows], np.float32), arrays["cls"])


def test_forms_that_cannot_be_are_refused_before_the_work(tmp_path, capsys, monkeypatch):
    command = ["features", "no weights", "--data", "no data", "--out"]
    assert main([*command, "f.xlsx"]) == 2
    assert ".csv or .parquet" in capsys.readouterr().err
    assert main([*command, "f.csv", "--patches"]) == 2
    assert "patch tokens do not fit into a CSV" in capsys.readouterr().err
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'pyarrow' is not installed"):
        forms.check_form(".parquet", patches=False)


def test_an_error_on_the_way_leaves_the_file_of_before(features, tmp_path, monkeypatch):
    from ibot.system.files import write_named

    file = tmp_path / "f.parquet"
    file.write_bytes(b"before")
    monkeypatch.setattr(files, "_lists", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_named(file, lambda path: write_features(path, ".parquet", features, ("a", "b")))
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet"]
    assert file.read_bytes() == b"before"
