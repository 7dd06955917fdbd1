"""Patches found again in another view: against loops, and end to end."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from several import run_forked

from ibot.data.pixels import normalize, resized_crop
from ibot.data.sets.open import open_images
from ibot.errors import ConfigError, DataError
from ibot.eval.context import Context, ImagesContext
from ibot.eval.features.views import View
from ibot.eval.probes import match as protocol
from ibot.eval.probes.match import RADII, MatchPlan, match, run, scores
from ibot.eval.probes.match_places import Placed
from ibot.eval.probes.patch_tokens import PatchMap, encoder
from ibot.eval.probes.settings import MatchSettings
from ibot.eval.probes.view_pairs import PairBatch, pair_batches
from ibot.eval.scores import bootstrap_mean
from ibot.system.distributed import joined

SHAPES = [(40, 60), (60, 30), (3, 2), (1, 50), (33, 33)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Smooth pictures, tall, wide and tiny, and one that is cut."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SHAPES * 4):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:60])
    return folder


@pytest.fixture
def plain_images(lab, photos):
    """The context of a network of the lab with plain images."""

    def made(network=None, **changes):
        shared = {f.name: getattr(network or lab.context, f.name) for f in fields(Context)}
        return replace(ImagesContext(**shared, images=open_images(str(photos))), **changes)

    return made


def plan(**changes):
    given = {
        "size": (24, 40),
        "patch": 8,
        "statistics": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "seed": 0,
        "batch": 4,
    }
    return MatchPlan(**{**given, **changes})


def centre_of(box, flip, row, column):
    """Of a patch of a view of 3 x 5, in pixels of the image."""
    across = (column + 0.5) / 5
    across = 1 - across if flip else across
    return box[0] + (row + 0.5) / 3 * box[2], box[1] + across * box[3]


def random_rows():
    """An encoder that gives fixed random rows, whatever the pixels."""

    def encode(views):
        generator = torch.Generator().manual_seed(7)
        rows = torch.randn(len(views), 15, 6, generator=generator)
        return PatchMap(rows * torch.arange(1, 16)[:, None], (3, 5))

    return encode


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_scores_equal_a_loop_over_images_and_patches(photos, mode):
    (pairs,) = pair_batches(open_images(str(photos)), (24, 40), [np.arange(20)], seed=0)
    encode = random_rows()
    got = scores(encode, pairs, plan(mode=mode))
    rows = encode(torch.zeros(40, 1)).rows
    assert len(pairs.bad) == 0 and got.shape == (20, 3, 4)
    for image in range(20):
        height, width = pairs.sizes[image].tolist()
        (box, other), (flip, flipped) = (
            [getattr(placed, name)[image].tolist() for placed in pairs.placed]
            for name in ("box", "flip")
        )

        cells = [(row, column) for row in range(3) for column in range(5)]
        theirs = [centre_of(other, flipped, *cell) for cell in cells]
        hits, lucky, same, count = np.zeros(3), np.zeros(3), np.zeros(3), 0
        for number, cell in enumerate(cells):
            y, x = centre_of(box, flip, *cell)
            if mode == "clean":
                inside = other[0] <= y < other[0] + other[2] and other[1] <= x < other[1] + other[3]
            else:
                ys, xs = zip(*theirs, strict=True)
                inside = min(ys) - 8 / 224 * height <= y <= max(ys) + 8 / 224 * height
                inside &= min(xs) - 8 / 224 * width <= x <= max(xs) + 8 / 224 * width
            if not inside:
                continue
            count += 1
            down = [((y - centre[0]) / other[2]) ** 2 for centre in theirs]
            across = [((x - centre[1]) / other[3]) ** 2 for centre in theirs]
            # Of two that are as near, the later one of the view holds the point.
            nearest = min(range(15), key=lambda i: (round(down[i] + across[i], 9), -i))
            similar = rows[20 + image] @ rows[image, number]
            if mode == "clean":
                similar = similar / rows[20 + image].norm(dim=1)
            distance = [max(abs(place[i] - cells[nearest][i]) for i in range(2)) for place in cells]
            for i, radius in enumerate(RADII):
                hits[i] += distance[int(similar.argmax())] <= radius
                lucky[i] += sum(apart <= radius for apart in distance) / 15
                same[i] += distance[number] <= radius
        assert got[image, :, -1].tolist() == [count] * 3
        want = np.stack([hits, lucky, same]) / max(count, 1)
        np.testing.assert_allclose(got[image, :, :-1].nan_to_num(), want, atol=1e-9)


@pytest.mark.parametrize("flip", [False, True])
def test_patches_of_a_shifted_and_mirrored_view_are_found_by_their_pixels(flip):
    """Views that share whole patches: what a cell shows is there again, mirrored or not."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    boxes = [[0, 0, 24, 40], [8, 16, 24, 40]]
    views = [resized_crop(image, *box, (24, 40)) for box in boxes]
    if flip:
        views[1] = views[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tensors = [torch.from_numpy(np.asarray(v).copy()).permute(2, 0, 1)[None] for v in views]
    placed = [
        Placed(torch.tensor([box]), torch.tensor([flip and i == 1])) for i, box in enumerate(boxes)
    ]
    pairs = PairBatch(np.arange(1), tuple(tensors), tuple(placed), torch.tensor([[48, 64]]), [])

    def encode(images):
        cells = images.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=-1).mean(dim=-1)
        return PatchMap(cells.flatten(2).transpose(1, 2) - 0.5, (3, 5))

    found, _, same = scores(encode, pairs, plan())[0]
    assert found.tolist() == [1, 1, 1, 6] and same[0] < 0.5


