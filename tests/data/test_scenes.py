import numpy as np
import pytest
from PIL import Image

from ibot.data.scenes import CLASSES, draw_scene, write_folder
from ibot.data.sets.open import find_labelled


def test_a_scene_is_a_function_of_its_numbers():
    a, b = draw_scene(3, 17), draw_scene(3, 17)
    np.testing.assert_array_equal(a.image, b.image)
    assert not np.array_equal(a.image, draw_scene(4, 17).image)
    assert (
        a.label == 17 % len(CLASSES) and a.image.shape == (32, 32, 3) and a.image.dtype == np.uint8
    )


def test_masks_and_boxes_agree_and_masks_do_not_overlap():
    for index in range(20):
        scene = draw_scene(0, index, size=64, objects=4)
        assert (
            scene.masks.shape == (4, 64, 64)
            and scene.masks.sum(0).max() <= 1
            and len(scene.labels) == 4
        )
        for mask, (left, top, right, bottom) in zip(
            scene.masks, scene.boxes.astype(int), strict=True
        ):
            if mask.any():
                assert mask[top:bottom, left:right].sum() == mask.sum()
                assert mask[top].any() and mask[:, right - 1].any()


SEEN = [
    (556, 39.31, 26.07, 2, 68.2, 51.1, 77.7, 55.6, 50.1, 96.4, 42.9),
    (727, 37.97, 44.65, 6, 97.9, 107.6, 106.0, 133.1, 80.4, 119.4, 133.6),
    (403, 37.45, 41.20, 1, 92.3, 95.4, 95.9, 106.6, 126.2, 78.3, 88.1),
    (639, 44.71, 31.82, 0, 147.2, 156.1, 123.6, 131.7, 97.7, 159.5, 161.8),
    (640, 45.78, 16.17, 5, 86.3, 87.5, 59.6, 91.3, 90.2, 93.7, 59.6),
    (689, 18.16, 27.68, 9, 119.7, 120.1, 112.8, 121.0, 103.1, 138.8, 113.3),
    (345, 29.64, 18.09, 5, 126.8, 117.4, 129.1, 118.6, 90.6, 131.2, 147.1),
    (470, 20.54, 35.75, 1, 156.9, 182.1, 189.3, 188.2, 160.3, 197.9, 179.2),
    (230, 49.55, 33.59, 6, 87.7, 81.5, 90.8, 102.5, 50.8, 105.9, 115.2),
    (557, 38.95, 26.67, 9, 125.3, 112.9, 174.2, 132.9, 145.6, 138.3, 125.0),
]
"""Of one scene of each class: pixels, mean row and column of its object, the class of the second
one, brightness of the four quarters, and red, green, blue of the whole."""


def test_scenes_stay_what_they_are():
    """Results on generated scenes are published: other versions must draw the same ones."""
    for index, (pixels, row, column, second, *levels) in enumerate(SEEN):
        scene = draw_scene(5, index, size=64, objects=2, frame=1, clutter=2, color=0.6)
        assert scene.labels == (index, second)
        assert scene.masks[0].sum() == pytest.approx(pixels, abs=4)
        centre = np.argwhere(scene.masks[0]).mean(0)
        assert centre == pytest.approx([row, column], abs=0.1)
        quarters = scene.image.reshape(2, 32, 2, 32, 3).mean((1, 3, 4)).ravel()
        got = [*quarters, *scene.image.mean((0, 1))]
        assert got == pytest.approx(levels, abs=0.3)
        assert scene.image.dtype == np.uint8 and scene.boxes.dtype == np.float32


def test_objects_stand_out_from_the_paper():
    contrasts = []
    for index in range(40):
        scene = draw_scene(1, index)
        gray = scene.image.mean(-1)
        contrasts.append(gray[scene.masks[0]].mean() - gray[~scene.masks[0]].mean())
    assert np.abs(contrasts).mean() > 25
    assert 0.2 < (np.array(contrasts) > 0).mean() < 0.8, (
        "light on dark and dark on light are both frequent"
    )


def test_objects_move_along_a_line_between_frames():
    frames = [draw_scene(0, 5, size=64, frame=frame) for frame in range(3)]
    centers = [np.argwhere(scene.masks[0]).mean(0) for scene in frames]
    first, second = centers[1] - centers[0], centers[2] - centers[1]
    assert np.linalg.norm(first) > 0.3 and np.abs(first - second).max() < 1.0


def test_gray_scenes_have_no_colour_and_free_ones_do():
    assert np.ptp(draw_scene(0, 0).image.astype(int).mean((0, 1))) < 2
    assert (
        max(np.ptp(draw_scene(0, i, color=1.0).image.astype(int).mean((0, 1))) for i in range(5))
        > 10
    )


@pytest.mark.parametrize("clutter", [0, 6])
def test_clutter_adds_edges(clutter):
    plain, busy = draw_scene(0, 3, clutter=0).image, draw_scene(0, 3, clutter=clutter).image
    assert np.array_equal(plain, busy) == (clutter == 0)


def test_a_written_set_is_labelled_balanced_and_kept(tmp_path):
    write_folder(tmp_path / "set", train=40, val=20, seed=2)
    train, val = find_labelled(str(tmp_path / "set"))
    assert (len(train), len(val)) == (40, 20) and train.classes == tuple(sorted(CLASSES))
    assert np.bincount(train.labels).tolist() == [4] * 10
    first = tmp_path / "set" / "train" / CLASSES[3] / "00003.png"
    np.testing.assert_array_equal(np.asarray(Image.open(first)), draw_scene(2, 3).image)
    before = first.stat().st_mtime_ns
    write_folder(tmp_path / "set", train=40, val=20, seed=2)
    assert first.stat().st_mtime_ns == before


def test_drawing_that_was_interrupted_goes_on_and_other_numbers_begin_anew(tmp_path):
    folder = tmp_path / "set"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, train=20, val=10, seed=2, progress=stop)
    drawn, missing = (folder / "train" / CLASSES[i] / f"0000{i}.png" for i in (3, 4))
    before = drawn.stat().st_mtime_ns
    missing.unlink()
    write_folder(folder, train=20, val=10, seed=2)
    assert drawn.stat().st_mtime_ns == before and len(list(folder.rglob("*.png"))) == 30
    np.testing.assert_array_equal(np.asarray(Image.open(missing)), draw_scene(2, 4).image)
    write_folder(folder, train=20, val=10, seed=3)
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), draw_scene(3, 3).image)
