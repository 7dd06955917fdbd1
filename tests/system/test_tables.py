"""Tables hold every name that a file may have."""

import csv
import os

import pytest

from ibot.system.tables import write_table


def test_odd_names_come_back_and_bytes_that_are_no_text_stay(tmp_path):
    names = ['a,"b"', "line\nend", "end\r", "<b>", "=1+1", "\U0001f600", os.fsdecode(b"\xff.png")]
    write_table(tmp_path / "a.csv", ("name", "number"), [(name, None) for name in names])
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "number"], *([name, ""] for name in names)]
    write_table(tmp_path / "b.csv", ("name",), [("\ud800",)])
    assert "\ufffd" in (tmp_path / "b.csv").read_text(encoding="utf-8")


def test_a_table_that_fails_leaves_the_one_that_was_there(tmp_path):
    write_table(tmp_path / "a.csv", ("name",), [("kept",)])

    def rows():
        yield ("new",)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / "a.csv", ("name",), rows())
    assert "kept" in (tmp_path / "a.csv").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
