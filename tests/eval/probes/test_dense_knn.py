"""Segmentation by similar patches: against brute force, and end to end."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from several import run_forked

from ibot.data.annotated.label_maps import open_label_maps
from ibot.data.decode import UnreadableImage
from ibot.data.pixels import normalize
from ibot.errors import ConfigError, DataError
from ibot.eval.context import Context
from ibot.eval.features.views import View
from ibot.eval.label_scores import LabelScores, areas, confusion
from ibot.eval.probes.dense_knn import DenseKnn, run
from ibot.eval.probes.dense_vote import label_shares
from ibot.eval.probes.labelled_views import labelled_views, whole_patches
from ibot.eval.probes.settings import DenseKnnSettings
from ibot.eval.segmented import SegmentedContext
from ibot.system.distributed import joined

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
SIZES = [(32, 48), (48, 32), (40, 60), (5, 3), (16, 16)]
ALL = DenseKnnSettings(k=3)


def write(folder, part, count, seed):
    """Fields of colour by class, tall, wide and tiny; some pixels are left out (255)."""
    random = np.random.default_rng(seed)
    for place in (part, f"{part}annot"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        coarse = random.integers(0, 3, (2, 3)).astype(np.uint8)
        labels = np.asarray(Image.fromarray(coarse).resize((width, height), 0))
        noise = random.normal(0, 12, (height, width, 3))
        pixels = (COLOURS[labels] + noise).clip(0, 255).astype(np.uint8)
        stored = np.where(random.random((height, width)) < 0.1, 255, labels).astype(np.uint8)
        Image.fromarray(pixels).save(folder / part / f"{number}.png")
        Image.fromarray(stored).save(folder / f"{part}annot" / f"{number}.png")


@pytest.fixture(scope="module")
def fields_of_colour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    write(folder, "train", 10, 0)
    write(folder, "val", 6, 1)
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    return folder


@pytest.fixture
def segmented(lab, fields_of_colour):
    """The context of a network of the lab with label maps."""

    def made(network=None, folder=fields_of_colour, **changes):
        shared = {f.name: getattr(network or lab.context, f.name) for f in fields(Context)}
        train, val = open_label_maps(str(folder))
        return replace(SegmentedContext(**shared, train=train, val=val), **changes)

    return made


@pytest.mark.parametrize(
    ("size", "short", "patch", "want"),
    [
        ((360, 480), 64, 8, (64, 88)),
        ((480, 360), 64, 8, (88, 64)),
        ((360, 480), 100, 16, (96, 128)),
        ((5, 3), 32, 8, (56, 32)),
        ((100, 100), 3, 8, (8, 8)),
    ],
)
def test_views_are_whole_patches_of_the_nearest_aspect(size, short, patch, want):
    assert whole_patches(size, short, patch) == want
    with pytest.raises(UnreadableImage, match="too thin"):
        whole_patches((1, 60), short, patch)


def brute_force(context, settings):
    """mIoU by a loop: all pairs of patches, all patches in the bank."""
    backbone, short = context.loaded.backbone, min(context.view.size)
    bank, shares = [], []

    def tokens(one):
        view = normalize(one.view[None], backbone.statistics)
        output = backbone(view)
        return F.normalize(output.patches[0], dim=-1), output.grid

    def views(maps):
        numbers = [np.array([i]) for i in range(len(maps))]
        for batch in labelled_views(maps, numbers, short, backbone.patch_size):
            yield from batch.read

    with torch.no_grad():
        for one in views(context.train):
            rows, grid = tokens(one)
            own, pixels = label_shares(one.labels, grid, 3)
            bank.append(rows[pixels > 0])
            shares.append(own[pixels > 0])
        bank, shares = torch.cat(bank), torch.cat(shares)
        total = torch.zeros(3, 3, dtype=torch.int64)
        for one in views(context.val):
            rows, grid = tokens(one)
            values, index = (rows @ bank.T).topk(settings.k, dim=1)
            weights = (values / settings.temperature).softmax(dim=1)
            maps = (weights[..., None] * shares[index]).sum(dim=1).T.reshape(1, 3, *grid)
            found = F.interpolate(maps, one.labels.shape, mode="bilinear")[0].argmax(dim=0)
            total += confusion(found, torch.from_numpy(one.labels), 3)
    return LabelScores.of(areas(total)), len(bank)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_scores_equal_brute_force(lab, segmented, kind):
    context = segmented(lab.with_network(kind=kind) if kind == "swin" else None)
    want, size = brute_force(context, ALL)
    records = run(context, ALL)
    assert [record.metric for record in records] == [
        "dense_knn_miou",
        "dense_knn_macc",
        "dense_knn_aacc",
    ]
    for record, value in zip(records, (want.miou, want.macc, want.aacc), strict=True):
        assert record.value == pytest.approx(value, abs=0.2)
        assert record.extra["patches"] == size and record.num_train == 10 and record.num_val == 6
        assert record.extra["compared_at"] == "own sizes, as 32 x 48"
    assert records[0].extra["iou"] == pytest.approx(
        want.by_class(("red", "green", "blue")), abs=0.5
    )


def test_colours_are_told_apart_by_pixels(segmented):
    settings = replace(ALL, features="pixels")
    record, *_ = run(segmented(), settings)
    assert record.value > 85 and record.settings["features"] == "pixels"
    assert record.settings["size"] == [32, 48] and record.settings["short_side"] == 32


def test_larger_views_see_finer(segmented):
    coarse, fine = (
        run(segmented(view=View((side, side))), replace(ALL, features="pixels"))[0].value
        for side in (8, 64)
    )
    assert fine > coarse + 5


def test_a_bounded_bank_takes_as_many_patches_of_each_image(segmented):
    context = segmented()
    method = DenseKnn.of(context.loaded.backbone, 32, replace(ALL, bank=40))
    bank = method.remember(context.train)
    assert bank.rows.shape == (40, 24) and bank.images == 10
    whole = DenseKnn.of(context.loaded.backbone, 32, ALL).remember(context.train)
    assert len(whole.rows) > 150
    near = (bank.rows[:, None] - whole.rows).norm(dim=2).min(dim=1)
    assert near.values.max() < 1e-6
    # Rows follow the images: four of each, the smallest of which has few patches with a label.
    grids = [[side // 8 for side in whole_patches(size, 32, 8)] for size in SIZES]
    labels = [context.train.label_map(i) for i in range(10)]
    counts = [
        int((label_shares(labels[i], tuple(grids[i % 5]), 3)[1] > 0).sum()) for i in range(10)
    ]
    taken = np.searchsorted(np.cumsum(counts), near.indices.numpy(), side="right")
    assert sum(counts) == len(whole.rows) and np.bincount(taken).tolist() == [4] * 10


def test_settings_that_are_not_positive_are_refused(segmented):
    for wrong in ({"k": 0}, {"bank": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match="must be positive"):
            run(segmented(), replace(ALL, **wrong))


def test_label_maps_that_do_not_fit_are_an_error_and_unreadable_images_a_note(
    segmented, tmp_path, lab
):
    write(tmp_path, "train", 3, 0)
    write(tmp_path, "val", 2, 1)
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    cut = tmp_path / "val" / "0.png"
    cut.write_bytes(cut.read_bytes()[:50])
    (record, *_) = run(segmented(folder=tmp_path), replace(ALL, k=10**6))
    assert record.num_val == 1 and any("0.png" in note for note in record.notes)
    assert any("k is at most" in note for note in record.notes)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / "trainannot" / "1.png")
    with lab.refused(DataError, "different sizes"):
        run(segmented(folder=tmp_path), ALL)
    Image.fromarray(np.full(SIZES[1], 7, np.uint8)).save(tmp_path / "trainannot" / "1.png")
    with lab.refused(DataError, "holds the value 7"):
        run(segmented(folder=tmp_path), ALL)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_find_what_one_finds(segmented, tmp_path):
    context = segmented(batch=2)
    want = run(context, ALL)

    def work(rank):
        with joined(torch.device("cpu")) as processes:
            found = run(replace(context, processes=processes), ALL)
        same = [(r.value, r.interval, r.extra) for r in found] == [
            (r.value, r.interval, r.extra) for r in want
        ]
        return 0 if same else 3

    codes, said = run_forked(work, tmp_path)
    assert codes == [0, 0], said
