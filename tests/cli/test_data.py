"""`ibot data report` and `ibot data pack`."""

import hashlib
import json
import time

import numpy as np
import pytest
from commands import ibot, start_ibot
from pages import NAMES, Page
from PIL import Image

from ibot.cli.main import main
from ibot.data.packing import pack, parts_to_pack
from ibot.data.sets.open import open_images


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two parts with copies within and across them, files of several kinds, and broken ones."""
    root = tmp_path_factory.mktemp("data") / "set"
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
    pictures = [
        np.asarray(Image.fromarray(few).resize((48, 36), Image.Resampling.BICUBIC))
        for few in coarse
    ]
    train, val = root / "train", root / "val"
    for i, picture in enumerate(pictures[:6]):
        save(train / ("cat" if i < 4 else "dog") / f"{i}.png", picture)
    (train / "dog" / "copy.png").write_bytes((train / "cat" / "0.png").read_bytes())
    save(train / "dog" / "again.jpg", pictures[1], quality=90)
    save(val / "cat" / "leak.jpg", pictures[2], quality=85)
    save(val / "cat" / "own.png", pictures[7])
    save(val / "dog" / "own.png", pictures[8])
    save(train / "cat" / "deep.png", random.integers(0, 2**16, (50, 100), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(train / "cat" / "lying.jpg", pictures[9], exif=exif)
    (train / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return root


def report(data, tmp_path, *options):
    out = tmp_path / "out.json"
    assert main(["data", "report", str(data), "--json", str(out), "--workers", "0", *options]) == 0
    return json.loads(out.read_text())


def test_the_report_says_what_is_there(data, tmp_path, capsys):
    found = report(data, tmp_path)
    train, val = found["parts"]
    assert (train["images"], val["images"], train["looked_at"]) == (11, 3, 11)
    assert train["classes"] == {"cat": 7, "dog": 4} and val["classes"] == {"cat": 2, "dog": 1}
    assert train["extensions"] == {".png": 8, ".jpg": 3} and train["folders"] == train["classes"]
    assert train["kinds"] == {"PNG RGB 8 bit": 7, "JPEG RGB 8 bit": 2, "PNG I;16 16 bit": 1}
    assert train["sides"]["32-63"] == 10 and sum(train["sides"].values()) == 10
    assert (train["smallest"], train["largest"]) == ([36, 48], [50, 100])
    assert train["aspect"] == [pytest.approx(36 / 48), pytest.approx(48 / 36), 2]
    assert train["gray"] == pytest.approx(1 / 10) and train["turned"] == pytest.approx(1 / 11)
    assert train["broken"] == [["cat/broken.jpg", "corrupt"]]
    assert found["exact"] == [["train/cat/0.png", "train/dog/copy.png"]]
    assert sorted(map(sorted, found["near"])) == [
        ["train/cat/1.png", "train/dog/again.jpg"],
        ["train/cat/2.png", "val/cat/leak.jpg"],
    ]
    assert found["shared"] == 1
    said = " ".join(found["advice"])
    for words in ("1 validation image", "data.channels=all", "1 file of 14", "ibot pretrain adapt"):
        assert words in said, words
    text = capsys.readouterr().out
    assert "cat/broken.jpg: corrupt" in text and "PNG I;16 16 bit 1" in text


def test_statistics_are_those_of_all_pixels_of_each_image(data, tmp_path):
    images = open_images(str(data))
    moments = []
    for i in range(len(images)):
        if "broken" not in images.name(i):
            levels = images.read(i) / 255
            moments.append((levels.mean((0, 1)), (levels**2).mean((0, 1))))
    mean, square = np.mean(moments, 0)
    channels = report(data, tmp_path)["parts"][0]["channels"]
    assert [one["name"] for one in channels] == ["red", "green", "blue"]
    np.testing.assert_allclose([one["mean"] for one in channels], mean, atol=1e-6)
    deviation = [one["deviation"] for one in channels]
    np.testing.assert_allclose(deviation, np.sqrt(square - mean**2), atol=1e-6)


def test_processes_find_the_same_as_one(data, tmp_path):
    assert report(data, tmp_path, "--workers", "2") == report(data, tmp_path)


def test_a_sample_is_spread_over_all(data, tmp_path):
    train, _ = report(data, tmp_path, "--sample", "3")["parts"]
    assert train["looked_at"] == 3 and train["images"] == 11 and train["classes"]["cat"] == 7


def test_the_page_is_one_file_with_pictures(data, tmp_path):
    file = tmp_path / "page.html"
    options = ["--html", str(file), "--quiet", "--workers", "0"]
    assert main(["data", "report", str(data), *options]) == 0
    page = Page(file)
    assert len(page.images()) == 10 + 3 + 2 * 3  # of each part but the broken one, and of copies
    headings = page.text("h2")
    assert headings[:3] == ["What follows", "Train", "Val"] and "Copies" in headings
    assert not any(key in ("src", "href") and not value.startswith("data:") for _, found in
                   page.elements for key, value in found.items())  # fmt: skip
    assert main(["data", "report", str(data), *options]) == 0, "its own page is replaced"
    file.write_text("mine")
    assert main(["data", "report", str(data), *options]) == 2 and file.read_text() == "mine"


def test_names_that_want_to_break_out_stay_names(tmp_path):
    root = tmp_path / "set"
    for i, name in enumerate(NAMES):
        if "\ud800" not in name:
            save(root / name, np.full((8, 8, 3), i, np.uint8), format="PNG")
    file = tmp_path / "page.html"
    assert main(["data", "report", str(root), "--html", str(file), "--workers", "0"]) == 0
    page = Page(file)
    assert not page.all("script") and len(page.all("img")) == len(NAMES) - 1


def test_channels_are_reported_as_they_are_stored(tmp_path, capsys):
    random = np.random.default_rng(0)
    values = random.integers(0, 2**15, (6, 20, 24, 4), dtype=np.int16)
    np.save(tmp_path / "a.npy", values)
    assert main(["data", "report", str(tmp_path / "a.npy")]) == 2
    assert "--channels all" in capsys.readouterr().err
    page = tmp_path / "page.html"
    options = ("--channels", "all", "--no-data", "-1", "--html", str(page))
    found = report(tmp_path / "a.npy", tmp_path, *options)
    (part,) = found["parts"]
    levels = (values.astype(np.float64) + 2**15) / (2**16 - 1)
    assert not part["broken"] and len(Page(page).images()) == 6
    assert [one["name"] for one in part["channels"]] == ["1", "2", "3", "4"]
    means = [one["mean"] for one in part["channels"]]
    np.testing.assert_allclose(means, levels.mean((0, 1, 2)), atol=1e-6)
    assert not any("model.mean" in sentence for sentence in found["advice"])


def test_lists_may_name_images_from_the_root_on(data, tmp_path):
    """Copies across the parts are counted, and shown under the name of their part."""
    train, val = data / "train" / "cat" / "0.png", data / "val" / "cat" / "own.png"
    rows = [f"{train},cat,train", f"{data}/train/dog/copy.png,dog,val", f"{val},cat,val"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    page = tmp_path / "page.html"
    found = report(tmp_path / "list.csv", tmp_path, "--html", str(page))
    assert found["shared"] == 1
    assert found["exact"] == [[f"train/{train}", f"val/{data}/train/dog/copy.png"]]
    assert len(Page(page).images()) == 3 + 2


@pytest.mark.parametrize("content", ["one image", "one broken file"])
def test_the_smallest_sets_are_reported(tmp_path, content):
    save(tmp_path / "set" / "a.png", np.zeros((5, 7, 3), np.uint8))
    if content == "one broken file":
        (tmp_path / "set" / "a.png").write_bytes(b"nothing")
    page = tmp_path / "page.html"
    (part,) = report(tmp_path / "set", tmp_path, "--html", str(page))["parts"]
    assert part["looked_at"] == 1 and len(part["broken"]) == (content == "one broken file")
    assert len(Page(page).images()) == (content == "one image")


def test_archives_and_pictures_in_memory_are_looked_at_too(data, tmp_path):
    pack(parts_to_pack(str(data)), tmp_path / "shards", size=4)
    folder, shards = report(data, tmp_path), report(tmp_path / "shards", tmp_path)
    for one, other in zip(folder["parts"], shards["parts"], strict=True):
        for key in ("images", "classes", "kinds", "sides", "channels", "gray", "turned"):
            assert one[key] == other[key], key
    assert len(shards["exact"]) == 1 and shards["shared"] == 1


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty pictures in four classes."""
    root = tmp_path_factory.mktemp("many") / "set"
    random = np.random.default_rng(1)
    for i in range(40):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        save(root / f"class {i % 4}" / f"{i}.png", pixels)
    return root


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def killed(arguments, partial, shards):
    """Start a packing and kill it once so many shards are there, if it comes so far."""
    command = start_ibot(*arguments)
    while command.poll() is None and len(list(partial.glob("*.tar"))) < shards:
        time.sleep(0.001)
    command.kill()


