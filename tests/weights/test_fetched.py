"""The published weights by name: from a server of the same folders, each as it first came."""

import json
import os

import pytest
import torch
from served import served

from ibot.errors import UserError, WeightsError
from ibot.recipes.offers import offers
from ibot.system import download
from ibot.weights.files import locate
from ibot.weights.named import located
from ibot.weights.published import FOLDERS, PublishedFile, published_files
from ibot.weights.read import load, load_backbone, load_both

STUDENT = "/vitb_16_pt22k/checkpoint_student.pth"


@pytest.fixture
def server(tmp_path, monkeypatch, golden):
    """Small published files under the names of large ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "WAIT", 0.0)
    with served() as held:
        monkeypatch.setenv("IBOT_WEIGHTS_MIRROR", held.address)
        held.files = {
            "/vits_16/checkpoint_teacher.pth": (golden / "backbone_teacher.pth").read_bytes(),
            "/vits_16/checkpoint.pth": (golden / "published_checkpoint.pth").read_bytes(),
            "/swint_7/checkpoint_teacher.pth": (golden / "backbone_teacher_swin.pth").read_bytes(),
            STUDENT: (golden / "backbone_student.pth").read_bytes(),
        }
        yield held


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ibot:vit_s16", "backbone_teacher.pth"),
        ("ibot:vit_s16-full", "published_checkpoint.pth"),
        ("ibot:swin_t7", "backbone_teacher_swin.pth"),
        ("ibot:vit_b16_in22k", "backbone_student.pth"),
    ],
)
def test_a_name_gives_the_network_of_its_file(server, golden, tmp_path, name, same):
    got, wanted = load_backbone(name), load_backbone(golden / same)
    for (key, p), (other, q) in zip(got.named_parameters(), wanted.named_parameters(), strict=True):
        assert key == other and torch.equal(p, q)
    assert locate(name, "teacher").is_relative_to(tmp_path / "cache" / "ibot" / "weights")
    load_both(name)
    assert len(server.asked) == 1, "the second time it is here"


def test_every_recipe_has_the_published_address(monkeypatch):
    monkeypatch.delenv("IBOT_WEIGHTS_MIRROR", raising=False)
    files = {file.name: file.address for file in published_files()}
    base = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/"
    assert files["vit_l16_rand"] == f"{base}vitl_16_rand_mask/checkpoint_teacher.pth"
    assert files["vit_l16_in22k"] == f"{base}vitl_16_pt22k/checkpoint_student.pth"
    assert PublishedFile("swin_t14-full").address == f"{base}swint_14/checkpoint.pth"
    assert len({*files.values()}) == len(FOLDERS) == 9


def test_sizes_are_calculated_from_parameters_and_names_can_be_given(server):
    first, *rest = offers()
    assert (first.name, first.called, first.knn) == ("ibot:vit_s16", "ViT-S/16", 75.2)
    assert first.bytes_calculated == 4 * first.parameters and not first.is_here
    assert str(located(first.name)) == first.file and offers()[0].is_here
    assert [offer.name for offer in rest if offer.key == "student"] == [
        "ibot:vit_b16_in22k",
        "ibot:vit_l16_in22k",
    ]


def test_a_wrong_name_gets_the_nearest_ones(server):
    with pytest.raises(WeightsError) as error:
        load("ibot:vit_b16_22k")
    assert "did you mean ibot:vit_b16_in22k" in error.value.fix and not server.asked


def test_a_name_without_its_beginning_is_understood(server):
    for path, meant in [
        ("vit_s16", "ibot:vit_s16"),
        ("swin_t7-full", "ibot:swin_t7-full"),
        ("owkin/phikon", "hf:owkin/phikon"),
        ("vit_small_patch16_224.dino", "timm:vit_small_patch16_224.dino"),
    ]:
        with pytest.raises(WeightsError) as error:
            load(path)
        assert meant in error.value.fix


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><title>Please log in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"", "empty"),
        (b"what is this", "neither a zip archive nor a pickle"),
    ],
)
def test_what_is_no_weights_is_not_kept(server, tmp_path, content, words):
    server.files[STUDENT] = content
    with pytest.raises(WeightsError) as error:
        load("ibot:vit_b16_in22k")
    assert words in error.value.why
    file = PublishedFile("vit_b16_in22k").file
    assert file.is_relative_to(tmp_path) and not file.exists() and str(file) in error.value.fix


def test_a_file_that_was_published_cut_short_is_told_and_not_kept(server):
    server.files[STUDENT] = server.files[STUDENT][:-1000]
    with pytest.raises(WeightsError, match="cut short"):
        load("ibot:vit_b16_in22k")
    assert not PublishedFile("vit_b16_in22k").file.exists()


def test_a_connection_that_ends_too_early_leaves_no_file_and_is_gone_on_with(server):
    whole = len(server.files[STUDENT])
    server.cuts = [10_000, *[0] * download.TRIES]
    with pytest.raises(UserError, match="cannot be downloaded"):
        load("ibot:vit_b16_in22k")
    file = PublishedFile("vit_b16_in22k").file
    assert not file.exists()
    load("ibot:vit_b16_in22k")
    assert file.stat().st_size == whole and server.asked[-1] == (STUDENT, "bytes=10000-")


def test_another_file_than_the_first_is_refused_when_it_comes_and_when_it_lies_there(
    server, golden
):
    model = PublishedFile("vit_b16_in22k")
    located("ibot:vit_b16_in22k")
    first = json.loads(model.pin.read_text())
    assert first["bytes"] == model.file.stat().st_size and first["address"] == model.address
    model.file.unlink()
    server.files[STUDENT] = (golden / "backbone_teacher.pth").read_bytes()
    with pytest.raises(WeightsError, match="another file than before") as error:
        located("ibot:vit_b16_in22k")
    assert first["sha256"][:16] in error.value.why and str(model.pin) in error.value.fix
    assert not model.file.exists()
    model.file.write_bytes(server.files[STUDENT])  # copied there by hand
    with pytest.raises(WeightsError, match="another file than before"):
        located("ibot:vit_b16_in22k")
    model.pin.unlink()
    assert located("ibot:vit_b16_in22k") == model.file
    assert json.loads(model.pin.read_text())["sha256"] != first["sha256"]


def test_a_file_that_was_touched_is_still_the_same(server):
    model = PublishedFile("vit_b16_in22k")
    os.utime(located("ibot:vit_b16_in22k"), (1, 1))
    before = json.loads(model.pin.read_text())
    assert located("ibot:vit_b16_in22k") == model.file
    after = json.loads(model.pin.read_text())
    assert after["time"] == 10**9 and {**before, "time": 0} == {**after, "time": 0}


def test_a_file_copied_by_hand_needs_no_network(monkeypatch, tmp_path, golden):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with served() as gone:
        pass
    monkeypatch.setenv("IBOT_WEIGHTS_MIRROR", gone.address)
    with pytest.raises(UserError) as error:
        load("ibot:vit_s16")
    place = tmp_path / "ibot" / "weights" / "vits_16" / "checkpoint_teacher.pth"
    assert f"copy the file to '{place}'" in error.value.fix
    place.write_bytes((golden / "backbone_teacher.pth").read_bytes())
    assert load("ibot:vit_s16").report.missing == []


def test_a_folder_is_a_mirror(monkeypatch, tmp_path, golden):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IBOT_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "vits_16").mkdir(parents=True)
    copied = tmp_path / "mirror" / "vits_16" / "checkpoint_teacher.pth"
    copied.write_bytes((golden / "backbone_teacher.pth").read_bytes())
    assert located("ibot:vit_s16").read_bytes() == copied.read_bytes()
