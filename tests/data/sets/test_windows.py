import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from slides import tissue, write_pyramid, write_svs

from ibot.config.reading import DataConfig, Windows
from ibot.config.schema import AugmentConfig, Config, SystemConfig, TrainConfig
from ibot.data.decode import UnreadableImage, decode
from ibot.data.loader import Loader
from ibot.data.sets import content as counted_content
from ibot.data.sets.content import content
from ibot.data.sets.content import tissue as is_tissue
from ibot.data.sets.images import LabelledImages, RegionImages, of_epoch
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.data.sets.scan import scan
from ibot.data.sets.subsets import SubsetImages
from ibot.data.sets.variants import count_shared
from ibot.data.sets.window_places import parse_window, window_name
from ibot.data.sets.windows import windowed
from ibot.data.tiled import _header, tiled_picture
from ibot.errors import DataError, MissingExtra

pytest.importorskip("tifffile", reason="extra slides")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "a.tif", tissue(640, 512), (4,))
    write_svs(folder / "b.svs", tissue(320, 256, seed=1))
    Image.fromarray(tissue(90, 130, seed=2)).save(folder / "c.png")
    Image.fromarray(tissue(40, 30, seed=3)).save(folder / "d.png")
    return folder


def places(images):
    return [images.place(i) for i in range(len(images))]


def test_a_grid_lies_side_by_side_and_keeps_halves_at_the_border(folder):
    images = open_images(str(folder), windows=Windows(100))
    assert isinstance(images, RegionImages) and images.root == folder
    boxes = [place.box for place in places(images) if place.picture == 0]
    assert len(boxes) == 6 * 5 and boxes[:2] == [(0, 0, 100, 100), (0, 100, 100, 100)]
    assert boxes[-1] == (500, 400, 100, 100), "40 rows and 12 columns are less than half a window"
    wide = [place.box for place in places(images) if place.picture == 1]
    assert wide[2] == (0, 200, 100, 56) and {box[0] for box in wide} == {0, 100, 200}
    assert [place.box for place in places(images)][-1] == (0, 0, 40, 30), "a small image is one"
    assert "seen in 41 windows of 100 pixels, side by side" in images.notes


def test_a_window_has_the_pixels_of_its_place(folder):
    images = open_images(str(folder), windows=Windows(100))
    for index in range(0, len(images), 3):
        picture, (top, left, height, width) = images.place(index)
        whole = images.base.read(picture)[top : top + height, left : left + width]
        assert images.size(index) == (height, width) == images.read(index).shape[:2]
        # The slide in JPEG is decoded by another decoder than Pillow's.
        assert np.abs(images.read(index).astype(int) - whole).max() <= (2 if picture == 1 else 0)
        part = images.read_region(index, (3, 2, 20, 10), (10, 5))
        inner = Image.fromarray(images.read(index)[3:23, 2:12])
        np.testing.assert_array_equal(part, inner.resize((5, 10), Image.Resampling.BICUBIC))


def test_names_tell_the_place_and_are_read_back(folder):
    images = open_images(str(folder), windows=Windows(100))
    names = [images.name(i) for i in range(len(images))]
    assert names[1] == "a.tif#x=100,y=0,w=100,h=100" and len(set(names)) == len(names)
    assert [parse_window(name)[1] for name in names] == [place.box for place in places(images)]
    odd = window_name("x/a#x=1,y=2,w=3,h=4.tif", (5, 6, 7, 8))
    assert parse_window(odd) == ("x/a#x=1,y=2,w=3,h=4.tif", (5, 6, 7, 8))
    assert parse_window("a.tif") is None and parse_window("a.tif#x=1") is None


