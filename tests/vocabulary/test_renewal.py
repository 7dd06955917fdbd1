"""An index of other images gives its place to another when told to; nothing else is deleted."""

import json
import shutil

import numpy as np
import pytest
from indexed import delete_checkpoint, write_pictures, write_run

from ibot.cli.main import main
from ibot.errors import DataError
from ibot.eval.request import Request
from ibot.vocabulary import index as module
from ibot.vocabulary.checkpoints import index_checkpoints
from ibot.vocabulary.folder import RESIDUAL, WHOLE
from ibot.vocabulary.index import open_index
from ibot.vocabulary.remedy import Remedy


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "my pictures", 5)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [3, 8])


def index(run, pictures, *more):
    return main(["index", str(run), "--data", str(pictures), "--device", "cpu", *more])


def test_the_command_that_is_named_replaces_an_index_of_images_that_have_changed(
    run, pictures, capsys
):
    assert index(run, pictures, "--checkpoints", "all") == 0
    first = [one.name for one in (run / "index").iterdir()]
    (run / "index" / "mine").mkdir()
    (run / "index" / "mine" / "rows.npy").write_text("")
    (run / "index" / "notes.txt").write_text("mine")
    features = len([*(run / "index" / "features").glob("*/rows.npy")])
    (pictures / "cat" / "000.png").unlink()
    capsys.readouterr()
    commands = set()
    for picture in (["index"], ["show", "patterns"]):
        assert main([*picture, str(run), "--data", str(pictures), "--quiet"]) == 2
        told = capsys.readouterr().err
        assert f"images under '{pictures}' have changed since they were indexed" in told
        assert "why:  5 then, 4 now" in told
        commands.add(told.partition("they are now:  ")[2].strip())
    wanted = f"ibot index {run} --data '{pictures}' --checkpoints 2 --again"
    assert commands == {wanted}
    assert index(run, pictures, "--checkpoints", "2", "--again") == 0
    assert "is replaced: it was of 5 images" in capsys.readouterr().err
    vocabulary = open_index(run / "index")
    assert [len(one.words) for one in vocabulary.indexes] == [4, 4]
    assert len([*(run / "index" / "features").glob("*/rows.npy")]) == features
    assert (run / "index" / "notes.txt").is_file() and (run / "index" / "mine").is_dir()
    assert {one.name for one in (run / "index").iterdir()} == {*first, "mine", "notes.txt"}


def test_a_replacement_that_was_stopped_goes_on(run, pictures, monkeypatch):
    request = Request(weights=str(run), data=str(pictures), device="cpu")
    index_checkpoints(request, "all", quiet=True)
    (pictures / "cat" / "000.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_postings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index_checkpoints(request, "all", again=True, quiet=True)
    written = {file: file.stat().st_mtime_ns for file in (run / "index").rglob("rows.npy")}
    assert written
    done = index_checkpoints(request, "all", again=True, quiet=True)
    assert [one.step for one in done.indexes] == [3, 8]
    assert all(file.stat().st_mtime_ns == time for file, time in written.items())


def test_what_fits_stays_with_checkpoints_that_the_run_has_deleted(run, pictures):
    request = Request(weights=str(run), data=str(pictures), device="cpu")
    index_checkpoints(request, "all", quiet=True)
    delete_checkpoint(run, 3)
    index_checkpoints(request, "all", again=True, quiet=True)
    assert [one.step for one in open_index(run / "index").indexes] == [3, 8]


def test_an_older_index_of_a_run_with_residual_patches_is_replaced_not_mixed(run, pictures, capsys):
    """Older versions took words of whole patches there, and do not say so."""
    assert index(run, pictures, "--quiet") == 0
    file = run / "index" / "index.json"
    plain = json.loads(file.read_text())
    assert plain.pop("words") == RESIDUAL
    file.write_text(json.dumps(plain))
    capsys.readouterr()
    assert index(run, pictures, "--quiet") == 2
    said = capsys.readouterr().err
    assert "is of words of another kind" in said and WHOLE in said and "--again" in said
    assert index(run, pictures, "--again", "--quiet") == 0
    assert open_index(run / "index").shared.words == RESIDUAL


@pytest.mark.parametrize("what", ["version", "checkpoint", "rows"])
def test_an_index_that_cannot_be_read_is_made_again(what, run, pictures, capsys):
    assert index(run, pictures, "--quiet") == 0
    words = np.array(open_index(run / "index").indexes[0].words)
    if what == "version":
        file = run / "index" / "index.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 1}))
    elif what == "checkpoint":
        next((run / "index").glob("*/patch_statistics.npz")).with_name("about.json").write_text("{")
    else:
        for rows in (run / "index" / "features").glob("*/rows.npy"):
            rows.write_bytes(b"")
    capsys.readouterr()
    assert index(run, pictures, "--quiet") == 2
    assert f"ibot index {run} --data '{pictures}' --again" in capsys.readouterr().err
    assert index(run, pictures, "--again", "--quiet") == 0
    np.testing.assert_array_equal(open_index(run / "index").indexes[0].words, words)


def test_what_is_no_index_of_ours_is_not_deleted(run, pictures, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.json").write_text('{"pages": 3}')
    request = Request(weights=str(run), data=str(pictures), out=str(site), device="cpu")
    with pytest.raises(DataError, match="no index of words"):
        index_checkpoints(request, again=True, quiet=True)
    assert (site / "index.json").read_text() == '{"pages": 3}'


def test_rows_of_other_images_in_a_shared_cache_stay(run, pictures, tmp_path):
    request = Request(weights=str(run), data=str(pictures), device="cpu")
    index_checkpoints(request, quiet=True)
    entry = next((run / "index" / "features").glob("*/about.json")).parent
    about = json.loads((entry / "about.json").read_text()) | {"images": "0" * 64}
    from ibot.eval.features.entry import name_of

    other = shutil.copytree(entry, entry.with_name(name_of(about)))
    (other / "about.json").write_text(json.dumps(about))
    (pictures / "cat" / "000.png").unlink()
    index_checkpoints(request, again=True, quiet=True)
    assert other.is_dir() and not entry.is_dir()


def test_the_command_has_what_the_user_named(tmp_path):
    request = Request(weights="a b.pth", data="x", size=48, key="student", allow_partial=True)
    remedy = Remedy(request, "my index", "--index")
    made = "ibot index 'a b.pth' --data x --out 'my index' --key student --size 48 --allow-partial"
    assert remedy.make == made and remedy.renew(tmp_path) == f"{made} --again"
    assert remedy.instead(tmp_path).startswith("name another folder with --index, or ")
