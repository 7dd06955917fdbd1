"""Features on disk: as the network gives them, once, for no other weights, images or views."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import start_script
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.decode import UnreadableImage, decode
from ibot.data.pixels import evaluation_view, normalize
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.files import FileImages
from ibot.data.sets.scan import scan
from ibot.errors import DataError, ResourceError, UserError, WeightsError
from ibot.eval.features import cache, entry
from ibot.eval.features.cache import cached_features, weights_hash
from ibot.eval.features.rows import rows_of
from ibot.eval.features.tokens import Feature, compute, extract_features, pooled, probe_feature
from ibot.eval.features.views import View
from ibot.models.backbone import build_backbone
from ibot.types import TokenOutput
from ibot.weights.read import KeyReport, Loaded

MODES = [Feature(1, 0), Feature(2, 0), Feature(1, 1), Feature(1, 2)]
VIEW = View((32, 32))
CONFIG = ModelConfig(width=24, depth=3, heads=2, patch=8)
OLD_HASH = "f7939793f35b0b7f72e717db6dd5483b19a6bee9d81c767bcf244207ee65fbe6"

RUN = """
import sys
from pathlib import Path
import numpy as np
import torch
from ibot.config.schema import ModelConfig
from ibot.data.sets.arrays import ArrayImages
from ibot.eval.features import cache, entry
from ibot.eval.features.tokens import Feature, compute
from ibot.eval.features.views import View
from ibot.models.backbone import build_backbone

role, folder = sys.argv[1], Path(sys.argv[2])
torch.manual_seed(0)
backbone = build_backbone(ModelConfig(width=24, depth=1, heads=2, patch=16), (32, 32)).eval()
pixels = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), np.uint8)
images = ArrayImages(Path("none"), "val", pixels, np.zeros(2000, np.int32), ("any",))
computed = 0
def counting(network, batch, features):
    global computed
    if len(batch) > 1:
        if role == "first" and not computed:
            print("begun", flush=True)
            (folder / "go").read_text()
        computed += len(batch)
    return compute(network, batch, features)
cache.compute = counting
kinds = cache.cached_features(backbone, "weights", images, View((32, 32)), [Feature()],
                              folder / "cache")