def test_random_windows_are_others_in_each_epoch_and_the_same_again(folder):
    images = open_images(str(folder), windows=Windows(64, 50, at="random"))
    assert len(images) == 50 and not isinstance(images, LabelledImages)
    first, second = (places(of_epoch(images, epoch, 7)) for epoch in (0, 1))
    assert first != second and first != places(of_epoch(images, 0, 8))
    copied = pickle.loads(pickle.dumps(images))
    assert places(of_epoch(copied, 0, 7)) == first
    for picture, (top, left, height, width) in first:
        whole = images.base.size(picture)
        assert (height, width) == (min(64, whole[0]), min(64, whole[1]))
        assert 0 <= top <= whole[0] - height and 0 <= left <= whole[1] - width


def test_an_epoch_covers_the_images_once_and_images_come_by_their_area(folder):
    images = open_images(str(folder), windows=Windows(64, at="random"))
    areas = np.array([640 * 512, 320 * 256, 90 * 130, 40 * 30])
    assert len(images) == np.ceil(areas / 64**2).sum()
    many = windowed(scan(folder), Windows(64, 20000, at="random"))
    drawn = np.array([many.place(i).picture for i in range(4000)])
    share = np.bincount(drawn, minlength=4) / 4000
    assert share == pytest.approx(areas / areas.sum(), abs=0.03)


def test_empty_windows_are_drawn_anew_and_left_out_of_grids(folder):
    images = open_images(str(folder), windows=Windows(64, 200, 0.5, "random"))
    tops = [place.box[0] for place in places(images) if place.picture == 0]
    assert len(tops) > 100 and max(tops) <= 320 - 28, "glass is below"
    shares = [content(images.base, *place) for place in places(images)]
    assert min(shares) >= 0.5
    grid = open_images(str(folder), windows=Windows(64, content=0.5))
    assert 0 < len(grid) < len(open_images(str(folder), windows=Windows(64)))
    assert all(content(grid.base, *place) >= 0.5 for place in places(grid))
    with pytest.raises(DataError, match=r"no window in .* has enough content") as caught:
        open_images(str(folder), windows=Windows(500, content=0.99))
    assert "data.window_content" in caught.value.fix


def test_where_nothing_has_enough_content_the_fullest_of_the_drawn_is_taken(folder):
    images = open_images(str(folder), windows=Windows(400, 10, 1.0, "random"))
    again = open_images(str(folder), windows=Windows(400, 10, 1.0, "random"))
    assert places(images) == places(again)
    shares = [content(images.base, *place) for place in places(images)]
    assert np.mean(shares) > 0.55, "half of the slide is glass"


def test_glass_and_what_was_not_scanned_are_no_tissue():
    colours = {"glass": (243, 240, 244), "unscanned": (2, 0, 3), "pink": (230, 180, 210)}
    colours |= {"gray": (120, 121, 119), "dark": (40, 30, 50)}
    found = {name: bool(is_tissue(np.uint8([[colour]]))) for name, colour in colours.items()}
    assert found == {"glass": False, "unscanned": False, "pink": True, "gray": True, "dark": True}


def test_sums_of_a_level_count_what_reading_the_window_counts(folder, monkeypatch):
    images = scan(folder)
    rng = np.random.default_rng(0)
    cases = [
        (0, (int(top), int(left), int(side), int(side)))
        for top, left, side in zip(*rng.integers(1, 250, (3, 30)), strict=True)
    ]
    fast = [content(images, *case) for case in cases]
    monkeypatch.setattr(counted_content, "KEPT", 0)
    assert [content(images, *case) for case in cases] == pytest.approx(fast, abs=1e-9)
    assert len(set(fast)) > 10


