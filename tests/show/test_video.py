"""Overlays of masks on frames."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ibot.data.annotated.object_masks import write_numbers
from ibot.show.video import draw, overlay

PALETTE = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)


def test_objects_are_tinted_their_edges_have_the_colour_alone_and_the_rest_stays():
    pixels = np.full((7, 9, 3), 100, np.uint8)
    mask = np.zeros((7, 9), np.uint8)
    mask[1:6, 1:5], mask[1:6, 5:8] = 1, 2
    found = overlay(pixels, mask, PALETTE)
    assert np.array_equal(found[mask == 0], pixels[mask == 0])
    assert found[3, 2].tolist() == [150, 50, 50] and found[3, 6].tolist() == [50, 50, 150]
    for edge, number in (((1, 3), 1), ((3, 1), 1), ((3, 4), 1), ((3, 5), 2), ((5, 6), 2)):
        assert found[edge].tolist() == PALETTE[number].tolist()
    assert np.array_equal(overlay(pixels, 0 * mask, PALETTE), pixels)


def test_a_moving_picture_and_a_row_of_frames_no_larger_than_a_screen(tmp_path):
    for i in range(7):
        pixels = np.full((300, 1200, 3), 30 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
        mask = np.zeros((300, 1200), np.uint8)
        mask[100:200, 100 * i : 100 * i + 200] = 1
        write_numbers(tmp_path / f"{i}.png", mask)
    video = {
        "frames": [str(tmp_path / f"{i}.jpg") for i in range(7)],
        "masks": [f"{i}.png" for i in range(7)],
    }
    about = {"exif_orientation": "apply", "videos": {"a": video}}
    (tmp_path / "videos.json").write_text(json.dumps(about))
    records = [SimpleNamespace(extra={"files": str(tmp_path)})]
    moving, row = draw(records, tmp_path)
    with Image.open(moving) as image:
        assert image.size == (480, 120) and image.n_frames == 7
    shown = np.asarray(Image.open(row))
    assert shown.shape == (120, 5 * 480, 3)
    # Frames 0, 2, 3, 4 and 6, where the square moves by 40 pixels of the picture in each.
    parts = np.split(shown.astype(int), 5, axis=1)
    red = [(part[60, :, 0] > part[60, :, 1] + 30).nonzero()[0].mean() for part in parts]
    assert np.allclose(np.diff(red), [80, 40, 40, 80], atol=2)
    times = moving.stat().st_mtime_ns
    draw(records, tmp_path)
    assert moving.stat().st_mtime_ns == times  # what is there is left
