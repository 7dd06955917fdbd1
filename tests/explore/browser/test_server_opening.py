"""What an explorer opens, what it refuses, and what becomes of it when files go."""

import base64
import json
import shutil

import numpy as np
import pytest
import torch
from explored import WORDS, add_checkpoint, client_of, drop, explorer_of, until_there, write_run
from random_weights import SWIN, VIT, write_random

from ibot.data.pixels import normalize
from ibot.errors import DataError, UserError
from ibot.eval.request import Request
from ibot.explore.browser import opening_words
from ibot.explore.browser.server import Explorer
from ibot.explore.browser.session import VIEWS, Session
from ibot.show.attention import attention_maps
from ibot.vocabulary.checkpoints import index_checkpoints


@pytest.fixture
def own_run(tmp_path, run):
    """A copy of the run and its index, to be changed."""
    return shutil.copytree(run, tmp_path / "run")


def available(client):
    views = client.get("/api/about").json()["views"]
    return [name for name in VIEWS if views[name]["available"]]


def test_a_small_set_is_indexed_first(tmp_path, images, capsys):
    run = write_run(tmp_path / "run", steps=(3,))
    client = client_of(explorer_of(run, images))
    assert client.get("/api/about").json()["words"] == WORDS
    assert "indexing 16 images first" in capsys.readouterr().err
    assert (run / "index" / "index.json").is_file()
    assert client.get("/api/words").json()["total"] > 0


def test_where_no_index_can_be_written_all_but_words_is_there(tmp_path, images, monkeypatch):
    run = write_run(tmp_path / "run", steps=(3,))
    monkeypatch.setattr(opening_words, "is_writable", lambda folder: False)
    client = client_of(explorer_of(run, images))
    assert available(client) == ["image", "compare", "map", "training"]
    why = client.get("/api/about").json()["views"]["words"]["why"]
    assert f"'{run / 'index'}'" in why and "--index" in why
    assert client.get("/api/image/9").status_code == 200
    assert client.get("/api/words").json()["why"] == why
    assert client.get("/api/patch?image=9&patch=2").status_code < 500


def test_of_many_images_the_command_is_named(tmp_path, images, monkeypatch):
    monkeypatch.setattr(opening_words, "MAX_FIRST", 15)
    run = write_run(tmp_path / "run", steps=(3,))
    with pytest.raises(UserError, match="the words of 16 images are not known") as refused:
        explorer_of(run, images)
    assert refused.value.fix == f"ibot index {run} --data {images}"


def test_without_a_head_all_but_words_is_there(tmp_path, images, weights):
    explorer = explorer_of(weights, images)
    explorer.session.request = Request(
        weights=str(weights), data=str(images), device="cpu", cache=str(tmp_path / "cache")
    )
    client = client_of(explorer)
    about = client.get("/api/about").json()
    assert not about["head"] and about["words"] is None
    assert "no projection head" in about["views"]["words"]["why"]
    assert available(client) == ["image", "compare", "map"]  # and no run
    shown = client.get("/api/image/9").json()
    assert shown["words"] is None and shown["scores"] == [] and shown["grid"] == [4, 4]
    assert client.get("/api/image/9/attention").status_code == 200
    assert client.get("/api/match?a=9&b=10").status_code == 200
    assert client.get("/api/words").status_code == 404
    answer = until_there(client, "/api/map?method=pca")
    assert answer.headers["x-count"] == "15"
    assert client.get("/api/map/about").json()["class_words"] is None


def test_without_a_class_token_the_attention_is_that_in_windows_and_said_so(tmp_path, images):
    file = write_random(tmp_path / "swin.safetensors", *SWIN, times=2)
    explorer = explorer_of(file, images, folder=tmp_path / "index")
    client = client_of(explorer)
    assert not client.get("/api/about").json()["class_attention"]
    answer = client.get("/api/image/9/attention").json()
    assert answer["source"] == "windows" and "no class token" in answer["told"]
    backbone = explorer.session.network(None).loaded.backbone
    view = explorer.session.view(None).render(explorer.session.images.read(9))
    pixels = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
    maps, _ = attention_maps(backbone, normalize(pixels, backbone.statistics))
    heads, grid = answer["heads"], answer["grid"]
    assert [heads, *grid] == list(maps.shape[1:])
    maps = maps[0].flatten(1).numpy()
    low, high = maps.min(axis=1, keepdims=True), maps.max(axis=1, keepdims=True)
    told = np.frombuffer(base64.b64decode(answer["maps"]), np.uint8).reshape(heads, -1)
    assert np.abs(told - 255 * (maps - low) / (high - low)).max() < 0.51
    assert client.get("/api/match?a=9&b=10").json()["saliency"] == []