def test_a_packing_that_is_killed_again_and_again_ends_as_one_that_is_not(many, tmp_path):
    pack(parts_to_pack(str(many)), tmp_path / "whole", size=2)
    arguments = ["data", "pack", many, "--to", tmp_path / "shards", "--size", 2, "--quiet"]
    partial = tmp_path / "shards.partial"
    for number in (1, 12):
        killed(arguments, partial, number)
        assert partial.exists() and not (tmp_path / "shards").exists()
    done = ibot(*arguments)
    assert done.returncode == 0 and "20 in" in done.stdout and "there already" in done.stdout
    assert digests(tmp_path / "shards") == digests(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "whole"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_200_shards_of_500_images_come_through_kills(tmp_path):
    random = np.random.default_rng(2)
    (tmp_path / "set").mkdir()
    for i in range(100_000):
        folder = tmp_path / "set" / f"{i % 100:03d}"
        folder.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.bmp")
    arguments = ["data", "pack", tmp_path / "set", "--to", tmp_path / "shards", "--quiet"]
    for number in (1, 60, 130):
        killed(arguments, tmp_path / "shards.partial", number)
    assert start_ibot(*arguments).ended(800).returncode == 0
    folder, shards = open_images(str(tmp_path / "set")), open_images(str(tmp_path / "shards"))
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 200 and len(shards) == 100_000
    assert folder.classes == shards.classes
    np.testing.assert_array_equal(folder.labels, shards.labels)
    for i in range(0, 100_000, 7):
        np.testing.assert_array_equal(folder.read(i), shards.read(i))


def test_what_cannot_be_done_is_told_in_words(many, tmp_path, capsys):
    for arguments, words in {
        ("report", "nowhere"): "there is no folder 'nowhere'",
        ("report", str(many), str(many)): "one set of images at a time",
        ("pack", str(many), "--to", str(many)): "is there already",
        ("pack", str(many), "--to", "/dev/null/x"): "name another with --to",
        ("pack", "nowhere", "--to", str(tmp_path / "x")): "there is no folder 'nowhere'",
    }.items():
        assert main(["data", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_images_of_many_channels_are_looked_at_by_them(tmp_path):
    random = np.random.default_rng(0)
    values = random.integers(0, 2**14, (6, 20, 24, 5), dtype=np.uint16)
    np.save(tmp_path / "five.npy", values)
    part = report(tmp_path / "five.npy", tmp_path, "--channels", "2,5")["parts"][0]
    chosen = values[..., [1, 4]] / (2**16 - 1)
    assert [channel["name"] for channel in part["channels"]] == ["2", "5"]
    assert [c["mean"] for c in part["channels"]] == pytest.approx(chosen.mean((0, 1, 2)).tolist())
    assert (part["broken"], part["middle"]) == ([], [20, 24])


def test_channels_of_both_parts_are_looked_at(tmp_path, capsys):
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            np.save(tmp_path / part / name / "0.npy", np.full((8, 9, 5), 2**15, np.uint16))
    found = report(tmp_path, tmp_path, "--channels", "all")
    assert [(p["images"], len(p["channels"]), p["broken"]) for p in found["parts"]] == [
        (2, 5, []),
        (2, 5, []),
    ]
    assert not any("model.std" in sentence for sentence in found["advice"])


def test_copies_are_found_among_all_files_however_few_are_looked_at(data, tmp_path, capsys):
    found = report(data, tmp_path, "--sample", "2")
    assert ["train/cat/0.png", "train/dog/copy.png"] in found["exact"]
    assert (found["exact_among"], found["near_among"]) == (14, 4)
    assert "compared     bytes of 14 images (1 copy), looks of 4 images" in capsys.readouterr().out


def test_a_report_of_one_file_names_that_file(data, tmp_path, capsys):
    picture = data / "train" / "cat" / "0.png"
    assert report(picture, tmp_path)["parts"][0]["root"] == str(picture)
    np.save(tmp_path / "a.npy", np.full((4, 9, 8, 5), 7, np.uint16))
    part = report(tmp_path / "a.npy", tmp_path, "--channels", "all")["parts"][0]
    assert part["root"] == str(tmp_path / "a.npy") and part["extensions"] == {".npy": 4}
    said = capsys.readouterr().out
    assert "mean 0.0001068, deviation 0" in said and "shares" not in said.partition("a.npy")[2]


def test_large_images_are_looked_at_in_windows(tmp_path, capsys):
    save(tmp_path / "a" / "0.png", np.zeros((64, 96, 3), np.uint8))
    part = report(tmp_path / "a", tmp_path, "--window", "32")["parts"][0]
    assert part["images"] == 6 and part["largest"] == [32, 32]
    assert "seen in 6 windows of 32 pixels" in capsys.readouterr().err


def test_files_that_are_broken_alike_share_a_line_and_the_advice_fits_their_channels(
    tmp_path, capsys
):
    tifffile = pytest.importorskip("tifffile")
    for name in "abcde":
        bands = np.random.default_rng(ord(name)).integers(0, 9, (20, 20, 7), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{name}.tif", bands, planarconfig="contig")
    assert main(["data", "report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith("  broken ")]
    assert "a.tif, b.tif, c.tif and 2 more: " in line
    assert "--init ibot:vit_s16 data.channels=all goes on" in text
