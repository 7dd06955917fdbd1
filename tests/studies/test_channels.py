"""What a run takes for mean and deviation of images of other channels, and how evaluations ask."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from ibot.config.override import apply
from ibot.config.reading import IMAGENET_MEAN, RGB
from ibot.config.resolve import check
from ibot.data.sets.open import open_images
from ibot.engine.loop import train
from ibot.errors import ConfigError, DataError, UserError
from ibot.eval.evaluate import evaluate
from ibot.eval.features.tokens import extract_features
from ibot.recipes import recipe
from ibot.studies.channels import for_channels
from ibot.weights.read import load

TINY = [
    "data.channels=all",
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "train.batch=8",
    "train.length=1 steps",
    "system.workers=0",
    "system.device=cpu",
]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of two parts: images of five channels of uint16, low and high ones."""
    root, rng = tmp_path_factory.mktemp("five"), np.random.default_rng(0)
    for part in ("train", "val"):
        for level, name in ((3000, "dark"), (20000, "light")):
            (root / part / name).mkdir(parents=True)
            for number in range(6):
                values = rng.normal(level, 500, (40, 36, 5)).clip(0).astype(np.uint16)
                file = root / part / name / f"{number}.tif"
                tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A network that was trained on them for a step."""
    place = tmp_path_factory.mktemp("runs") / "run"
    config = apply(recipe("tiny32"), [*TINY, f"data.path={folder}"])
    images = open_images(str(folder), channels=config.data.reading)
    config, notes = for_channels(config, images, ["data.channels"])
    assert "5 channels (1, 2, 3, 4, 5), read as levels" in notes[0]
    train(config, place, quiet=True)
    return place


def test_a_run_takes_names_and_statistics_of_its_images(folder, run):
    found = load(run)
    assert found.config.channels == ("1", "2", "3", "4", "5")
    images = open_images(str(folder), channels=found.reading)
    pixels = np.concatenate([images.read(i).reshape(-1, 5) for i in range(len(images))])
    np.testing.assert_allclose(found.config.mean, pixels.mean(0), rtol=2e-2)
    np.testing.assert_allclose(found.config.std, pixels.std(0), rtol=2e-2)
    assert found.reading.mean == found.config.mean


def test_evaluations_and_features_open_the_channels_of_the_network(folder, run, tmp_path):
    (record, *_) = evaluate("knn", run, folder, out=tmp_path, cache=str(tmp_path), quiet=True)
    assert record.num_train == 12 and record.value > 90  # normalised otherwise all look alike
    features = extract_features(run, folder / "val" / "dark", size=32)
    assert features.cls.shape == (6, 24) and not features.bad


def test_images_unlike_those_of_the_training_are_noticed(folder, run, tmp_path, capsys):
    options = {"out": tmp_path, "cache": str(tmp_path)}
    evaluate("match", run, folder / "train", **options)
    assert "far from them" not in capsys.readouterr().err
    for number in range(4):
        values = np.full((40, 40, 5), 60000, np.uint16) - np.arange(40, dtype=np.uint16)[:, None]
        (tmp_path / "bright").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "bright" / f"{number}.tif", values, photometric="minisblack")
    evaluate("match", run, tmp_path / "bright", **options)
    assert "of 5 of 5 channels the data's are far from them" in capsys.readouterr().err


def test_images_of_other_channels_are_refused_with_the_names_of_both(run, tmp_path):
    for number in range(4):
        values = np.zeros((40, 40, 3), np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "data" / f"{number}.tif", values, photometric="rgb")
    options = {"out": tmp_path, "cache": str(tmp_path), "quiet": True}
    with pytest.raises(DataError) as raised:
        evaluate("match", run, tmp_path / "data", **options)
    assert "red" in raised.value.why and "reads 5 channels (1, 2, 3, 4, 5)" in raised.value.why
    with pytest.raises(DataError, match="other channels than the network reads"):
        evaluate("match", run, tmp_path / "data", channels="1,2", **options)


@pytest.fixture
def bands(tmp_path):
    """Images whose five channels have names."""
    rng = np.random.default_rng(1)
    (tmp_path / "bands").mkdir()
    for number in range(4):
        values = rng.normal(9000, 500, (5, 40, 40)).astype(np.uint16)
        about = {"axes": "CYX", "Channel": {"Name": ["B02", "B03", "B04", "B08", "B11"]}}
        file = tmp_path / "bands" / f"{number}.ome.tif"
        tifffile.imwrite(file, values, photometric="minisblack", metadata=about)
    return tmp_path / "bands"


def test_a_user_may_say_which_channels_are_those_of_a_network(bands, tmp_path, capsys):
    config = apply(recipe("tiny32"), [*TINY, f"data.path={bands}", "train.batch=4"])
    config, _ = for_channels(config, open_images(str(bands), channels=config.data.reading), [])
    train(config, tmp_path / "run", quiet=True)
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 9000, (40, 40, 7), dtype=np.uint16)
        about = {"axes": "YXC", "Channel": {"Name": list("abcdefg")}}
        (tmp_path / "other").mkdir(exist_ok=True)
        file = tmp_path / "other" / f"{number}.ome.tif"
        tifffile.imwrite(file, np.moveaxis(values, 2, 0), metadata={**about, "axes": "CYX"})
    options = {"out": tmp_path, "cache": str(tmp_path)}
    with pytest.raises(DataError, match="have no channel 'B02'"):
        evaluate("match", tmp_path / "run", tmp_path / "other", **options)
    for chosen in ("a,b,c,d,g", "1,2,3,4,7"):
        evaluate("match", tmp_path / "run", tmp_path / "other", channels=chosen, **options)
        said = capsys.readouterr().err
        assert "5 (a,b,c,d,g) are taken for 5 (B02,B03,B04,B08,B11)" in said
    with pytest.raises(DataError, match="other channels than the network reads"):
        evaluate("match", tmp_path / "run", bands, channels="B03,B02,B04,B08,B11", **options)


def test_a_mismatch_is_said_of_windows_subsets_and_features(folder, run, bands, tmp_path, capsys):
    from ibot.cli.main import main

    words = "of 5 of 5 channels the data's are far from them"
    options = {"out": tmp_path, "cache": str(tmp_path)}
    for how in ({"window": 32}, {"max_val": 2}):
        evaluate("match", run, bands, **how, **options)
        assert words in capsys.readouterr().err, how
    command = ["features", str(run), "--data", str(bands), "--out", str(tmp_path / "f.npz")]
    assert main([*command, "--device", "cpu"]) == 0
    assert words in capsys.readouterr().err


def test_features_tell_the_channels_of_network_and_images(run, tmp_path, capsys):
    from ibot.cli.main import main

    for count in (3, 7):
        (tmp_path / str(count)).mkdir()
        values = np.random.default_rng(count).integers(0, 9000, (40, 40, count), dtype=np.uint16)
        file = tmp_path / str(count) / "a.tif"
        tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
    command = ["features", str(run), "--device", "cpu", "--out", str(tmp_path / "f.npz"), "--data"]
    assert main([*command, str(tmp_path / "3")]) == 2
    assert "the network reads 5 channels (1, 2, 3, 4, 5)" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "7")]) == 0
    said = capsys.readouterr().err
    assert "of 7 (1,2,3,4,5,6,7) without names 5 (1,2,3,4,5) are taken" in said


def test_evaluations_that_change_colours_take_pictures_alone(folder, run, tmp_path):
    with pytest.raises(UserError, match="finetune takes colour pictures"):
        evaluate("finetune", run, folder, out=tmp_path, cache=str(tmp_path), quiet=True)


def test_given_statistics_win_and_other_names_are_refused(folder):
    config = apply(recipe("tiny32"), [*TINY, f"data.path={folder}"])
    images = open_images(str(folder), channels=config.data.reading)
    given = ["model.mean=0,0,0,0,0", "model.std=1,1,1,1,2"]
    chosen, _ = for_channels(apply(config, given), images, ["model.mean", "model.std"])
    assert chosen.model.mean == (0,) * 5 and chosen.model.std == (1, 1, 1, 1, 2)
    check(apply(config, given))  # before the images are looked at
    with pytest.raises(ConfigError, match="1 number for 5 channels"):
        for_channels(apply(config, ["model.mean=0.5"]), images, ["model.mean"])
    other = apply(config, ["model.channels=a,b,c,d,e"])
    with pytest.raises(ConfigError, match=r"model\.channels names 5 channels"):
        for_channels(other, images, ["model.channels"])


def test_weights_of_other_statistics_are_noticed(folder, run):
    config = apply(recipe("tiny32"), [*TINY, f"data.path={folder}", f"train.init={run}"])
    model = load(run).config
    far = replace(model, mean=(0.9,) * 5, std=model.std, drop_path=0.0)
    images = open_images(str(folder), channels=config.data.reading)
    chosen, notes = for_channels(replace(config, model=far), images, ["data.channels"])
    assert chosen.model.mean == far.mean
    assert "mean and deviation are those of the weights; of 5 of 5 channels" in notes[1]
    near, notes = for_channels(replace(config, model=model), images, ["data.channels"])
    assert near.model.mean == model.mean and len(notes) == 1


def test_colour_pictures_keep_what_they_had(tmp_path):
    class Pictures:
        channels = RGB
        root = tmp_path

    config = recipe("tiny32")
    assert for_channels(config, Pictures(), []) == (config, [])
    others = replace(config, model=replace(config.model, channels=("x",), mean=(1,), std=(1,)))
    found, notes = for_channels(others, Pictures(), [])
    assert found.model.channels == RGB and found.model.mean == IMAGENET_MEAN and not notes