def test_an_index_of_another_size_says_how_dropped_images_are_seen(own_run, images, tmp_path):
    request = Request(
        weights=str(own_run), data=str(images), size=48, device="cpu", out=str(tmp_path)
    )
    index_checkpoints(request, "newest", quiet=True)
    client = client_of(explorer_of(own_run, images, folder=tmp_path))
    stored = client.get("/api/image/9").json()
    assert stored["grid"] == [6, 6]
    own = drop(client, (images / stored["name"]).read_bytes()).json()
    assert own["words"] == stored["words"]
    assert client.get("/api/image/9/attention").json()["grid"] == [6, 6]


def test_an_index_of_other_images_is_refused(own_run, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data", symlinks=True)
    (data / "b" / "3.png").unlink()
    with pytest.raises(UserError, match="is of other images") as refused:
        explorer_of(own_run, data)
    assert f"16 under '{images}'" in refused.value.why and f"15 under '{data}'" in refused.value.why
    command = f"ibot index {own_run} --data {data} --checkpoints 2 --again"
    assert refused.value.fix == f"name another folder with --index, or replace it:  {command}"


def test_images_that_have_changed_since_are_said_to(own_run, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data", symlinks=True)
    explorer_of(own_run, data, folder=tmp_path / "index")
    shutil.copyfile(data / "b" / "3.png", data / "b" / "more.png")
    with pytest.raises(UserError, match="have changed since they were indexed") as refused:
        explorer_of(own_run, data, folder=tmp_path / "index")
    assert refused.value.why == "16 then, 17 now"
    made = f"ibot index {own_run} --data {data} --out {tmp_path / 'index'} --again"
    assert refused.value.fix == f"index them as they are now:  {made}"


def test_an_index_of_other_weights_is_refused(run, images, tmp_path):
    other = write_random(tmp_path / "other.safetensors", *VIT, times=7)
    with pytest.raises(UserError, match="is of other weights") as refused:
        explorer_of(other, images, folder=run / "index")
    assert "step 2, step 4" in refused.value.why
    request = Request(weights=str(run), data=str(images), device="cpu", key="student")
    explorer = Explorer(Session(request))
    explorer.open()
    assert "another of the networks" in str(explorer.error)
    assert explorer.session.state == "failed"


def test_an_older_index_of_a_run_with_residual_patches_is_refused(own_run, images, tmp_path):
    file = own_run / "index" / "index.json"
    plain = json.loads(file.read_text())
    del plain["words"]  # as before they were told apart
    file.write_text(json.dumps(plain))
    with pytest.raises(UserError, match="is of words of another kind") as refused:
        explorer_of(own_run, images)
    assert f"ibot index {own_run} --data {images}" in refused.value.fix
    alone = own_run / "checkpoints" / "step_00000004" / "teacher.safetensors"
    shutil.copy(alone, tmp_path / "file.safetensors")
    with pytest.raises(UserError, match="is of words of another kind"):
        explorer_of(tmp_path / "file.safetensors", images, folder=own_run / "index")


def test_a_checkpoint_that_is_named_is_the_newest(run, images):
    older = client_of(explorer_of(run / "checkpoints" / "step_00000002", images))
    assert [one["step"] for one in older.get("/api/about").json()["checkpoints"]] == [2]
    assert len(older.get("/api/words").json()["words"][0]["life"]) == 1
    newest = client_of(explorer_of(run, images))
    one, other = (client.get("/api/image/9").json()["scores"] for client in (older, newest))
    assert one != other and one == newest.get("/api/image/9?c=0").json()["scores"]


def test_a_checkpoint_that_is_not_indexed_is_refused(own_run, images):
    add_checkpoint(own_run, 6, 3)
    with pytest.raises(UserError, match="'step 6' is not in the index"):
        explorer_of(own_run / "checkpoints" / "step_00000006", images)


def test_weights_of_a_file_have_words_too(images, tmp_path):
    file = write_random(tmp_path / "net.safetensors", *VIT, times=4)
    client = client_of(explorer_of(file, images, folder=tmp_path / "index"))
    assert available(client) == ["words", "image", "compare", "map"]
    assert client.get("/api/patch?image=9&patch=2").json()["uses"] > 0
    again = client_of(explorer_of(file, images, folder=tmp_path / "index"))
    assert again.get("/api/words").json() == client.get("/api/words").json()


def test_a_folder_without_images_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="no images found"):
        explorer_of(run, tmp_path)


def test_a_run_without_checkpoint_shows_its_training(tmp_path, images):
    run = write_run(tmp_path / "run", steps=())
    for data in ("", images):
        client = client_of(explorer_of(run, data))
        assert available(client) == ["training"]
        about = client.get("/api/about").json()
        assert about["checkpoints"] == [] and "no checkpoint" in about["views"]["words"]["why"]
        assert client.get("/api/training").status_code == 200
        assert client.get("/api/words").status_code == 404
        assert client.get("/api/image/0").status_code == 404


def test_without_images_the_training_is_shown(run):
    client = client_of(explorer_of(run))
    assert available(client) == ["training"]
    about = client.get("/api/about").json()
    assert about["images"] is None and "--data" in about["views"]["map"]["why"]
    assert client.get("/api/images").status_code == 404


def test_a_newer_checkpoint_is_told_and_one_that_goes_leaves_its_words(own_run, images):
    add_checkpoint(own_run, 6, 3)
    client = client_of(explorer_of(own_run, images))
    about = client.get("/api/about").json()
    assert [one["step"] for one in about["checkpoints"]] == [2, 4]
    assert any("'step 6' is newer" in note for note in about["notes"])
    shutil.rmtree(own_run / "checkpoints" / "step_00000002")
    assert client.get("/api/image/9?c=0").status_code == 200
    assert client.get("/api/words?c=0").status_code == 200
    gone = client.get("/api/image/9/attention?c=0")
    assert gone.status_code == 410 and "no longer there" in gone.json()["error"]
    assert client.get("/api/image/9/attention?c=1").status_code == 200


def test_a_run_that_is_deleted_leaves_the_page_alive(own_run, images):
    client = client_of(explorer_of(own_run, images))
    assert client.get("/api/image/9/attention?c=1").status_code == 200
    shutil.rmtree(own_run)
    for path in ("words", "word/1", "image/9", "patch?image=9&patch=1", "map/about", "training"):
        answer = client.get(f"/api/{path}")
        assert answer.status_code < 500 and answer.json(), path
    assert client.get("/api/image/9/attention?c=0").json()["error"]
    assert client.get("/api/about").json()["state"] == "ready"
    assert client.get("/").status_code == 200


def test_an_image_that_is_deleted_is_a_gray_square(own_run, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data", symlinks=True)
    client = client_of(explorer_of(own_run, data, folder=tmp_path / "index"))
    (data / "b" / "3.png").unlink()
    names = {one["name"]: one["id"] for one in client.get("/api/images").json()["images"]}
    number = names["b/3.png"]
    assert client.get(f"/api/image/{number}/thumb.jpg").status_code == 200
    refused = client.get(f"/api/image/{number}")
    assert refused.status_code == 415 and "missing" in refused.json()["why"]


def test_before_everything_is_open_the_page_waits(run, images):
    client = client_of(Explorer(Session(Request(weights=str(run), data=str(images)))))
    about = client.get("/api/about").json()
    assert about["state"] == "loading" and about["why"]
    assert not any(view["available"] for view in about["views"].values())
    waiting = client.get("/api/words")
    assert waiting.status_code == 503 and waiting.json()["state"] == "loading"