features = kinds[Feature()]
print(computed, float(features.rows.double().sum()), flush=True)
"""
"""Features of 2000 images, 192 kB; the first of two runs stops before its first batch until
somebody writes into the pipe `go`."""


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Loaded(build_backbone(CONFIG, (32, 32)).eval(), CONFIG, (32, 32), KeyReport())


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(0, 256, (40 + i, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    return tmp_path / "data"


def features_of(network, folder, cache_dir, features=tuple(MODES), view=VIEW, **kwargs):
    return cached_features(
        network.backbone,
        weights_hash(network),
        open_folder(folder),
        view,
        features,
        cache_dir,
        batch=5,
        **kwargs,
    )


def test_the_published_modes_are_reproduced(golden):
    arrays = np.load(golden / "evaluation.npz")
    blocks = [
        TokenOutput(tokens[:, 0], tokens[:, 1:], (3, 3))
        for tokens in (torch.from_numpy(arrays[f"features/block{i}"]).double() for i in (1, 2))
    ]
    seen = 0
    for name in arrays.files:
        if name.startswith("features/n"):
            count, mode = (int(part) for part in name.removeprefix("features/n").split("_avgpool"))
            got = pooled(blocks, blocks[-1], Feature(count, mode))
            np.testing.assert_allclose(
                got.numpy(), arrays[name], rtol=1e-6, atol=1e-7, err_msg=name
            )
            seen += 1
    assert seen >= 4


def test_rows_are_what_the_network_gives_for_each_mode(network, images, tmp_path):
    sets = features_of(network, images, tmp_path / "cache")
    source = open_folder(images)
    views = torch.from_numpy(np.stack([VIEW.render(source.read(i)) for i in range(12)])).permute(
        0, 3, 1, 2
    )
    with torch.no_grad():
        layers = network.backbone.last_layers(normalize(views), 2)
        raw = network.backbone.last_layers(normalize(views), 1, norm=False)[0]
    want = {
        MODES[0]: layers[-1].cls,
        MODES[1]: torch.cat([layers[0].cls, layers[1].cls], 1),
        MODES[2]: raw.patches.mean(1),
        MODES[3]: torch.cat([layers[-1].cls, layers[-1].patches.mean(1)], 1),
    }
    for feature, rows in want.items():
        torch.testing.assert_close(sets[feature].rows, rows, rtol=1e-4, atol=1e-5)
        assert not sets[feature].cached and sets[feature].index.tolist() == list(range(12))


def test_the_second_reading_computes_nothing(network, images, tmp_path, monkeypatch):
    first = features_of(network, images, tmp_path / "cache")
    monkeypatch.setattr(cache, "compute", lambda *_: pytest.fail("the network ran again"))
    second = features_of(network, images, tmp_path / "cache")
    for feature in MODES:
        assert second[feature].cached and torch.equal(first[feature].rows, second[feature].rows)


def test_other_weights_images_views_and_modes_never_meet_old_features(network, images, tmp_path):
    folder = tmp_path / "cache"
    plain = (MODES[0],)
    first = features_of(network, images, folder, plain)[MODES[0]].rows.clone()
    with torch.no_grad():
        network.backbone.pos_embed[0, 0, 0] += 1e-3
    changed = features_of(network, images, folder, plain)[MODES[0]]
    assert not changed.cached and not torch.equal(changed.rows, first)
    assert not features_of(network, images, folder, plain, View((32, 32), "squash"))[
        MODES[0]
    ].cached
    assert not features_of(network, images, folder, plain, View((32, 32), keep=False))[
        MODES[0]
    ].cached
    assert not features_of(network, images, folder, (MODES[1],))[MODES[1]].cached
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(images / "cat" / "0.png")
    again = features_of(network, images, folder, plain)[MODES[0]]
    assert not again.cached and not torch.equal(again.rows[0], changed.rows[0])
    assert len(list(folder.glob("*/about.json"))) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 3},
        {"norm_eps": 1e-5},
        {"pos_interp": "exact"},
        {"mean_pooling": True},
        {"registers": 1},
    ],
)
def test_settings_that_no_tensor_shows_are_part_of_the_hash(network, changes):
    assert weights_hash(replace(network, config=replace(CONFIG, **changes))) != weights_hash(
        network
    )


def test_settings_that_came_later_are_part_of_the_hash_only_where_they_are_set(network):
    with torch.no_grad():
        for tensor in network.backbone.parameters():
            tensor.fill_(0.5)
    # What this network was called before networks had an activation and statistics of their own.
    assert weights_hash(network) == OLD_HASH
    other = {
        weights_hash(replace(network, config=replace(CONFIG, **changes)))
        for changes in ({}, {"act": "relu"}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)})
    }
    assert len(other) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_outputs_that_are_not_finite_never_become_features(network, images, tmp_path, value):
    with torch.no_grad():
        network.backbone.blocks[0].mlp.fc2.bias[:4] = value
        network.backbone.blocks[0].mlp.fc2.weight[:4] = value
    with pytest.raises(WeightsError, match="outputs are not finite"):
        features_of(network, images, tmp_path / "cache")
    source = scan(images)
    with pytest.raises(WeightsError, match="outputs are not finite"):
        extract_features(network.backbone, source, size=(32, 32))


def test_images_are_normalised_by_the_networks_own_mean_and_deviation(network, images, tmp_path):
    config = replace(CONFIG, mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    other = replace(network, config=config, backbone=build_backbone(config, (32, 32)).eval())
    other.backbone.load_state_dict(network.backbone.state_dict())
    found = features_of(other, images, tmp_path, (MODES[0],))[MODES[0]]
    assert not features_of(network, images, tmp_path, (MODES[0],))[MODES[0]].cached
    direct = extract_features(other.backbone, scan(images), size=(32, 32)).cls
    torch.testing.assert_close(found.rows, direct)
    levels = (
        torch.from_numpy(VIEW.render(decode(str(images / "cat" / "0.png"))).copy()).permute(2, 0, 1)
        / 255
    )
    view = (levels - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[
        :, None, None
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            found.rows[0], other.backbone(view[None]).cls[0], atol=1e-5, rtol=1e-5
        )


def test_the_size_for_which_a_network_was_built_is_part_of_its_hash(network):
    assert weights_hash(replace(network, size=(48, 48))) != weights_hash(network)
    copied = replace(network, backbone=build_backbone(CONFIG, (32, 32)))
    copied.backbone.load_state_dict(network.backbone.state_dict())
    assert weights_hash(copied) == weights_hash(network)


def test_an_interrupted_pass_goes_on_where_it_stopped(network, images, tmp_path, monkeypatch):
    whole = features_of(network, images, tmp_path / "whole")
    sizes = []

    def failing(backbone, batch, features):
        if len(batch) > 1:  # the first call asks for widths only
            sizes.append(len(batch))
            if len(sizes) == 2:
                raise KeyboardInterrupt
        return compute(backbone, batch, features)

    monkeypatch.setattr(cache, "compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features_of(network, images, tmp_path / "cache")
    rest = features_of(network, images, tmp_path / "cache")
    assert sizes == [5, 5, 5, 2], "the first batch is not computed again"
    for feature in MODES:
        assert torch.equal(rest[feature].rows, whole[feature].rows)


def test_features_of_another_kind_lie_beside_the_others(network, images, tmp_path):
    asked = []

    def brightness(views, names):
        asked.append((len(views), list(names)))
        return {name: (views if name == "pixels" else views.mean(3)).flatten(1) for name in names}

    got = features_of(network, images, tmp_path, ("rows",), extract=brightness)["rows"]
    assert got.rows.shape == (12, 3 * 32) and not got.cached
    assert asked == [(1, ["rows"]), (5, ["rows"]), (5, ["rows"]), (2, ["rows"])]
    asked.clear()
    both = features_of(network, images, tmp_path, ("rows", "pixels"), extract=brightness)
    assert {tuple(names) for _, names in asked} == {("pixels",)} and both["rows"].cached
    means = both["pixels"].rows.view(12, 3, 32, 32).mean(3).flatten(1)
    torch.testing.assert_close(both["rows"].rows, means)
    assert not features_of(network, images, tmp_path, (MODES[0],))[MODES[0]].cached


def test_images_that_cannot_be_read_are_left_out_and_named(network, images, tmp_path):
    (images / "cat" / "3.png").write_bytes(b"no image")
    for _ in range(2):
        got = features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
        assert len(got.rows) == 11 and 3 not in got.index
        assert [name for name, _ in got.bad] == ["cat/3.png"] and got.bad[0][1]
    assert rows_of(got, np.array([2, 3, 7])).index.tolist() == [2, 7]
    for file in images.glob("*/*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 12"):
        features_of(network, images, tmp_path / "cache", (MODES[0],))


@pytest.fixture
def disk(monkeypatch):
    """A disk that fails for the images in `broken` for a while; `read` are the images asked for."""

    class Disk:
        broken, read = (), []

    plain = FileImages.read

    def read(self, index):
        Disk.read.append(index)
        if index in Disk.broken:
            raise UnreadableImage("cannot be read: Stale file handle")
        return plain(self, index)

    monkeypatch.setattr(FileImages, "read", read)
    return Disk


def test_images_that_could_not_be_read_are_tried_again_and_no_others(
    network, images, tmp_path, disk, monkeypatch
):
    whole = features_of(network, images, tmp_path / "whole", (MODES[0],))[MODES[0]]
    passes = [
        ((3, 7), list(range(12)), False),
        ((3, 7), [3, 7], True),
        ((3,), [3, 7], False),
        ((), [3], False),
        ((), [], True),
    ]
    for broken, tried, cached in passes:
        disk.broken, disk.read = broken, []
        with monkeypatch.context() as patch:
            if cached:
                patch.setattr(cache, "compute", lambda *_: pytest.fail("the network ran"))
            got = features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
        assert disk.read == tried and got.cached == cached
        kept = [i for i in range(12) if i not in broken]
        assert got.index.tolist() == kept
        torch.testing.assert_close(got.rows, whole.rows[kept], rtol=1e-5, atol=1e-6)
        assert got.bad == [
            (open_folder(images).name(i), "cannot be read: Stale file handle") for i in broken
        ]


def test_a_row_that_is_there_outlives_a_failure_of_the_disk(network, images, tmp_path, disk):
    disk.broken = (7,)
    features_of(network, images, tmp_path / "cache", (MODES[0],))
    disk.broken = (3, 7)
    got = features_of(network, images, tmp_path / "cache", MODES[:2])
    assert [sorted(set(range(12)) - set(got[feature].index)) for feature in MODES[:2]] == [
        [7],
        [3, 7],
    ]
    assert [len(got[feature].bad) for feature in MODES[:2]] == [1, 2]


def test_readable_rows_are_mapped_where_others_are_missing(
    network, images, tmp_path, disk, monkeypatch
):
    monkeypatch.setattr(entry, "CHUNK", 4)
    disk.broken = (0, 6)
    got = features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
    file = next((tmp_path / "cache").glob("*/readable.npy"))
    rows = np.load(file.with_name("rows.npy"))
    np.testing.assert_array_equal(got.rows.numpy(), rows[got.index])
    if sys.platform == "linux":
        assert str(file) in Path("/proc/self/maps").read_text()
    again = features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
    assert torch.equal(again.rows, got.rows)
    disk.broken = ()
    assert len(features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]].rows) == 12
    assert not file.exists() and len(got.rows) == 10, "what is mapped stays"


KINDS = [torch.int32, torch.float16, torch.int8, torch.float32]


def of_kinds(views, wanted):
    """Bright minus dark pixels of each column, in -96..96, as rows of several types by name."""
    columns = views.sign().sum(dim=(1, 2))
    return {name: columns.to(kind) for kind in KINDS if (name := str(kind)) in wanted}


def test_rows_have_the_type_that_was_computed(network, images, tmp_path, disk):
    names = [str(kind) for kind in KINDS]
    source = open_folder(images)
    views = np.stack([VIEW.render(source.read(i)) for i in range(12)])
    views = normalize(torch.from_numpy(views).permute(0, 3, 1, 2))
    want = of_kinds(views, names)
    disk.broken = (2,)
    some = features_of(network, images, tmp_path / "cache", names, extract=of_kinds)
    disk.broken = ()
    every = features_of(network, images, tmp_path / "cache", names, extract=of_kinds)
    again = features_of(network, images, tmp_path / "cache", names, extract=of_kinds)
    for kind, name in zip(KINDS, names, strict=True):
        for got in (some[name], every[name], again[name]):
            assert got.rows.dtype == kind
            assert torch.equal(got.rows, want[name][got.index])
        assert (len(some[name].rows), len(every[name].rows)) == (11, 12) and again[name].cached
    sizes = {file.stat().st_size - 128 for file in (tmp_path / "cache").glob("*/rows.npy")}
    assert sizes == {12 * 32 * size for size in (1, 2, 4)}


def test_a_pass_that_died_before_its_end_leaves_no_old_rows(
    network, images, tmp_path, disk, monkeypatch
):
    disk.broken = (3, 7)
    features_of(network, images, tmp_path / "cache", (MODES[0],))
    disk.broken = (3,)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(entry.Entry, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        features_of(network, images, tmp_path / "cache", (MODES[0],))
    got = features_of(network, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
    whole = features_of(network, images, tmp_path / "whole", (MODES[0],))[MODES[0]]
    assert 7 in got.index and got.index.tolist() == whole.index.tolist()
    torch.testing.assert_close(got.rows, whole.rows, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot allocate ahead")
def test_a_full_disk_is_told_before_anything_is_computed(network, images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="no space") as error:
        patch.setattr(os, "posix_fallocate", full)
        features_of(network, images, tmp_path / "cache", MODES[:2])
    assert str(12 * (4 * 24 + 1 + 4 * 48 + 1)) in error.value.why and "--cache" in error.value.fix
    assert not list((tmp_path / "cache").glob("*/")), "nothing of it stays"
    assert len(features_of(network, images, tmp_path / "cache", MODES[:2])[MODES[1]].rows) == 12


def test_a_really_full_file_system_does_not_kill_the_process(tmp_path):
    inside = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=64k none "$0" && exec "$@"',
        str(tmp_path),
    ]
    if (
        not shutil.which("unshare")
        or subprocess.run([*inside, "true"], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*inside, sys.executable, "-c", RUN, "only", tmp_path], capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and "no space for features" in done.stderr
        and "194000 bytes" in done.stderr
    )


def test_a_cache_that_cannot_be_made_is_told_with_a_remedy(network, images, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be kept") as error:
            features_of(network, images, folder)
        assert error.value.why and "--cache" in error.value.fix


def test_of_two_runs_at_the_same_moment_one_waits_and_reads(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    os.mkfifo(tmp_path / "go")

    def start(role):
        return start_script(tmp_path / "run.py", role, tmp_path)

    def until(process, name, words):
        file = Path(process.folder.name, name)
        while not file.exists() or words not in file.read_text():
            assert process.poll() is None, process.ended()
            time.sleep(0.01)

    first = start("first")
    second = None
    try:
        until(first, "stdout", "begun\n")
        second = start("second")
        until(second, "stderr", "waiting")
        (tmp_path / "go").write_text("go")
        done = [first.ended(60), second.ended(60)]
    finally:
        for process in filter(None, (first, second)):
            process.kill()
    told = [one.stdout.splitlines()[-1].split() for one in done]
    computed, total = zip(*told, strict=True)
    assert computed == ("2000", "0") and total[0] == total[1]


def test_an_entry_says_what_it_holds(network, images, tmp_path):
    features_of(network, images, tmp_path / "cache", (MODES[0],))
    about = json.loads(next((tmp_path / "cache").glob("*/about.json")).read_text())
    assert about["weights"] == weights_hash(network) and about["view"] == [
        32,
        32,
        "crop",
        "bicubic",
        0,
        True,
    ]


def test_the_probe_s_feature_follows_the_width():
    vit = build_backbone(ModelConfig(width=48, depth=6, heads=3, patch=8), (16, 16))
    wide = build_backbone(ModelConfig(width=768, depth=1, heads=12, patch=16), (32, 32))
    swin = build_backbone(
        ModelConfig(kind="swin", width=12, depths=(1, 2), stage_heads=(1, 2), patch=4), (64, 64)
    )
    assert [str(probe_feature(network)) for network in (vit, wide, swin)] == [
        "n4m0",
        "n1m2",
        "n3m0",
    ]


def test_swin_blocks_of_two_stages_are_joined():
    torch.manual_seed(0)
    swin = build_backbone(
        ModelConfig(kind="swin", width=12, depths=(1, 2), stage_heads=(1, 2), patch=4), (64, 64)
    )
    got = compute(swin.eval(), torch.randn(2, 3, 64, 64), (Feature(3, 0),))[Feature(3, 0)]
    assert got.shape == (2, 12 + 24 + 24)


@pytest.mark.parametrize("text", ["n4", "4m0", "n4m3", "n0m0", "nm"])
def test_a_feature_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"feature"):
        Feature.parse(text)


def test_views_of_other_shapes_crop_squash_or_pad():
    image = np.zeros((60, 30, 3), np.uint8)
    image[:10] = 255  # a bright top
    crop, squash, pad = (View((32, 32), fit).render(image) for fit in ("crop", "squash", "pad"))
    assert crop.shape == squash.shape == pad.shape == (32, 32, 3)
    assert crop[0].mean() < 5 and squash[0].mean() > 250
    assert pad[:, :7].max() == 0 and pad[0, 8:24].mean() > 250


def test_an_image_of_the_view_s_size_is_kept_or_treated_as_published():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert View((32, 32)).render(image) is image
    published = View((32, 32), keep=False).render(image)
    np.testing.assert_array_equal(published, evaluation_view(image, 37, (32, 32)))
    assert not np.array_equal(published, image)


def test_a_strip_is_not_enlarged_to_millions_of_pixels():
    strip = np.zeros((4, 40000, 3), np.uint8)
    for image in (strip, strip.transpose(1, 0, 2)):
        with pytest.raises(UnreadableImage, match="too thin to crop"):
            View((32, 32)).render(image)
        assert all(
            View((32, 32), fit).render(image).shape == (32, 32, 3) for fit in ("pad", "squash")
        )
    assert View((32, 32)).render(strip[:, :200]).shape == (32, 32, 3)
