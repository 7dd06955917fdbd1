import multiprocessing
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.reading import DataConfig
from ibot.config.schema import (
    AugmentConfig,
    Config,
    MaskConfig,
    MethodConfig,
    ModelConfig,
    SystemConfig,
    TrainConfig,
)
from ibot.data import pixels_device
from ibot.data.decode import decode
from ibot.data.loader import (
    Loader,
    choose_workers,
    content_hash,
    micro_batch_bytes,
    read_ahead,
)
from ibot.data.masks import make_masks, with_visible
from ibot.data.pairs import make_pairs
from ibot.data.params import view_params
from ibot.data.pixels import render
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.scan import scan
from ibot.errors import ConfigError, DataError
from ibot.rng import Purpose, permutation, uniform
from ibot.types import UndrawnBatch


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(26):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(
            folder / f"{i:02d}.png"
        )
    return scan(folder)


def config(batch=8, accumulate=1, workers=0, pixels="exact") -> Config:
    augment = AugmentConfig(num_local=2, global_size=(16, 16), local_size=(8, 8))
    return Config(
        augment=augment,
        train=TrainConfig(batch=batch, accumulate=accumulate),
        system=SystemConfig(workers=workers),
        data=DataConfig(pixels=pixels),
    )


def steps(source, count, start=0, **kwargs):
    parallel = {key: kwargs.pop(key) for key in ("rank", "world_size") if key in kwargs}
    loader = Loader(
        config(**kwargs), source, grid=(4, 4), start_step=start, end_step=start + count, **parallel
    )
    return list(loader)