def test_pixels_are_those_of_the_patches_of_the_network(plain_images):
    backbone = plain_images().loaded.backbone
    views = normalize(torch.randint(0, 256, (2, 3, 27, 33), dtype=torch.uint8))
    rows, grid = encoder(backbone, "pixels")(views)
    assert grid == (3, 4) and rows.shape == (2, 12, 192)
    assert torch.equal(rows[1, 6], views[1, :, 8:16, 16:24].flatten())
    tokens, grid = encoder(backbone, "network")(views)
    assert grid == (3, 4) and torch.equal(tokens, backbone(views).patches)


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("size", [(32, 32), (24, 44)])
def test_the_records_hold_the_mean_over_the_images_chance_and_what_was_left_out(
    lab, plain_images, kind, size
):
    network = lab.with_network(kind=kind) if kind == "swin" else None
    context = plain_images(network, view=View(size))
    records = run(context, MatchSettings())
    again = match(
        encoder(context.loaded.backbone, "network"),
        context.images,
        np.arange(21),
        MatchPlan.of(context.loaded.backbone, size, seed=0, batch=3),
    )
    assert [record.metric for record in records] == ["match_r0", "match_r1", "match_r2"]
    for i, record in enumerate(records):
        assert record.value == pytest.approx(again.found[:, i].mean().item(), abs=3)
        assert record.interval == bootstrap_mean(again.found[:, i]) or kind == "swin"
        assert 0 < record.extra["chance"] < 100 and record.settings["radius"] == i
        assert any("cut.png" in note for note in record.notes)
        assert record.num_val + again.apart == 20
    values = [record.value for record in records]
    assert values == sorted(values) and values[2] > 0


def test_the_views_of_an_image_do_not_depend_on_the_others(photos):
    images = open_images(str(photos))
    (whole,) = pair_batches(images, (16, 16), [np.arange(20)], seed=3)
    (part,) = pair_batches(images, (16, 16), [np.array([7, 20, 2])], seed=3)
    assert part.positions.tolist() == [7, 2] and [bad[0] for bad in part.bad] == [20]
    for view in range(2):
        assert torch.equal(part.views[view], whole.views[view][[7, 2]])
    (other,) = pair_batches(images, (16, 16), [np.arange(20)], seed=4)
    assert not torch.equal(whole.views[0], other.views[0])
    assert not torch.equal(whole.views[0], whole.views[1])


def test_a_part_of_the_images_is_evenly_spaced(plain_images):
    context = plain_images()
    (record, *_) = run(context, MatchSettings(images=3))
    assert record.num_val <= 2  # the last of the three is the one that is cut
    with pytest.raises(ConfigError, match="images=0"):
        run(context, MatchSettings(images=0))


def test_images_that_cannot_be_read_or_never_overlap_are_an_error(plain_images, monkeypatch):
    images = plain_images().images
    encode = encoder(plain_images().loaded.backbone, "pixels")
    with pytest.raises(DataError, match="none of the 1 images"):
        match(encode, images, np.array([20]), plan())
    monkeypatch.setattr(
        protocol, "scores", lambda encode, pairs, plan: torch.zeros(len(pairs.positions), 3, 4)
    )
    with pytest.raises(DataError, match="no two views of the 2 images"):
        match(encode, images, np.array([0, 1]), plan())


@pytest.mark.usefixtures("one_thread")
def test_two_processes_find_what_one_finds(plain_images, tmp_path):
    context = plain_images()
    want = run(context, MatchSettings())

    def work(rank):
        with joined(torch.device("cpu")) as processes:
            found = run(replace(context, processes=processes), MatchSettings())
        same = [(r.value, r.interval, r.extra, r.notes) for r in found] == [
            (r.value, r.interval, r.extra, r.notes) for r in want
        ]
        return 0 if same else 3

    codes, said = run_forked(work, tmp_path)
    assert codes == [0, 0], said
