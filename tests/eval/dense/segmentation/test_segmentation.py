"""`ibot eval segmentation` from end to end, on images of any size, and what it says of others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.data.annotated.label_coding import read_coding
from ibot.errors import ConfigError, DataError
from ibot.eval.dense.segmentation import segmentation
from ibot.eval.dense.segmentation.plan import plan, rate_images, typical_shape
from ibot.eval.dense.segmentation.settings import SegmentationSettings
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.views import View
from ibot.eval.label_scores import LabelScores, areas, confusion
from ibot.eval.segmented import SegmentedContext
from ibot.show.label_maps import draw
from ibot.weights.read import KeyReport, Loaded

from .conftest import CONFIGS

SHORT = SegmentationSettings(iterations=2, batch=2, crop=32, channels=8)


@pytest.fixture
def context(striped, network, tmp_path):
    def build(kind="vit", **changes):
        loaded = Loaded(network(kind), CONFIGS[kind], (32, 32), KeyReport())
        train, val = striped
        made = SegmentedContext(
            loaded=loaded,
            weights="random.safetensors",
            weights_hash=weights_hash(loaded),
            train=train,
            val=val,
            view=View((32, 32)),
            device=torch.device("cpu"),
            cache=tmp_path / "cache",
            out=tmp_path / "out",
        )
        return replace(made, **changes)

    return build


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("vit", {}),
        ("swin", {"augment": "none"}),
        ("vit", {"augment": "none", "features": "pixels"}),
        pytest.param("vit", {"head": "upernet"}, marks=pytest.mark.slow),
        pytest.param("swin", {}, marks=pytest.mark.slow),
    ],
)
def test_records_say_what_the_label_maps_on_disk_give(context, kind, given):
    made = context(kind)
    records = segmentation.run(made, replace(SHORT, **given))
    assert [r.metric.split("_")[1] for r in records] == ["miou", "macc", "aacc"]
    folder = made.out / records[0].extra["predictions"]
    about = json.loads((folder / "predictions.json").read_text())
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for i, entry in enumerate(about["images"]):
        found = torch.from_numpy(np.array(Image.open(folder / entry["found"]))).long()
        labels = torch.from_numpy(made.val.label_map(i)).long()
        assert found.shape == labels.shape
        counts += confusion(found, labels, 3)
    scores = LabelScores.of(areas(counts))
    expected = scores.miou, scores.macc, scores.aacc
    assert [r.value for r in records] == pytest.approx(expected)
    first = records[0]
    assert first.interval[0] <= first.value <= first.interval[1]
    assert first.settings["compared"] == "at the size of each image"
    assert any("compared at the size" in note for note in first.notes)
    assert any("IoU of 3 of 3 classes, best first: " in note for note in first.notes)
    assert set(first.extra["iou"]) == {"red", "green", "blue"} and first.num_val == 6
    pictures = draw(records, made.out)
    assert len(pictures) == 6 and np.asarray(Image.open(pictures[0])).std() > 10


def test_cached_features_tell_the_stripes_apart_and_serve_other_labels(context):
    made = context()
    settings = replace(SHORT, augment="none", iterations=150, batch=6)
    first = segmentation.run(made, settings)
    assert first[0].value > 70
    rows = sorted(made.cache.rglob("rows.npy"))
    times = [file.stat().st_mtime_ns for file in rows]
    segmentation.run(made, replace(settings, ignore=(0, 255), iterations=2))
    again = sorted(made.cache.rglob("rows.npy"))
    assert rows == again and times == [file.stat().st_mtime_ns for file in again]


@pytest.mark.parametrize("augment", ["none", "published"])
def test_of_several_rates_one_is_chosen_on_images_that_are_held_out(context, augment):
    made, rates = context(), (1e-6, 1e-1)
    settings = replace(SHORT, augment=augment, iterations=8, lr=rates, holdout=0.3)
    record = segmentation.run(made, settings)[0]
    assert set(record.extra["rates"]) == {"1e-06", "0.1"}
    best = max(record.extra["rates"], key=record.extra["rates"].get)
    assert record.chosen == f"lr={best} after the last step, on 2 held-out training images"
    assert (
        f"held-out training images: 1e-06 {record.extra['rates']['1e-06']:.1f}" in record.notes[1]
    )
    assert record.num_train == 4 and "learning rate 1e-06 or 0.1" in record.notes[0]
    record = segmentation.run(replace(made, mode="published"), settings)[0]
    assert record.chosen.endswith("on val") and record.num_train == 6
    assert record.value == pytest.approx(max(record.extra["rates"].values()))
    single = segmentation.run(made, replace(settings, lr=(1e-1,)))[0]
    assert single.chosen == "the last step" and not single.extra["rates"]


def test_images_on_which_a_rate_is_chosen_are_not_trained_on():
    several = SegmentationSettings(lr=(1e-3, 1e-2), holdout=0.2)
    fit, judge, words = rate_images(10, several, "clean")
    assert sorted([*fit, *judge]) == list(range(10)) and len(judge) == 2
    assert words == "2 held-out training images"
    fit, _, words = rate_images(2, replace(several, holdout=0.9), "clean")
    assert len(fit) == 1 and words == "1 held-out training image"
    assert "one alone" in rate_images(1, several, "clean").judged_on
    for settings, mode in ((several, "published"), (replace(several, lr=(1e-3,)), "clean")):
        fit, judge, _ = rate_images(10, settings, mode)
        assert len(fit) == 10 and not len(judge)


def test_published_settings_are_those_of_the_tables(context):
    made = context(mode="published")
    made.loaded.backbone.embed_dim = 768
    rates = (3e-5, 8e-5, 1e-4, 3e-4, 8e-4)
    for head, lr, decay, drop in (("linear", rates, 1.0, 0.0), ("upernet", (8e-5,), 0.65, 0.1)):
        settings = plan(SegmentationSettings(head=head), made).settings
        assert (settings.lr, settings.layer_decay, settings.drop_path) == (lr, decay, drop)
        assert (settings.iterations, settings.batch, settings.warmup) == (160_000, 16, 1500)
        assert (settings.crop, settings.stride) == (512, 341)
    settings = plan(SegmentationSettings(head="linear", crop=640, lr=(1e-4,)), made).settings
    assert (settings.crop, settings.stride, settings.lr) == (640, 426, (1e-4,))


def test_own_sets_get_settings_that_fit_them(context):
    made = context()
    fitted = plan(SegmentationSettings(), made)
    # 40 pixels are the median shorter side; cells have 8.
    assert fitted.settings.crop == 32 and fitted.settings.batch == 6
    assert fitted.settings.iterations == 500 and "500 steps" in fitted.notes[0]
    assert plan(SegmentationSettings(), replace(made, view=View((24, 24)))).settings.crop == 24
    assert typical_shape(made.train.taken([0]), 32, 8) == (32, 48)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"crop": 33}, "crop=33 does not fit"),
        ({"crop": 8}, "crop=8 does not fit"),
        ({"stride": 40}, "leaves pixels between"),
        ({"head": "upernet", "batch": 1}, "batch norm nothing"),
        ({"head": "upernet", "augment": "none"}, "augment=none trains a linear head"),
        ({"features": "pixels"}, "needs augment=none"),
        ({"head": "upernet", "lr": (1e-3, 1e-4)}, "one learning rate, not 2"),
        ({"lr": (1e-3, 1e-3)}, "names a rate twice"),
    ],
)
def test_settings_that_cannot_be_are_refused(context, changes, pattern):
    with pytest.raises(ConfigError, match=pattern) as caught:
        segmentation.run(context(), replace(SHORT, **changes))
    assert caught.value.fix and "\n" not in caught.value.what


@pytest.mark.parametrize("changes", [{"batch": 0}, {"lr": (-1.0,)}, {"ratio": (2.0, 0.5)}])
def test_numbers_that_train_nothing_are_refused(changes):
    with pytest.raises(ConfigError):
        SegmentationSettings(**changes)


def test_a_set_without_a_counted_pixel_is_refused(context):
    with pytest.raises(DataError, match="every pixel of the 6 training label maps is left out"):
        segmentation.run(context(), replace(SHORT, ignore=(0, 1, 2, 255)))


def test_classes_are_named_by_a_file(context, tmp_path):
    (tmp_path / "names.txt").write_text("r\ng\nb\nother\n")
    made = context().with_coding(str(tmp_path / "names.txt"))
    assert made.num_classes == 4 == len(read_coding(tmp_path / "names.txt").classes)
    assert made.fingerprints() != context().fingerprints()
