"""`ibot index`: what it says, does once, and refuses."""

import re
import shlex

import pytest
from commands import ibot_in_two
from indexed import write_pictures, write_run

from ibot.cli.main import main
from ibot.vocabulary.index import open_index


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("pictures"), 9)
    (folder / "cat" / "broken.png").write_text("no image")
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "my run", [3, 8])


def test_it_says_what_there_is_and_what_to_do_next(run, pictures, capsys):
    assert main(["index", str(run), "--data", str(pictures), "--checkpoints", "all"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[:2] == [
        "images:       9, 1 image cannot be read",
        "patches:      144, 4 x 4 an image",
    ]
    for line, step in zip(lines[2:4], (3, 8), strict=True):
        used = r"words in use: \d+ of 10 by patches, \d+ of 10 by class tokens"
        assert re.fullmatch(rf"{used} \(step {step}\)", line)
    assert re.fullmatch(rf"disk:         [\d.]+ MiB in {re.escape(str(run / 'index'))}", lines[4])
    assert re.fullmatch(r"time:         [\d.]+ s", lines[5])
    assert lines[6] == f"next:         ibot explore '{run}' --data {pictures}"
    assert printed.err.count("broken.png") == 1, "it is said once, not of each checkpoint"
    written = {path: path.stat().st_mtime_ns for path in (run / "index").rglob("*.np*")}
    assert main(["index", str(run), "--data", str(pictures), "--checkpoints", "2", "--quiet"]) == 0
    again = capsys.readouterr()
    assert again.out.splitlines()[:5] == lines[:5] and not again.err
    assert {path: path.stat().st_mtime_ns for path in (run / "index").rglob("*.np*")} == written


def test_another_folder_is_named_in_the_next_command(run, pictures, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    assert main(["index", str(run), "--data", str(pictures), "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"--data {pictures} --index {out}\n")
    assert [index.step for index in open_index(out).indexes] == [8]
    assert not (run / "index").exists()


def test_the_next_command_shows_what_was_indexed_word_by_word(run, pictures, tmp_path, capsys):
    out, page = tmp_path / "my index", tmp_path / "page.html"
    file = run / "checkpoints" / "step_00000003"
    options = ["--size", "48", "--out", str(out), "--device", "cpu", "--max-pixels", "5000"]
    assert main(["index", str(file), "--data", str(pictures), *options, "--quiet"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next:")
    program, *words = shlex.split(command)
    assert program == "ibot"
    assert main([*words, "--export", str(page), "--words", "1", "--quiet"]) == 0
    assert '"grid":[6,6]' in page.read_text()


def test_other_images_are_refused(run, pictures, tmp_path, capsys):
    assert main(["index", str(run), "--data", str(pictures), "--quiet"]) == 0
    others = write_pictures(tmp_path / "others", 2)
    assert main(["index", str(run), "--data", str(others)]) == 2
    said = capsys.readouterr().err
    assert "is of other images" in said and "10 under" in said and "--out" in said


def test_a_run_without_checkpoints_says_to_wait(pictures, tmp_path, capsys):
    run = write_run(tmp_path / "run", [])
    assert main(["index", str(run), "--data", str(pictures)]) == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err


def test_an_empty_folder_of_images_is_an_error(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["index", str(run), "--data", str(tmp_path / "empty")]) == 2
    assert "no images" in capsys.readouterr().err
    assert not (run / "index" / "index.json").exists()


def test_a_folder_that_cannot_be_made_is_named(run, pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "index"):
        assert main(["index", str(run), "--data", str(pictures), "--out", str(out), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert f"cannot be written into '{out}'" in said and "--out" in said
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("text", ["0", "some", "-1"])
def test_a_number_of_checkpoints_is_all_newest_or_positive(text, capsys):
    assert main(["index", "run", "--data", "x", "--checkpoints", text]) == 2
    assert "expected all, newest or a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.distributed
def test_two_processes_make_one_index(run, pictures, tmp_path):
    given = ("index", run, "--data", pictures, "--device", "cpu")
    first, second = ibot_in_two(*given, "--out", tmp_path / "two")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "images:       9" in first.stdout and not second.stdout
    assert main([*map(str, given), "--out", str(tmp_path / "one"), "--quiet"]) == 0
    one, two = (open_index(tmp_path / name).indexes[-1] for name in ("one", "two"))
    assert (one.words == two.words).all() and (one.compact == two.compact).all()


def test_fewer_checkpoints_than_wanted_are_said_to_be(run, pictures, capsys):
    assert main(["index", str(run), "--data", str(pictures), "--checkpoints", "8"]) == 0
    assert "note: the run has kept 2 checkpoints so far" in capsys.readouterr().err
    for which in ("2", "all", "newest"):
        assert main(["index", str(run), "--data", str(pictures), "--checkpoints", which]) == 0
        assert "has kept" not in capsys.readouterr().err
