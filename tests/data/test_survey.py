import numpy as np
import pytest
from PIL import Image

from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.scan import scan
from ibot.data.survey import survey
from ibot.errors import DataError


def write(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return scan(folder)


def varied(count, size=(40, 60), seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size[::-1])
        )
        for _ in range(count)
    ]


def test_sizes_colours_and_variety(tmp_path):
    seen = survey(write(tmp_path / "a", varied(60)))
    assert (seen.images, seen.side, seen.smallest) == (60, 40, 40)
    assert seen.gray == 0 and seen.variety > 15 and seen.repeated == 0 and seen.unreadable == 0
    gray = [
        np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8) for image in varied(20)
    ]
    assert survey(write(tmp_path / "b", gray)).gray == 1


def test_copies_and_uniform_sets_show(tmp_path):
    images = varied(10)
    assert survey(write(tmp_path / "a", images * 3)).repeated == 1
    ramp = [np.clip(images[0].astype(int) + 3 * i, 0, 255).astype(np.uint8) for i in range(12)]
    assert survey(write(tmp_path / "b", ramp)).variety < 3


def test_unreadable_files_are_counted(tmp_path):
    source = write(tmp_path / "a", varied(8))
    (tmp_path / "a" / "000.png").write_bytes(b"no image")
    assert survey(source).unreadable == 0.125
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="sampled"):
        survey(source)


def test_thumbnails_that_differ_by_rounding_alone_have_one_direction(tmp_path):
    dark = np.zeros((8, 8, 3), np.uint8)
    dark[..., 0] = 1  # a gray level of a third, which no mean of many hits exactly
    assert survey(write(tmp_path / "a", [dark] * 7)).variety == 1


def test_images_in_memory_are_surveyed_like_files(tmp_path):
    pixels = np.stack(varied(12, size=(32, 32)))
    held = ArrayImages(tmp_path, "train", pixels, np.zeros(12, np.int32), ("any",))
    assert survey(held) == survey(write(tmp_path / "a", list(pixels)))


def test_borders_and_images_without_an_up_are_seen(tmp_path):
    """Scans of noise with white borders, then the same with a light above."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 200, (120, 32, 32, 3)).astype(np.uint8)
    labels = np.zeros(120, np.int32)
    scans = np.full((120, 40, 40, 3), 250, np.uint8)
    scans[:90, 4:36, 4:36] = noise[:90]
    scans[90:] = noise[90:].repeat(2, 1).repeat(2, 2)[:, :40, :40]
    seen = survey(ArrayImages(tmp_path, "train", scans, labels, ("any",)))
    assert seen.bordered == 0.75 and seen.looked_at == 120 and seen.no_up and seen.no_side
    light = np.linspace(1.2, 0.8, 32)[:, None, None]
    lit = survey(ArrayImages(tmp_path, "train", (noise * light).astype(np.uint8), labels, ("any",)))
    assert lit.bordered == 0 and not lit.no_up and not lit.no_side
    few = survey(ArrayImages(tmp_path, "train", noise[:99], labels, ("any",)))
    assert not few.no_up and few.upside_down < 2
