"""Originals and copies: which belongs to which, and copies that are made."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.data.annotated.attacks import ATTACKS, AttackedImages, attacked
from ibot.data.annotated.copies import open_copies
from ibot.data.sets.arrays import ArrayImages
from ibot.errors import DataError


def pictures(folder, *names, size=(20, 12)):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 + 30 * i, 50, 50)).save(folder / name)


def links(task):
    """Names of copies with their originals, by block."""
    return {
        name: {
            block.images.name(i): task.originals.name(int(place))
            for i, place in enumerate(block.original)
        }
        for name, block in task.blocks.items()
    }


def test_copydays_blocks_are_linked_by_name_and_number(tmp_path):
    pictures(tmp_path, "original/200000.jpg", "original/200100.jpg")
    pictures(tmp_path, "strong/200001.jpg", "strong/200101.jpg", "strong/200102.jpg")
    pictures(tmp_path, *(f"jpegqual/{q}/200{i}00.jpg" for q in (3, 20, 5) for i in (0, 1)))
    task = open_copies(str(tmp_path))
    found = links(task)
    assert list(found) == ["original", "strong", "jpegqual/3", "jpegqual/5", "jpegqual/20"]
    assert found["strong"] == {
        "strong/200001.jpg": "200000.jpg",
        "strong/200101.jpg": "200100.jpg",
        "strong/200102.jpg": "200100.jpg",
    }
    assert found["jpegqual/20"]["jpegqual/20/200100.jpg"] == "200100.jpg"
    assert found["original"] == {"200000.jpg": "200000.jpg", "200100.jpg": "200100.jpg"}


def test_the_real_set_has_twenty_blocks(shared_data, tmp_path):
    with tarfile.open(shared_data / "copy_detection" / "copydays_mini.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    task = open_copies(str(next(tmp_path.rglob("original")).parent))
    sizes = {name: len(block.images) for name, block in task.blocks.items()}
    assert len(sizes) == 20 and sizes.pop("strong") == 45 and set(sizes.values()) == {15}
    for name, block in links(task).items():
        assert all(copy.rpartition("/")[2][:4] == own[:4] for copy, own in block.items()), name


def test_own_copies_begin_as_their_originals_are_called(tmp_path):
    pictures(tmp_path, "original/1.png", "original/10.png", "original/dog.png")
    pictures(tmp_path, "edited/1-crop.jpg", "edited/10_2.png", "edited/dog.jpg", "edited/dog.x.jpg")
    assert links(open_copies(str(tmp_path)))["edited"] == {
        "edited/1-crop.jpg": "1.png",
        "edited/10_2.png": "10.png",
        "edited/dog.jpg": "dog.png",
        "edited/dog.x.jpg": "dog.png",
    }


@pytest.mark.parametrize("name", ["dogs.jpg", "100.jpg", "200001.jpg"])
def test_a_copy_without_original_is_told(tmp_path, name):
    pictures(tmp_path, "original/10.png", "original/dog.png", f"edited/{name}")
    with pytest.raises(DataError, match=f"{name}' is a copy of no original") as refused:
        open_copies(str(tmp_path))
    assert "--labels" in refused.value.fix


def test_originals_alone_are_no_copies(tmp_path):
    pictures(tmp_path, "original/10.png")
    with pytest.raises(DataError, match="holds no copies"):
        open_copies(str(tmp_path))
    task = open_copies(str(tmp_path / "original"))
    assert not task.blocks and len(task.originals) == 1


def test_a_table_links_what_names_do_not(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "x/1.png", "x/2.png", "y/3.png")
    table = tmp_path / "links.csv"
    table.write_text("copy,original,block\nx/1.png,b.png,\n\ny/3.png,a.png,hard\nx/2.png,a.png,\n")
    found = links(open_copies(str(tmp_path), labels=str(table)))
    assert found == {
        "hard": {"y/3.png": "a.png"},
        "x": {"x/1.png": "b.png", "x/2.png": "a.png"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("copy;source\n1;2\n", "lacks the columns"),
        ("copy,original\n", "is empty"),
        ("copy,original\na.png,\n", "line 2 .* is not whole"),
        ("copy,original\na.png,a.png\ngone.png,a.png\n", r"names 'gone.png' \(line 3\)"),
        (None, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path, text, words):
    pictures(tmp_path, "a.png")
    table = tmp_path / "links.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(DataError, match=words) as refused:
        open_copies(str(tmp_path), labels=str(table))
    assert refused.value.fix


@pytest.fixture
def noise(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    pixels[:, 10:30] //= 4
    return ArrayImages(tmp_path, "all", pixels, np.zeros(3, np.int32), ("",))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_follows_from_seed_and_image(noise, attack):
    images = AttackedImages(noise, attack, 0)
    first = images.read(1)
    assert first.dtype == np.uint8 and first.shape == (*images.size(1), 3)
    np.testing.assert_array_equal(first, attacked(noise.read(1), attack, 0, 1))
    if not attack.startswith("crop") and attack != "strong":
        assert first.shape == (40, 60, 3)
    assert first.shape != (40, 60, 3) or (first != noise.read(1)).any()
    if attack not in ("mirror", "gray") and not attack.startswith("jpeg"):
        others = attacked(noise.read(1), attack, 1, 1), attacked(noise.read(1), attack, 0, 2)
        assert all(o.shape != first.shape or (o != first).any() for o in others)
    assert images.name(1) == f"{attack}/all/00001"
    assert len({images.fingerprint(), AttackedImages(noise, attack, 1).fingerprint()}) == 2


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 90), (7, 3)], ids=str)
def test_attacks_leave_something_of_tiny_images(attack, shape):
    found = attacked(np.full((*shape, 3), 200, np.uint8), attack, 0, 0)
    assert min(found.shape) >= 1 and found.shape[2] == 3


def test_crops_remove_their_share_of_the_area():
    image = np.zeros((200, 300, 3), np.uint8)
    for attack, left in (("crop20", 0.8), ("crop50", 0.5), ("crop80", 0.2)):
        height, width, _ = attacked(image, attack, 0, 0).shape
        assert height * width / 60000 == pytest.approx(left, abs=0.01)
        assert width / height == pytest.approx(1.5, abs=0.02)
