"""What has learnt nothing beside a network: which numbers, measured how often, kept where."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import VIT, write_random

import ibot
from ibot.cli.main import main
from ibot.config.schema import AugmentConfig, Config, HeadConfig, ModelConfig
from ibot.data.sets.open import open_images, open_labelled
from ibot.errors import DataError, UserError
from ibot.eval import beside as beside_module
from ibot.eval.baselines import random_start
from ibot.eval.features.cache import cached_features
from ibot.eval.features.together import features_together
from ibot.eval.features.tokens import CLASS_TOKEN, Feature, extract_features
from ibot.eval.features.views import View
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.registry import EVALUATIONS
from ibot.eval.request import BASELINES
from ibot.method.model import StudentTeacher
from ibot.models.plain import Colours, Pixels
from ibot.rng import Purpose, torch_seed
from ibot.studies.comparison import pixel_accuracy
from ibot.system.records import BESIDE, RESULTS, read_records
from ibot.weights.read import load


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("weights") / "small.safetensors", *VIT)


@pytest.fixture
def places(tmp_path):
    return {
        "out": str(tmp_path / "out"),
        "cache": str(tmp_path / "cache"),
        "device": "cpu",
        "quiet": True,
    }


@pytest.fixture
def run_never(monkeypatch):
    """From the call on, no features may be computed."""

    def forbid():
        for place in ("cache", "together"):
            where = f"ibot.eval.features.{place}.compute"
            monkeypatch.setattr(where, lambda *_: pytest.fail("a network ran again"))

    return forbid


def test_a_random_start_is_what_a_training_begins_with():
    model = ModelConfig(width=24, depth=2, heads=3, patch=8, drop_path=0.2)
    head = HeadConfig(out_dim=8, patch_out_dim=8, hidden_dim=8, bottleneck_dim=8)
    config = Config(model=model, head=head, augment=AugmentConfig(global_size=(24, 32)))
    torch.manual_seed(torch_seed(3, 0, 0, Purpose.INIT))
    begun = StudentTeacher(config).teacher.backbone.state_dict()
    state = torch.get_rng_state()
    own = random_start(model, 3, built_for=(24, 32)).state_dict()
    assert own.keys() == begun.keys()
    assert all(torch.equal(own[name], begun[name]) for name in own)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers stay"


def test_baselines_are_the_votes_of_their_own_features(weights, scenes, places):
    found = ibot.evaluate("knn", weights, scenes, settings="k=5", baselines="auto", **places)
    assert [record.baseline for record in found] == ["", *BASELINES]
    values = {record.baseline: record.value for record in found}
    loaded, sets = load(weights), open_labelled(str(scenes))
    start = random_start(loaded.config, built_for=loaded.built_for)
    for name, network in (("random", start), ("colours", Colours(loaded.config.statistics))):
        bank, queries = (extract_features(network, part, size=32) for part in sets)
        assert values[name] == knn_accuracy(bank, test=queries, ks=5)[5].top1
    config = Config(model=loaded.config, augment=AugmentConfig(global_size=(32, 32)))
    config = replace(config, evaluate=replace(config.evaluate, k=5))
    assert values["pixels"] == pixel_accuracy(sets, config)


def test_records_stand_beside_the_network_in_a_file_of_their_own(weights, scenes, places, tmp_path):
    own, *others = ibot.evaluate(
        "knn", weights, scenes, settings="k=5", baselines="random,colours", **places
    )
    out = tmp_path / "out"
    assert [record.baseline for record in others] == ["random", "colours"]
    assert read_records(out / RESULTS) == [own] and read_records(out / BESIDE) == others
    for record in others:
        assert (record.weights, record.weights_hash) == (own.weights, own.weights_hash)
        assert record.asked and record.asked != own.asked and record.interval
    assert others[0].architecture == own.architecture
    assert others[1].architecture == "colour histogram of 512 bins"


def test_what_an_evaluation_shows_by_itself_is_among_what_it_can_be_asked_for():
    for name, evaluation in EVALUATIONS.items():
        beside = evaluation.beside
        assert set(beside.chosen("auto")) <= set(beside.chosen(",".join(BASELINES))), name
        assert beside.chosen("none") == ()
        assert not beside.own_pixels or evaluation.settings.features == "network", name
    assert EVALUATIONS["logistic"].beside.chosen("auto") == ("random", "colours")
    assert EVALUATIONS["linear"].beside.chosen("auto") == ()
    assert EVALUATIONS["linear"].beside.chosen("colours,random") == ("random", "colours")


def test_from_python_there_are_none_unless_they_are_asked_for(weights, scenes, places, tmp_path):
    (own,) = ibot.evaluate("knn", weights, scenes, settings="k=5", **places)
    assert not own.baseline and not (tmp_path / "out" / BESIDE).exists()


def test_what_is_measured_once_serves_every_network_of_the_architecture(
    weights, scenes, places, tmp_path, run_never
):
    first = ibot.evaluate("knn", weights, scenes, settings="k=5", baselines="auto", **places)
    other = write_random(tmp_path / "other.safetensors", *VIT, times=3)
    alone = ibot.evaluate("knn", other, scenes, settings="k=5", **places)
    run_never()
    beside = ibot.evaluate("knn", other, scenes, settings="k=5", baselines="auto", **places)
    assert beside[0].value == alone[0].value
    assert [r.value for r in beside[1:]] == [r.value for r in first[1:]]
    assert {r.weights for r in beside} == {str(other)}
    # Other settings: the features are there.
    ibot.evaluate("knn", other, scenes, settings="k=3", baselines="auto", **places)


def test_networks_that_normalise_otherwise_are_beside_the_same_pixels_and_colours(
    weights, scenes, places, tmp_path
):
    other = ("model.mean=0.1,0.2,0.3", "model.std=0.5,1,0.7")
    other = write_random(tmp_path / "other.safetensors", *VIT, *other)
    given = {"settings": "k=5", "baselines": "pixels,colours", **places}
    found = [ibot.evaluate("knn", file, scenes, **given) for file in (weights, other)]
    assert [[r.value for r in one[1:]] for one in found] == [[r.value for r in found[0][1:]]] * 2
    assert found[0][0].value != found[1][0].value


def test_the_command_shows_them_unless_it_is_told_not_to(weights, scenes, places, capsys):
    command = ["eval", "knn", str(weights), "--data", str(scenes), "k=5", "--device", "cpu"]
    command += ["--out", places["out"], "--cache", places["cache"]]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "random start  pixels  colours" in said and "\ngain: k = 5: " in said
    assert main([*command, "--baselines", "none"]) == 0
    said = capsys.readouterr().out
    assert "random" not in said and "\ngain: k = 5: " not in said
    assert main([*command, "--baselines", "pixels"]) == 0
    said = capsys.readouterr().out
    assert "  pixels" in said and "random" not in said and "colours" not in said


@pytest.mark.parametrize(
    ("name", "baselines", "words"),
    [
        ("knn", "pixel", "auto, none or"),
        ("knn", "random;pixels", "auto, none or"),
        ("finetune", "random,colours", "means nothing there"),
        ("occlusion", "random", "means nothing there"),
    ],
)
def test_baselines_that_mean_nothing_are_refused_at_once(name, baselines, words):
    with pytest.raises(UserError) as refused:
        ibot.evaluate(name, "nowhere", "nothing", baselines=baselines)
    assert words in refused.value.why


def test_a_baseline_that_fails_is_told_and_takes_nothing_with_it(
    weights, scenes, places, tmp_path, monkeypatch, caplog
):
    plain = beside_module.in_place

    def broken(context, name):
        if name == "pixels":
            raise DataError("nothing to see")
        return plain(context, name)

    monkeypatch.setattr(beside_module, "in_place", broken)
    with caplog.at_level(logging.WARNING, "ibot"):
        found = ibot.evaluate("knn", weights, scenes, settings="k=5", baselines="auto", **places)
    assert [record.baseline for record in found] == ["", "random", "colours"]
    assert "knn: not shown beside pixels: nothing to see" in caplog.text
    assert len(read_records(tmp_path / "out" / RESULTS)) == 1


def test_patches_have_pixels_of_their_own_and_no_colours(weights, scenes, places):
    images = scenes / "val"
    given = {"settings": ["images=20"], **places}
    found = ibot.evaluate("match", weights, images, baselines="auto", **given)
    assert [record.baseline for record in found[::3]] == ["", "random", "pixels"]
    given["settings"] = ["images=20", "features=pixels"]
    pixels = ibot.evaluate("match", weights, images, baselines="auto", **given)
    assert [r.value for r in pixels] == [r.value for r in found[6:]]
    assert not any(record.baseline for record in pixels), "the network was not looked at"


def test_clusters_of_a_start_are_not_those_of_the_weights_head(weights, scenes, places):
    found = ibot.evaluate("cluster", weights, scenes, baselines="random", max_val=20, **places)
    assert {record.settings["by"] for record in found if not record.baseline} == {"prototypes"}
    assert {record.settings["by"] for record in found if record.baseline} == {"kmeans"}


def test_a_series_goes_on_with_what_is_missing_beside_the_network(
    weights, scenes, places, tmp_path, capsys
):
    out = ["--out", places["out"], "--cache", places["cache"], "--device", "cpu"]
    command = ["eval", "all", str(weights), "--data", str(scenes), *out]
    command += ["--skip", ",".join(set(EVALUATIONS) - {"knn"})]
    for baselines, shown in (("none", False), ("auto", True), ("auto", False)):
        assert main([*command, "--baselines", baselines]) == 0
        said = capsys.readouterr()
        assert ("random start  " in said.out) == shown, "a column of the table"
        assert ("done before" in said.err) == (baselines == "auto" and not shown)
    assert len(read_records(tmp_path / "out" / RESULTS)) == 3, "measured once"
    assert len(read_records(tmp_path / "out" / BESIDE)) == 9


def test_kept_records_of_fewer_images_are_made_anew(weights, scenes, places, tmp_path):
    for part in ("train", "val"):
        for file in sorted((scenes / part).glob("*/*"))[::3]:
            target = tmp_path / "data" / file.relative_to(scenes)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    bad = next((tmp_path / "data" / "val").glob("*/*"))
    content = bad.read_bytes()
    bad.write_bytes(b"\0" * len(content))
    given = {"settings": "k=5", "baselines": "random", **places}
    before = ibot.evaluate("knn", weights, tmp_path / "data", **given)
    bad.write_bytes(content)
    after = ibot.evaluate("knn", weights, tmp_path / "data", **given)
    assert {r.num_val for r in after} == {before[0].num_val + 1} and len(after) == 2


def test_features_made_together_are_those_made_alone(weights, tmp_path, monkeypatch):
    """On fresh images, which are read once."""
    random = np.random.default_rng()
    (tmp_path / "images").mkdir()
    for i in range(7):
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    images, loaded = open_images(str(tmp_path / "images")), load(weights)
    networks = [(loaded.backbone, "a"), (Pixels(loaded.config.statistics), "b")]
    networks.append((Colours(loaded.config.statistics), "c"))
    view, wanted = View((32, 32)), [CLASS_TOKEN, Feature(2)]
    alone = [
        cached_features(network, name, images, view, features, tmp_path / "alone", batch=3)
        for (network, name), features in zip(networks, (wanted, *[wanted[:1]] * 2), strict=True)
    ]
    read, plain = [], View.render
    monkeypatch.setattr(View, "render", lambda self, image: read.append(1) or plain(self, image))
    how = {"batch": 3, "device": torch.device("cpu"), "workers": 0, "progress": None}
    how["processes"] = ibot.system.processes.Processes()
    first = features_together(networks, images, view, wanted, tmp_path / "both", **how)
    assert len(read) == 7
    for (network, name), features in zip(networks, alone, strict=True):
        found = cached_features(network, name, images, view, list(features), tmp_path / "both")
        assert all(rows.cached for rows in found.values())
        assert all(torch.equal(found[f].rows, features[f].rows) for f in features)
    assert len(read) == 7 and first[CLASS_TOKEN].rows.equal(alone[0][CLASS_TOKEN].rows)


def test_pixels_of_many_images_are_left_out_unless_they_are_asked_for(
    weights, scenes, places, monkeypatch, caplog
):
    monkeypatch.setattr(beside_module, "MOST_BYTES", 12_288)
    with caplog.at_level(logging.WARNING, "ibot"):
        found = ibot.evaluate("knn", weights, scenes, settings="k=5", baselines="auto", **places)
    assert [record.baseline for record in found] == ["", "random", "colours"]
    assert "not shown beside pixels, whose rows" in caplog.text and "asks for them" in caplog.text
    asked = ibot.evaluate("knn", weights, scenes, settings="k=5", baselines="pixels", **places)
    assert asked[1].baseline == "pixels"
