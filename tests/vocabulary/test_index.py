"""Indexes: what stands in them, once, of these images and weights; and what refuses to be one."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from indexed import PATCHES, delete_checkpoint, opened_context, write_pictures, write_run
from random_weights import SWIN, VIT, write_random
from safetensors.torch import load_file, save_file

from ibot.data.pixels import normalize
from ibot.errors import DataError, ResourceError, RunError, UserError, WeightsError
from ibot.eval.features import entry
from ibot.eval.request import Request
from ibot.vocabulary import checkpoints, word_index
from ibot.vocabulary import index as module
from ibot.vocabulary.assign import Temperatures, assign
from ibot.vocabulary.checkpoints import index_checkpoints
from ibot.vocabulary.folder import default_folder
from ibot.vocabulary.index import build, open_index
from ibot.vocabulary.remedy import ABOUT
from ibot.vocabulary.tokenizer import tokenizer

IMAGES = 23


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), IMAGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, [2, 5, 9], "method.teacher_temp=0.05", "method.patch_temp=0.06")


@pytest.fixture(scope="module")
def indexed(run, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    request = Request(weights=str(run), data=str(pictures), out=str(folder))
    index_checkpoints(request, "all", quiet=True)
    return open_index(str(folder))  # text or Path, as everywhere


def tokens_of(context, rows=slice(None)):
    """Class tokens and patch tokens of images, all at once."""
    images = [context.view.render(context.images.read(i)) for i in range(len(context.images))]
    views = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[rows]
    with torch.inference_mode():
        output = context.loaded.backbone(normalize(views, context.loaded.backbone.statistics))
    return output.cls, output.patches


def test_an_index_holds_what_network_and_head_give(run, pictures, indexed, tmp_path):
    index = indexed.indexes[-1]
    with opened_context(run, pictures, tmp_path) as context:
        cls, patches = tokens_of(context)
        of_class, of_patches = assign(tokenizer(context), cls, patches, Temperatures(0.05, 0.06))
        assert index.weights_hash == context.weights_hash
        assert indexed.of(context.weights_hash) is index
        assert indexed.images == context.images.fingerprint()
        assert (indexed.root, indexed.shared.count) == (str(context.images.root), IMAGES)
        assert index.view == context.view and index.grid == (4, 4)
    assert (index.name, index.step, index.images_seen) == ("step 9", 9, 90)
    assert index.temperatures == Temperatures(cls=0.05, patch=0.06)
    assert index.index.tolist() == list(range(IMAGES)) and index.num_words == 10
    assert len(np.unique(index.words)) > 4
    np.testing.assert_array_equal(index.words, of_patches.word)
    np.testing.assert_array_equal(index.class_words, of_class.word)
    tables = {
        "scores": of_patches.score,
        "confidence": of_patches.confidence,
        "entropy": of_patches.entropy,
        "class_scores": of_class.score,
        "class_confidence": of_class.confidence,
        "class_entropy": of_class.entropy,
    }
    for name, want in tables.items():
        got = getattr(index, name)
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(index.cls, cls, rtol=1e-4, atol=1e-5)
    again = index.projection(patches).numpy().astype(int)
    assert index.compact.shape == (IMAGES, PATCHES, 24)
    assert np.abs(again - index.compact).max() <= 1  # sums in another order


def test_several_checkpoints_lie_in_order_and_are_about_the_same_images(indexed):
    assert [index.step for index in indexed.indexes] == [2, 5, 9]
    life = indexed.life(int(indexed.indexes[-1].words[0, 0]))
    assert life.uses.shape == (3,) and np.isnan(life.overlap[0]) and not np.isnan(life.overlap[2])


def test_occurrences_are_all_places_of_a_word_best_first(indexed):
    index = indexed.indexes[-1]
    for word in range(index.num_words):
        found = index.occurrences(word)
        rows, patches = np.nonzero(index.words == word)
        order = np.lexsort((patches, rows, -index.scores[rows, patches].astype(np.float32)))
        np.testing.assert_array_equal(found.row, rows[order])
        np.testing.assert_array_equal(found.patch, patches[order])
        np.testing.assert_array_equal(found.score, index.scores[found.row, found.patch])
        assert len(index.occurrences(word, limit=3).row) == min(3, len(rows))
        of_class = index.occurrences(word, "class")
        assert set(of_class.row) == set(np.flatnonzero(index.class_words == word))
    assert index.statistics().uses.sum() == index.words.size
    assert index.statistics("class").uses.sum() == IMAGES
    with pytest.raises(IndexError):
        index.occurrences(10)


def test_neighbours_are_the_nearest_prototypes(run, pictures, indexed, tmp_path):
    with opened_context(run, pictures, tmp_path) as context:
        rows = torch.nn.functional.normalize(tokenizer(context).patch_layer.weight_v, dim=1)
    cosine = (rows @ rows.T).fill_diagonal_(-2)
    words, values = indexed.indexes[-1].neighbours(4, 6)
    want = cosine[4].sort(descending=True)
    np.testing.assert_array_equal(words, want.indices[:6])
    np.testing.assert_allclose(values, want.values[:6], atol=1e-6)
    assert len(indexed.indexes[-1].neighbours(4, 99)[0]) == 9


@pytest.mark.parametrize("compared", [2**21, 0], ids=["all patches", "those of near words"])
def test_similar_patches_are_the_nearest_of_each_other_image(
    compared, run, pictures, indexed, tmp_path, monkeypatch
):
    monkeypatch.setattr(word_index, "COMPARED", compared)
    monkeypatch.setattr(word_index, "BLOCK", 100)
    index = indexed.indexes[-1]
    with opened_context(run, pictures, tmp_path) as context:
        unit = torch.nn.functional.normalize(tokens_of(context)[1], dim=-1)
    found = index.similar(3, 7, IMAGES)
    # All ten words are near enough, and 24 dimensions are all that tokens have.
    cosine = (unit @ unit[3, 7]).amax(dim=1)
    assert len(set(found.row)) == len(found.row) == IMAGES - 1 and 3 not in found.row
    np.testing.assert_allclose(found.score, cosine[found.row], atol=0.05)
    assert (np.diff(found.score) <= 0).all()
    got = (unit[found.row, found.patch] * unit[3, 7]).sum(-1)
    np.testing.assert_allclose(got, found.score, atol=0.05)
    assert len(index.similar(3, 7, 5).row) == 5


def test_a_finished_index_is_not_made_again(run, pictures, indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(module, "alone", lambda *_: pytest.fail("locked"))
    with opened_context(run, pictures, tmp_path) as context:
        assert build(context, indexed.folder).step == 9


def test_an_interrupted_pass_goes_on(run, pictures, indexed, tmp_path):
    class Stopped(Exception):
        pass

    def stops_after(limit):
        def show(done, total):
            if done >= limit:
                raise Stopped

        return lambda name: show

    done = []
    with opened_context(run, pictures, tmp_path) as context:
        context = replace(context, batch=4)
        with pytest.raises(Stopped):
            build(replace(context, counter=stops_after(12)), tmp_path / "index")
        with pytest.raises(DataError, match="whole"):
            open_index(tmp_path / "index")
        counting = replace(context, counter=lambda name: lambda now, total: done.append(now))
        index = build(counting, tmp_path / "index")
    assert done == [16, 20, 23], "12 images were there"
    np.testing.assert_array_equal(index.words, indexed.indexes[-1].words)


def test_sorting_that_is_interrupted_is_done_again(run, pictures, tmp_path, monkeypatch):
    with opened_context(run, pictures, tmp_path) as context:
        with monkeypatch.context() as patched:
            patched.setattr(module, "write_postings", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                build(context, tmp_path / "index")
        with pytest.raises(DataError):
            open_index(tmp_path / "index")
        index = build(context, tmp_path / "index")
    assert len(index.occurrences(int(index.words[0, 0])).row)


def test_rows_of_unreadable_images_are_missing(run, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    files = sorted((tmp_path / "data").rglob("*.png"))
    for number in (0, 7):
        files[number].write_text("no image")
    with opened_context(run, tmp_path / "data", tmp_path) as context:
        name = context.images.name(0)
        index = build(replace(context, counter=lambda name: None), tmp_path / "index")
        again = build(context, tmp_path / "index")
    assert index.index.tolist() == [i for i in range(IMAGES) if i not in (0, 7)]
    assert len(index.words) == IMAGES - 2 == len(again.words)
    assert index.row_of(0) is None and index.row_of(1) == 0 and index.row_of(22) == 20
    assert f"2 images cannot be read, the first: {name}" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["images", "weights", "view"])
def test_an_index_of_something_else_is_refused_and_kept(what, run, pictures, indexed, tmp_path):
    data, weights, size = pictures, run, 0
    if what == "images":
        data = write_pictures(tmp_path / "others", 3)
    elif what == "weights":
        weights = write_run(tmp_path / "other", [4], "train.seed=7")
    else:
        size = 48
    before = {path: path.stat().st_mtime_ns for path in indexed.folder.rglob("*.json")}
    with (
        opened_context(weights, data, tmp_path, size=size) as context,
        pytest.raises(UserError) as error,
    ):
        build(context, indexed.folder)
    words = {"images": "other images", "weights": "another training", "view": "another view"}
    assert words[what] in str(error.value) and "--out" in error.value.fix
    assert {path: path.stat().st_mtime_ns for path in indexed.folder.rglob("*.json")} == before


def test_a_file_of_somebody_else_is_kept(run, pictures, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.json").write_text('{"pages": 3}')
    with (
        opened_context(run, pictures, tmp_path) as context,
        pytest.raises(DataError, match="cannot be read"),
    ):
        build(context, tmp_path / "site")
    assert (tmp_path / "site" / "index.json").read_text() == '{"pages": 3}'


def test_a_run_that_was_moved_is_known_by_its_settings(run, pictures, indexed, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    with opened_context(tmp_path / "moved", pictures, tmp_path) as context:
        assert build(context, indexed.folder).step == 9


def test_weights_that_are_not_there_are_named(indexed):
    with pytest.raises(UserError, match="other weights") as error:
        indexed.of("0" * 64)
    assert "step 2, step 5, step 9" in error.value.why


def test_weights_without_a_head_say_what_remains(run, pictures, tmp_path):
    tensors = load_file(run / "checkpoints" / "step_00000009" / "teacher.safetensors")
    file = write_random(tmp_path / "whole.safetensors", *VIT)
    bare = {name: value for name, value in load_file(file).items() if "head" not in name}
    assert len(bare) < len(tensors)
    save_file(bare, tmp_path / "bare.safetensors")
    with (
        opened_context(tmp_path / "bare.safetensors", pictures, tmp_path, heads=3) as context,
        pytest.raises(WeightsError, match="no projection head") as error,
    ):
        build(context, tmp_path / "index")
    assert "attention, features, matches and the map" in error.value.why
    assert not (tmp_path / "index").exists()


def test_a_run_that_wrote_another_checkpoint_meanwhile_is_not_mixed(run, pictures, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    with opened_context(tmp_path / "run", pictures, tmp_path) as context:
        (tmp_path / "run" / "checkpoints" / "last").write_text("step_00000002\n")
        with pytest.raises(RunError, match="has changed"):
            build(context, tmp_path / "index")


@pytest.mark.parametrize("settings", [SWIN, (*VIT, "head.shared_teacher=false")])
def test_other_networks_have_words_too(settings, pictures, tmp_path):
    file = write_random(tmp_path / "other.safetensors", *settings)
    with opened_context(file, pictures, tmp_path) as context:
        index = build(context, tmp_path / "index")
        grid = context.loaded.backbone.token_grid(*context.view.size)
    assert index.name == "other.safetensors" and index.step is None
    assert index.words.shape == (IMAGES, grid[0] * grid[1])
    assert index.neighbours(0, 3, "class")[0].shape == (3,)
    separate = (index.folder / "class_prototypes.npy").is_file()
    assert separate == ("head.shared_teacher=false" in settings)


def test_checkpoints_are_chosen_with_the_newest_among_them(run):
    def steps(which):
        return [int(path.name[5:]) for path in checkpoints.chosen_checkpoints(run, which)]

    assert steps("newest") == steps("1") == [9]
    assert steps("2") == [2, 9] and steps("all") == steps("7") == [2, 5, 9]
    with pytest.raises(UserError, match="no run"):
        checkpoints.chosen_checkpoints(run / "checkpoints" / "step_00000002", "all")


def test_a_checkpoint_that_vanishes_is_passed_over(run, pictures, tmp_path, monkeypatch, caplog):
    shutil.copytree(run, tmp_path / "run")
    read = checkpoints._read

    def vanishing(path, context):
        if path.name.endswith("05"):
            delete_checkpoint(tmp_path / "run", 5)
        return read(path, context)

    monkeypatch.setattr(checkpoints, "_read", vanishing)
    request = Request(weights=str(tmp_path / "run"), data=str(pictures))
    done = index_checkpoints(request, "all", quiet=True)
    assert [index.step for index in done.indexes] == [2, 9]
    assert "step_00000005' is passed over" in caplog.text
    assert done.folder == tmp_path / "run" / "index"


def test_a_checkpoint_that_is_gone_stays_in_the_index(run, pictures, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    request = Request(weights=str(tmp_path / "run"), data=str(pictures))
    index_checkpoints(request, "2", quiet=True)
    delete_checkpoint(tmp_path / "run", 2)
    done = index_checkpoints(request, "all", quiet=True)
    assert [index.step for index in done.indexes] == [5, 9]
    assert [index.step for index in open_index(done.folder).indexes] == [2, 5, 9]


def test_the_index_lies_in_the_run_or_with_the_results(run, tmp_path):
    checkpoint = run / "checkpoints" / "step_00000002"
    last = run / "checkpoints" / "last"
    for weights in (run, checkpoint, last, checkpoint / "teacher.safetensors"):
        assert default_folder(weights) == run / "index"
    results = Path("results") / "file" / "index"
    assert default_folder(tmp_path / "file.pth") == results


def test_the_index_of_a_run_that_cannot_be_written_lies_with_the_results(
    run, indexed, tmp_path, monkeypatch
):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run and access(path, mode))
    results = Path("results") / "run" / "index"
    assert default_folder(run) == default_folder(run / "checkpoints" / "last") == results
    monkeypatch.undo()
    shutil.copytree(run, tmp_path / "own")
    shutil.copytree(indexed.folder, tmp_path / "own" / "index")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert default_folder(tmp_path / "own") == tmp_path / "own" / "index", "it is there to be read"


def test_a_damaged_index_is_named(indexed, tmp_path):
    shutil.copytree(indexed.folder, tmp_path / "index")
    place = next((tmp_path / "index").glob(f"*/{ABOUT}"))
    place.write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        open_index(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        open_index(tmp_path / "index")
    with pytest.raises(DataError, match="there is no index"):
        open_index(tmp_path)


@pytest.mark.parametrize("place", ["rows", "postings"])
def test_a_full_disk_is_told_with_what_to_do(place, run, pictures, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    if place == "rows":
        monkeypatch.setattr(entry, "allocate", full)
    else:
        monkeypatch.setattr(module, "write_postings", full)
    with (
        opened_context(run, pictures, tmp_path) as context,
        pytest.raises(ResourceError) as error,
    ):
        build(context, tmp_path / "index")
    assert "--out" in error.value.fix and "--cache" not in error.value.fix


def test_images_of_which_none_can_be_read_are_an_error_and_no_index(run, pictures, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text("no image")
    with (
        opened_context(run, tmp_path / "data", tmp_path) as context,
        pytest.raises(DataError, match="none of the images can be read"),
    ):
        build(context, tmp_path / "index")
    with pytest.raises(DataError, match="whole"):
        open_index(tmp_path / "index")
    with opened_context(run, pictures, tmp_path) as context:
        build(context, tmp_path / "index")  # the folder is free for others
    assert open_index(tmp_path / "index").shared.count == IMAGES