def views_of(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Global and local views, made here where the loader left them to the device."""
    if isinstance(batch, UndrawnBatch):
        where = config().augment, torch.device("cpu")
        return pixels_device.render(
            batch.pictures, batch.sizes, batch.params, *where, reduced=batch.reduced
        )
    return batch.global_views, batch.local_views


def assert_equal(a, b):
    assert np.array_equal(a.index, b.index) and type(a) is type(b)
    assert all(torch.equal(x, y) for x, y in zip(views_of(a), views_of(b), strict=True))
    assert torch.equal(a.masks.map, b.masks.map)


def test_shapes_and_types(source):
    (batch,) = steps(source, 1)[0]
    assert batch.global_views.shape == (2, 8, 3, 16, 16) and batch.global_views.dtype == torch.uint8
    assert batch.local_views.shape == (2, 8, 3, 8, 8) and batch.masks.map.shape == (2, 8, 16)


def test_local_views_have_masks_of_their_own_where_wanted(source):
    made = config()
    assert next(iter(steps(source, 1)))[0].masks.local is None
    mask, model = replace(made.mask, views="all", ratio=((0.5, 0.0),)), replace(made.model, patch=2)
    wanted = replace(made, mask=mask, model=model)
    loader = Loader(wanted, source, grid=(8, 8), rank=0, world_size=1, start_step=0, end_step=1)
    (first,) = next(iter(loader))
    local = first.masks.local
    assert local.map.shape == (2, 8, 16) and local.map.any(), "4 x 4 patches of 2 pixels"
    moved = first.masks.each(lambda tensor: tensor.clone())
    assert torch.equal(moved.local.map, local.map) and moved.loss_views == 8 * (
        2 + wanted.augment.num_local
    )


def test_visible_patches_come_with_the_masks_where_they_are_in_a_loss(source):
    asked = replace(config(), method=MethodConfig(visible_weight=0.5))
    plain, given = (
        next(iter(Loader(made, source, grid=(4, 4), end_step=1)))[0].masks
        for made in (config(), asked)
    )
    visible = given.visible
    assert plain.visible is None and visible is not None
    assert torch.equal(given.map, plain.map) and torch.equal(visible.map, ~plain.map)
    assert sorted([*given.index.tolist(), *visible.index.tolist()]) == list(
        range(given.map.numel())
    )
    of_views = visible.map.any(-1).sum().item()
    assert visible.weight.sum().item() == pytest.approx(of_views, rel=1e-5)


def test_an_epoch_shows_every_image_at_most_once_and_the_next_in_another_order(source):
    first, second = (
        [b.index for s in steps(source, 3, start=start) for b in s] for start in (0, 3)
    )
    assert len(set(np.concatenate(first))) == 24
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


PIXELS = pytest.mark.parametrize("pixels", ["exact", "fast", "device"])


@PIXELS
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(source, workers, pixels):
    here, there = (steps(source, 5, workers=w, pixels=pixels) for w in (0, workers))
    for a, b in zip(here, there, strict=True):
        assert_equal(a[0], b[0])


@PIXELS
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_starting_later_gives_the_same_batches(source, start, pixels):
    whole = steps(source, 9, pixels=pixels)
    for a, b in zip(
        whole[start:], steps(source, 9 - start, start=start, pixels=pixels), strict=True
    ):
        assert_equal(a[0], b[0])


@PIXELS
@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_the_same_images(source, world_size, accumulate, pixels):
    whole = [s[0] for s in steps(source, 4, pixels=pixels)]
    parts = [
        steps(source, 4, rank=r, world_size=world_size, accumulate=accumulate, pixels=pixels)
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        seen = {}
        for rank in range(world_size):
            assert len(parts[rank][step]) == accumulate
            for micro in parts[rank][step]:
                views = views_of(micro)
                for row, index in enumerate(micro.index):
                    seen[int(index)] = (views, micro.masks.map, row)
        assert sorted(seen) == sorted(batch.index.tolist())
        whole_views = views_of(batch)
        for row, index in enumerate(batch.index.tolist()):
            views, map_of_part, other = seen[index]
            for many, some in zip(whole_views, views, strict=True):
                assert torch.equal(many[:, row], some[:, other])
            assert torch.equal(batch.masks.map[:, row], map_of_part[:, other])


@pytest.mark.parametrize("pixels", ["fast", "device"])
def test_the_ways_to_make_pixels_show_the_same_views(source, pixels):
    for (a,), (b,) in zip(steps(source, 3), steps(source, 3, pixels=pixels), strict=True):
        assert np.array_equal(a.index, b.index) and np.array_equal(a.content, b.content)
        assert torch.equal(a.masks.map, b.masks.map)
        for many, others in zip(views_of(a), views_of(b), strict=True):
            assert many.shape == others.shape and others.dtype == torch.uint8
            assert (many.int() - others.int()).abs().float().mean() < 1.5


def test_pixels_that_nobody_resolved_are_exact(source):
    for (a,), (b,) in zip(steps(source, 2), steps(source, 2, pixels="auto"), strict=True):
        assert_equal(a, b)


def test_pictures_for_the_device_are_as_decoded_and_counted_with_room(source):
    wanted = config(pixels="device", batch=4)
    for (batch,) in Loader(wanted, source, grid=(4, 4), end_step=6):
        pictures = [decode(source.path(i)) for i in batch.index]
        assert batch.sizes.tolist() == [list(picture.shape[:2]) for picture in pictures]
        flat = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
        assert np.array_equal(batch.pictures.numpy(), flat) and (batch.reduced == 1).all()
        given, counted = batch.pictures.numel(), micro_batch_bytes(wanted, source, 1)
        assert given <= counted < 2 * given
    assert micro_batch_bytes(config(batch=4), source, 1) == 4 * 3 * 2 * (16 * 16 + 8 * 8)


def test_pictures_of_all_kinds_lie_one_after_the_other_for_the_device(source, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(len(source)):
        picture = Image.open(source.path(i)).convert("RGB")
        name, how = [("jpg", {}), ("jpg", {"exif": exif}), ("png", {}), ("jpg", {})][i % 4]
        picture.save(tmp_path / f"{i:02d}.{name}", **how)
    (tmp_path / "03.jpg").write_bytes((tmp_path / "03.jpg").read_bytes()[:-200])
    mixed, bad = scan(tmp_path), []
    for (batch,) in Loader(config(pixels="device"), mixed, grid=(4, 4), end_step=6):
        pictures = [decode(mixed.path(i)) for i in batch.index]
        assert batch.sizes.tolist() == [list(picture.shape[:2]) for picture in pictures]
        flat = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
        assert np.array_equal(batch.pictures.numpy(), flat)
        bad += [name for name, _ in batch.bad]
    assert set(bad) == {"03.jpg"}


@PIXELS
def test_bad_files_are_replaced_by_the_same_images_whoever_reads_them(source, tmp_path, pixels):
    for i in range(len(source)):
        (tmp_path / source.name(i)).write_bytes(
            source.path(i).read_bytes() if i % 5 else b"not an image"
        )
    damaged = scan(tmp_path)
    made = [config(workers=w, pixels=pixels) for w in (0, 2)]
    loader = [Loader(one, damaged, grid=(4, 4), end_step=6) for one in made]
    first, second = ([s[0] for s in part] for part in loader)
    bad = {row for batch in first for row in batch.bad}
    assert {name for name, _ in bad} <= {f"{i:02d}.png" for i in range(0, 26, 5)} and len(bad) >= 5
    assert {reason for _, reason in bad} == {"not an image"}
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b)
        assert a.bad == b.bad and not any(i % 5 == 0 for i in a.index)


def test_a_folder_of_bad_files_stops_with_the_reason(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^100 images in a row") as caught:
            next(iter(Loader(config(batch=2, workers=workers), scan(tmp_path), grid=(4, 4))))
        assert "empty file" in caught.value.why


@pytest.mark.skipif(sys.platform != "linux", reason="the sender of a signal is known on Linux only")
@pytest.mark.parametrize("sent", ["INT", "TERM"])
def test_workers_go_on_when_a_scheduler_signals_every_process(source, sent):
    batches = iter(Loader(config(workers=2), source, grid=(4, 4), end_step=20))
    got = [next(batches), next(batches)]  # each worker has begun
    # From another process, as a scheduler does: SIGTERM from the parent ends a worker.
    subprocess.run(
        ["kill", f"-{sent}", *(str(worker.pid) for worker in multiprocessing.active_children())],
        check=True,
    )
    got += batches
    for a, b in zip(got, steps(source, 20), strict=True):
        assert_equal(a[0], b[0])


def test_python_ends_while_batches_are_still_wanted(source):
    script = f"""
from ibot.config.schema import AugmentConfig, Config, SystemConfig, TrainConfig
from ibot.data.loader import Loader
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.scan import scan
augment = AugmentConfig(num_local=2, global_size=(16, 16), local_size=(8, 8))
system = SystemConfig(workers=2, device="cpu")
config = Config(augment=augment, train=TrainConfig(batch=8), system=system)
batches = iter(Loader(config, scan({str(source.root)!r}), grid=(4, 4)))
next(batches)
raise RuntimeError("a bug that keeps the loader alive")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "keeps the loader alive" in done.stderr


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Eleven images of many shapes, one of them turned; numbers 2 and 7 cannot be read."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(1)
    turned = Image.Exif()
    turned[274] = 6
    for i in range(11):
        pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png", exif=turned if i == 4 else None)
    for i in (2, 7):
        (folder / f"{i:02d}.png").write_bytes(b"broken")
    return scan(folder)


def plain_batch(config, source, step, part, rank, world_size, grid):
    """Images of a micro-batch and their views and masks, by the words at the head of the module."""
    seed, size = config.train.seed, len(source)
    epoch, position = divmod(step, size // config.train.batch)
    order = permutation(seed, epoch, size).tolist()
    of_step = order[position * config.train.batch :][: config.train.batch]
    own = [image for place, image in enumerate(of_step) if place % world_size == rank]
    length, index = len(own) // config.train.accumulate, []
    for image in own[part * length : (part + 1) * length]:
        found, attempt = image, 0
        while found in (2, 7):
            found = int(uniform(seed, epoch, image, attempt, Purpose.REPLACE, 1)[0] * size)
            attempt += 1
        index.append(found)
    pixels = [decode(source.path(i), config.data.exif_orientation) for i in index]
    sizes = np.array([image.shape[:2] for image in pixels])
    params = view_params(config.augment, seed, epoch, np.array(index), sizes)
    views = [render(image, params, row, config.augment) for row, image in enumerate(pixels)]
    if config.method.patch_match == "hidden":
        masks = make_masks(config.mask, grid, 2, seed, epoch, np.array(index))
        if config.mask.views == "all":
            key = (seed, epoch, np.array(index))
            masks = replace(masks, local=make_masks(config.mask, (4, 6), 1, *key, first_view=2))
        if config.method.visible_target == "other":
            masks = with_visible(masks, make_pairs("position", params, grid))
    else:
        masks = make_pairs(config.method.patch_match, params, grid)
    return index, views, masks, [content_hash(image) for image in pixels]


@pytest.mark.parametrize(
    ("method", "views", "orientation"),
    [
        ({}, "global", "apply"),
        ({}, "all", "ignore"),
        ({"patch_match": "position"}, "global", "ignore"),
        ({"visible_weight": 1.0, "visible_target": "other"}, "global", "apply"),
    ],
    ids=["hidden", "local ones too", "by position", "visible by position"],
)
def test_a_batch_is_made_image_by_image_from_the_order_of_its_epoch(
    mixed, method, views, orientation
):
    config = Config(
        augment=AugmentConfig(num_local=1, global_size=(16, 24), local_size=(16, 24)),
        model=ModelConfig(patch=4),
        mask=MaskConfig(ratio=((0.4, 0.1),), views=views),
        method=MethodConfig(**method),
        train=TrainConfig(batch=8, accumulate=2, seed=5),
        data=DataConfig(exif_orientation=orientation),
        system=SystemConfig(workers=0),
    )
    grid = (2, 3)
    for rank in range(2):
        options = {"grid": grid, "rank": rank, "world_size": 2, "start_step": 1, "end_step": 4}
        found = list(Loader(config, mixed, **options))
        assert [len(parts) for parts in found] == [2, 2, 2]
        for step, part in np.ndindex(3, 2):
            got = found[step][part]
            index, rendered, masks, content = plain_batch(
                config, mixed, 1 + step, part, rank, 2, grid
            )
            assert got.index.tolist() == index and got.content.tolist() == content
            assert torch.equal(got.masks.map, masks.map)
            assert torch.equal(got.masks.index, masks.index)
            assert torch.equal(got.masks.weight, masks.weight)
            assert (got.masks.local is None) == (views == "global")
            assert (got.masks.visible is None) == ("visible_weight" not in method)
            if masks.visible is not None:
                assert torch.equal(got.masks.visible.index, masks.visible.index)
                assert torch.equal(got.masks.visible.target, masks.visible.target)
                assert not got.masks.map.flatten()[got.masks.visible.index].any()
            if masks.local is not None:
                assert torch.equal(got.masks.local.map, masks.local.map)
            for row, own in enumerate(rendered):
                for view, want in enumerate(own):
                    many = got.global_views if view < 2 else got.local_views
                    pixels = many[view % 2, row].permute(1, 2, 0).numpy()
                    np.testing.assert_array_equal(pixels, want)


def test_the_hash_of_an_image_sees_some_sixteen_rows_and_columns():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    seen, unseen = image.copy(), image.copy()
    seen[60, 45] ^= 1
    unseen[61, 46] ^= 1
    assert content_hash(unseen) == content_hash(image) != content_hash(seen)
    plain = np.full((64, 48, 3), 7, np.uint8)
    assert content_hash(plain) == -1
    plain[4, 0, 2] = 8
    assert content_hash(plain) >= 0


def test_images_and_plain_images_have_their_hashes(source, tmp_path):
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "plain.png")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(source.path(0).read_bytes())
    (batch,) = next(iter(Loader(config(batch=4), scan(tmp_path), grid=(4, 4))))
    assert sorted(batch.content)[0] == -1 and len(set(batch.content.tolist())) == 2


def test_batches_that_do_not_fit_are_refused(source):
    with pytest.raises(DataError, match="larger than the data set of 26") as caught:
        Loader(config(batch=32), source, grid=(4, 4))
    assert "train.batch=16" in caught.value.fix
    with pytest.raises(ConfigError, match="cannot be shared equally") as caught:
        Loader(config(batch=9), source, grid=(4, 4), world_size=2)
    assert "multiple of 2" in caught.value.fix


@pytest.mark.parametrize("there", [True, False])
def test_memory_is_pinned_for_a_gpu_that_is_there_and_used(source, monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    for device, used in (("cpu", False), ("auto", there), ("cuda", there)):
        chosen = replace(config(), system=SystemConfig(device=device))
        assert Loader(chosen, source, grid=(4, 4)).on_gpu == used


def test_the_number_of_workers_follows_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    assert choose_workers(-1, on_gpu=True) == 11 and choose_workers(-1, on_gpu=False) == 3
    assert choose_workers(0, on_gpu=True) == 0 and choose_workers(5, on_gpu=False) == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_workers(-1, on_gpu=True) == 2 and choose_workers(-1, on_gpu=False) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    assert choose_workers(-1, on_gpu=True) == 11
    assert replace(config()).system.workers == 0


def test_reading_ahead_is_bounded_by_memory(source):
    def ahead(config, world_size, workers):
        return read_ahead(micro_batch_bytes(config, source, world_size), workers)

    small = Config(
        augment=AugmentConfig(global_size=(32, 32), num_local=0), train=TrainConfig(batch=128)
    )
    assert ahead(small, 1, 8) == 4
    large = Config(train=TrainConfig(batch=1024))
    assert ahead(large, 1, 15) == 1 and ahead(large, 16, 15) == 4
    assert ahead(replace(large, train=TrainConfig(batch=1024, accumulate=4)), 1, 3) > 1


def test_borders_are_cut_off_before_views_are_drawn_where_that_is_asked(tmp_path):
    """Scans with a border give the batches of what is inside of it."""
    rng = np.random.default_rng(0)
    inside = rng.integers(0, 200, (12, 24, 20, 3)).astype(np.uint8)
    pages = np.full((12, 30, 30, 3), 250, np.uint8)
    pages[:, 3:27, 4:24] = inside
    labels = np.zeros(12, np.int32)
    scans, plain = (
        ArrayImages(tmp_path, "train", pixels, labels, ("any",)) for pixels in (pages, inside)
    )
    made = config()
    cut = replace(made, data=replace(made.data, trim_border=True))
    (a,) = next(iter(Loader(cut, scans, grid=(4, 4))))
    (b,) = next(iter(Loader(made, plain, grid=(4, 4))))
    assert_equal(a, b)
    (c,) = next(iter(Loader(made, scans, grid=(4, 4))))
    assert not torch.equal(a.global_views, c.global_views)


def test_a_batch_says_what_it_took_to_make_it(source):
    (batch,) = steps(source, 1)[0]
    made = batch.made
    assert made.decode > 0 and made.render > 0
    assert 0 < made.busy <= 1.05 * (made.decode + made.render) + 0.01 and made.queued >= 0
