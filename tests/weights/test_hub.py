"""Weights of the Hugging Face hub and of timm: from the library's cache, and from a server that
answers as the hub does.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from served import served

from ibot.config.schema import ModelConfig
from ibot.errors import UserError, WeightsError
from ibot.models.backbone import build_backbone
from ibot.weights import hub
from ibot.weights.hub import from_hub_named
from ibot.weights.named import located
from ibot.weights.origin import origin
from ibot.weights.read import load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def constants(tmp_path, monkeypatch):
    """Those of the library, which reads its variables once: an empty cache, and no network."""
    found = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(found, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(found, "HF_HUB_OFFLINE", True)
    hub.from_hub.cache_clear()
    yield found
    hub.from_hub.cache_clear()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_backbone(ModelConfig(width=64, depth=2, heads=1, patch=8), (32, 32))


def in_cache(constants, repository, revision="main", commit=COMMIT):
    """The folder of a revision, as the library lays it out."""
    base = constants.HF_HUB_CACHE
    place = hub.Path(base) / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    return place / "snapshots" / commit


def same(loaded, network):
    own = dict(loaded.backbone.named_parameters())
    return all(
        torch.equal(own[name], tensor)
        for name, tensor in network.state_dict().items()
        if name != "masked_embed"
    )


def test_a_repository_in_the_cache_is_read_offline(constants, network):
    folder = in_cache(constants, "me/net")
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    assert same(load("hf:me/net"), network)
    assert located("hf:me/net") == folder / "model.safetensors"
    assert load(f"hf:me/net@{COMMIT}").report.missing == []


def test_a_timm_name_gives_the_tokens_of_timm(constants):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    theirs = timm.create_model(name, pretrained=False, depth=2, num_classes=0).eval()
    timm.models._hub.save_for_hf(theirs, in_cache(constants, f"timm/{name}"))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = theirs.forward_features(images)
        for given in (f"timm:{name}", "timm:vit_tiny_patch16_224", f"timm:hf-hub:timm/{name}"):
            loaded = load(given)
            got = loaded.backbone(images)
            assert (got.cls - wanted[:, 0]).abs().max() < 1e-4, given
    assert loaded.config.mean == (0.5, 0.5, 0.5)  # as timm says of this model


def test_a_wrong_name_of_timm_gets_the_nearest_ones(constants):
    pytest.importorskip("timm")
    for name in ("vit_small_patch16_224.dinno", "vit_smal_patch16_224.dino"):
        with pytest.raises(WeightsError) as error:
            located(f"timm:{name}")
        assert "timm:vit_small_patch16_224.dino" in error.value.fix


def test_offline_the_error_says_what_to_copy_where(constants):
    with pytest.raises(UserError) as error:
        load("hf:owkin/phikon")
    place = hub.Path(constants.HF_HUB_CACHE) / "models--owkin--phikon"
    assert "HF_HUB_OFFLINE" in error.value.why
    assert f"hf download owkin/phikon; then copy {place.name}" in error.value.fix
    assert f"to '{place}'" in error.value.fix and "\n" not in error.value.fix


@pytest.mark.parametrize(
    "name", ["phikon", "a/../b", "/a/b", "a/", "a/b/../c", "a/b@/", "a/b@../..", "a/b@", ""]
)
def test_what_is_no_repository_is_told_at_once(name):
    with pytest.raises(WeightsError, match="names no repository"):
        from_hub_named(name)


def test_several_files_must_be_chosen_from(constants, network):
    folder = in_cache(constants, "me/net")
    (folder / "old").mkdir()
    for name in ("vits.pth", "old/vits.pth"):
        torch.save(network.state_dict(), folder / name)
    with pytest.raises(WeightsError) as error:
        load("hf:me/net")
    assert "2 files of weights" in error.value.what and "hf:me/net/old/vits.pth" in error.value.fix
    assert same(load("hf:me/net/old/vits.pth"), network)
    with pytest.raises(WeightsError, match="is not there"):
        load("hf:me/net/new.pth")


def test_one_safetensors_file_is_taken_before_pickles_and_shards_as_one(constants, network):
    folder = in_cache(constants, "me/net")
    tensors = network.state_dict()
    (folder / "net.pth").write_bytes(b"never looked at")
    save_file(tensors, folder / "net.safetensors")
    assert located("hf:me/net").name == "net.safetensors"
    folder = in_cache(constants, "me/shards")
    halves = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    names = {}
    for i, half in enumerate(halves, 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file(half, folder / file)
        names |= dict.fromkeys(half, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert same(load("hf:me/shards"), network)
    before = origin("hf:me/shards")
    whole = sum(file.stat().st_size for file in folder.iterdir())
    assert (before["name"], before["bytes"]) == ("hf:me/shards", whole)
    save_file({name: t + 1 for name, t in halves[1].items()}, folder / file)
    after = origin("hf:me/shards")
    assert after["file"] == before["file"] and after["sha256"] != before["sha256"]


@pytest.fixture
def server(constants, monkeypatch, network, tmp_path):
    """A hub with the repository me/net."""
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    files = {
        "model.safetensors": (tmp_path / "w.safetensors").read_bytes(),
        "pytorch_model.bin": b"never looked at",
        "config.json": b"{}",
    }
    with served() as held:
        monkeypatch.setattr(constants, "ENDPOINT", held.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            held.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        serve_repository(held, "me/net", files)
        yield held


def serve_repository(held, repository, files):
    """What the hub answers about a repository, and its files."""
    held.tag = None
    about = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        for name, content in files.items()
    ]
    api = f"/api/models/{repository}"
    held.files[f"{api}/revision/main"] = json.dumps(about).encode()
    held.files[f"{api}/tree/{COMMIT}"] = json.dumps(tree).encode()
    for path in list(held.files):
        held.headers[path] = {"Content-Type": "application/json"}
    for name, content in files.items():
        path = f"/{repository}/resolve/{COMMIT}/{name}"
        held.files[path] = content
        held.headers[path] = {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": COMMIT}


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_the_hub_is_asked_and_the_library_keeps_what_it_gives(server, constants, network, caplog):
    assert same(load("hf:me/net"), network)
    got = {path.rpartition("/")[2] for path, _ in server.asked if "/resolve/" in path}
    assert got == {"model.safetensors", "config.json"}, "no pickle beside safetensors"
    server.asked.clear()
    hub.from_hub.cache_clear()
    assert same(load("hf:me/net"), network)
    assert [path for path, _ in server.asked if "/models/" not in path] == [], "it is here"
    hub.from_hub.cache_clear()
    constants.ENDPOINT = "http://127.0.0.1:9"  # nobody answers there
    assert same(load("hf:me/net"), network)
    assert "the copy in the cache is used" in caplog.text


def test_a_repository_without_weights_says_what_it_holds(server):
    serve_repository(server, "me/data", {"README.md": b"hello"})
    with pytest.raises(WeightsError) as error:
        load("hf:me/data")
    assert "holds no weights" in error.value.what and "README.md" in error.value.why


def test_a_download_that_ends_too_early_is_told_and_not_taken_for_an_empty_repository(
    server, network
):
    path = f"/me/net/resolve/{COMMIT}/model.safetensors"
    content = server.files.pop(path)
    with pytest.raises(UserError) as error:
        load("hf:me/net")
    assert "is not on this machine" in error.value.what
    server.files[path] = content
    assert same(load("hf:me/net"), network)


def test_an_unknown_repository_and_revision_are_told(server, constants, network):
    server.headers["/api/models/me/nett/revision/main"] = {"X-Error-Code": "RepoNotFound"}
    server.headers["/api/models/me/net/revision/v9"] = {"X-Error-Code": "RevisionNotFound"}
    load("hf:me/net")
    with pytest.raises(WeightsError, match="no repository 'me/nett'") as error:
        load("hf:me/nett")
    assert "did you mean hf:me/net," in error.value.fix
    with pytest.raises(WeightsError, match="no revision 'v9'"):
        load("hf:me/net@v9")
    server.headers["/api/models/me/gated/revision/main"] = {"X-Error-Code": "GatedRepo"}
    with pytest.raises(WeightsError, match="accept its terms") as error:
        load("hf:me/gated")
    assert "hf auth login" in error.value.fix


@pytest.mark.slow
def test_the_library_s_variables_hold_in_a_process_of_its_own(server, tmp_path):
    def inspect(**variables):
        words = [sys.executable, "-m", "ibot", "weights", "inspect", "hf:me/net"]
        given = {**os.environ, "HF_HOME": str(tmp_path / "home"), **variables}
        return subprocess.run(words, env=given, capture_output=True, text=True, timeout=100)

    first = inspect(HF_ENDPOINT=server.address)
    assert first.returncode == 0 and str(tmp_path / "home" / "hub") in first.stdout
    asked = len(server.asked)
    assert inspect(HF_ENDPOINT=server.address, HF_HUB_OFFLINE="1").stdout == first.stdout
    assert len(server.asked) == asked
    refused = inspect(HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="1")
    assert refused.returncode == 2 and str(tmp_path / "empty" / "hub") in refused.stderr