def test_windows_have_the_class_of_their_slide(tmp_path):
    for part in ("train", "val"):
        for number, name in enumerate(("ill", "well")):
            (tmp_path / part / name).mkdir(parents=True)
            write_pyramid(tmp_path / part / name / "a.tif", tissue(200, 128, number), ())
    train, val = open_labelled(str(tmp_path), windows=Windows(64))
    assert train.classes == val.classes == ("ill", "well") and len(train) == 2 * 3 * 2
    assert [train.label(i) for i in range(len(train))] == [0] * 6 + [1] * 6
    assert train.labels.dtype == np.int32 and train.name(6).startswith("well/a.tif#x=0,y=0")
    found = find_labelled(str(tmp_path), windows=Windows(64, 5, at="random"))
    assert [len(images) for images in found] == [12, 12], "judged by the grid"
    write_pyramid(tmp_path / "train" / "ill" / "b.tif", tissue(64, 64), ())
    aside, held = open_labelled(str(tmp_path / "train"), windows=Windows(64), split=0.5)
    slides = [{parse_window(s.name(i))[0] for i in range(len(s))} for s in (aside, held)]
    assert slides[0].isdisjoint(slides[1]), "no slide is on both sides"


def test_windows_on_both_sides_are_counted(tmp_path):
    for number, name in enumerate("xy"):
        (tmp_path / name).mkdir()
        write_pyramid(tmp_path / name / "a.tif", tissue(128, 128, number), ())
    all_of_them, one = (
        windowed(scan(folder), Windows(64)) for folder in (tmp_path, tmp_path / "x")
    )
    assert count_shared(all_of_them, one) == 4 == count_shared(one, one)


def test_what_cannot_be_read_is_said_and_never_drawn(tmp_path):
    write_pyramid(tmp_path / "a.tif", tissue(128, 128), ())
    (tmp_path / "b.tif").write_bytes(b"II*\0" + bytes(30))
    images = open_images(str(tmp_path), windows=Windows(64, 30, at="random"))
    assert any("1 image cannot be read, the first: 'b.tif': corrupt" in n for n in images.notes)
    assert {place.picture for place in places(images)} == {0}
    (tmp_path / "a.tif").unlink()
    with pytest.raises(DataError, match=r"none of 1 images in .* can be read"):
        open_images(str(tmp_path), windows=Windows(64))


def test_windows_of_other_places_are_another_set(folder):
    base = scan(folder)
    kinds = (Windows(64), Windows(80), Windows(64, content=0.5), Windows(64, 50, at="random"))
    sets = [windowed(base, kind) for kind in kinds]
    assert len({images.fingerprint() for images in sets}) == 4
    assert len({str(images.provenance()["names_sha256"]) for images in sets}) == 4
    assert windowed(base, Windows(64)).fingerprint() == sets[0].fingerprint()
    assert windowed(base, Windows()) is base and of_epoch(base, 3, 0) is base
    assert of_epoch(sets[0], 3, 0) is sets[0]


def test_windows_of_a_subset_are_read_from_its_tiles(folder):
    base = scan(folder)
    images = windowed(SubsetImages(base, [1, 0]), Windows(100))
    assert images.name(0).startswith("b.svs") and images.read(0).shape == (100, 100, 3)


def training(folder, workers=0) -> Config:
    return Config(
        augment=AugmentConfig(num_local=1, global_size=(16, 16), local_size=(8, 8)),
        train=TrainConfig(batch=8, seed=3),
        system=SystemConfig(workers=workers),
        data=DataConfig(path=str(folder), window=64, windows=20, window_content=0.3),
    )


def batches(config, start=0, stop=5):
    images = open_images(config.data.path, windows=config.data.windowing)
    loader = Loader(config, images, grid=(4, 4), start_step=start, end_step=stop)
    return [batch for (batch,) in loader]


def test_batches_are_the_same_whatever_the_workers_and_after_resuming(folder):
    plain = batches(training(folder))
    assert len(plain) == 5, "two steps an epoch"
    for other in (batches(training(folder, workers=2)), plain[:3] + batches(training(folder), 3)):
        for a, b in zip(plain, other, strict=True):
            assert np.array_equal(a.index, b.index) and np.array_equal(a.content, b.content)
            assert torch.equal(a.global_views, b.global_views)
            assert torch.equal(a.local_views, b.local_views)
    rows = {int(i): view for b in plain[:2] for i, view in zip(b.index, b.content, strict=True)}
    later = {int(i): view for b in plain[2:4] for i, view in zip(b.index, b.content, strict=True)}
    both = rows.keys() & later.keys()
    assert len(both) > 8 and all(rows[i] != later[i] for i in both), "each epoch has others"


def test_a_damaged_window_is_replaced_and_listed_with_its_place(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", tissue(256, 256), ())
    start = int(tiled_picture(path).levels[0].offsets[0, 5])
    stored = bytearray(path.read_bytes())
    stored[start : start + 30] = bytes(30)
    path.write_bytes(stored)
    config = replace(training(tmp_path), data=DataConfig(path=str(tmp_path), window=64, windows=20))
    found = batches(config)
    bad = [one for batch in found for one in batch.bad]
    assert bad and all("tile 5 cannot be decoded" in reason for _, reason in bad)
    assert all(parse_window(name)[0] == "a.tif" for name, _ in bad)
    with pytest.raises(UnreadableImage, match="tile 5"):
        open_images(str(tmp_path), windows=Windows(256)).read(0)


def test_large_pictures_without_tiles_are_read_whole_and_that_is_said(folder, monkeypatch):
    monkeypatch.setattr("ibot.data.sets.windows.LARGE", 90 * 130)
    notes = open_images(str(folder), windows=Windows(64)).notes
    assert sum("1 large image has no tiles and is read whole" in note for note in notes) == 1


def test_without_the_reader_it_is_named(folder, monkeypatch):
    _header.cache_clear()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtra) as caught:
        open_images(str(folder), windows=Windows(64))
    assert caught.value.fix.startswith('pip install "tifffile>=')
    assert len(open_images(str(folder))) == 4


def test_the_device_gets_the_parts_that_the_views_need(tmp_path):
    write_pyramid(tmp_path / "a.tif", tissue(640, 512), (4,))
    config = training(tmp_path)
    plain = batches(config)
    config = replace(config, data=replace(config.data, pixels="device"))
    for one, undrawn in zip(plain, batches(config), strict=True):
        assert np.array_equal(one.index, undrawn.index) and (undrawn.sizes <= 64).all()
        assert undrawn.sizes.prod(1).sum() == len(undrawn.pictures) < 8 * 64 * 64
        boxes = undrawn.params.box
        assert (boxes[..., :2] + boxes[..., 2:] <= undrawn.sizes[:, None]).all()


def test_more_windows_are_the_remedy_for_a_batch_that_they_do_not_fill(folder):
    config = training(folder)
    images = open_images(str(folder), windows=Windows(64, 7, at="random"))
    with pytest.raises(DataError, match="a batch of 8 images") as caught:
        Loader(config, images, grid=(4, 4))
    assert caught.value.fix == "raise data.windows to 8 or set train.batch=4 or less"


def test_a_damaged_tile_costs_the_windows_that_it_lies_in_alone(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", tissue(256, 256), ())
    start = int(tiled_picture(path).levels[0].offsets[0, 5])
    stored = bytearray(path.read_bytes())
    stored[start : start + 30] = bytes(30)
    path.write_bytes(stored)
    config = training(tmp_path)
    config = replace(config, data=replace(config.data, window=48, window_content=0.3))
    found = batches(config)
    bad = [one for batch in found for one in batch.bad]
    assert bad and all(parse_window(name)[0] == "a.tif" for name, _ in bad)
    images = open_images(str(tmp_path), windows=Windows(64, content=0.9))
    assert {images.place(i).box[0] for i in range(len(images))} == {0, 64}, "glass is left out"


def test_luma_that_no_tile_turns_to_colours_is_read_whole(tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(tissue(96, 80)).convert("YCbCr").save(file, compression="tiff_lzw")
    images = open_images(str(tmp_path), windows=Windows(48))
    np.testing.assert_array_equal(images.read(0), decode(file)[:48, :48])
