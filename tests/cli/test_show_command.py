"""`ibot show`: what it writes, says and refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from indexed import write_run
from PIL import Image
from random_weights import SWIN, VIT, write_random
from safetensors.torch import load_file, save_file

from ibot.cli.main import build_parser, main
from ibot.show.pictures import PICTURES

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of a random ViT and a random Swin."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "vit": write_random(folder / "vit.safetensors", *VIT, "method.targets=center", times=4),
        "swin": write_random(folder / "swin.safetensors", *SWIN, times=4),
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images of odd shapes, one of them damaged, with odd names."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    shapes = {"wide.png": (30, 90), "high.jpg": (80, 33), "dot.png": (1, 1), "strip.png": (3, 400)}
    shapes[os.fsdecode(b"caf\xe9 <b>.png")] = (40, 40)
    for name, shape in shapes.items():
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


def show(capsys, *arguments, code=0):
    assert main(["show", *map(str, arguments)]) == code
    return capsys.readouterr()


def sizes(folder):
    return {file.name: Image.open(file).size for file in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("network", ["vit", "swin"])
@pytest.mark.parametrize("picture", ["attention", "features"])
def test_a_folder_of_any_shapes_is_drawn_and_what_cannot_be_read_is_named(
    weights, photos, tmp_path, capsys, caplog, network, picture
):
    file = weights[network]
    said = show(capsys, picture, file, photos, "--size", 32, "--height", 40, "--out", tmp_path)
    made = sizes(tmp_path)
    assert len(made) == 6 and "contact_sheet.png" in made
    assert [name[:5] for name in made][:5] == ["00001", "00002", "00003", "00004", "00005"]
    assert "broken.jpg" in caplog.text and caplog.text.count("passed over") == 1
    assert "shown:            5 images" in said.out and "contact_sheet.png and 5 more" in said.out
    if (picture, network) == ("attention", "swin"):
        assert "no class token: attention that patches receive" in said.out
    if picture == "features":
        assert "fitted to 5 images together" in said.out and said.out.count("colours:  ") == 3
    wide = made[next(name for name in made if "wide" in name)]
    # Two lines of pictures of 40 pixels for heads, one for components; lines of words below.
    lines = 2 if picture == "attention" else 1
    notes = 1 if picture == "attention" else 3
    assert wide[1] == lines * (40 + 20 + 4) + 4 + notes * 20


def test_heads_may_be_chosen_and_drawn_alone(weights, photos, tmp_path, capsys):
    image = photos / "wide.png"
    common = ("attention", weights["vit"], image, "--size", 32)
    show(capsys, *common, "--each-head", "--only", "2,0", "--out", tmp_path / "some")
    heads = sorted(path.name for path in (tmp_path / "some" / "heads").iterdir())
    stem = "00000_wide_attention"
    assert heads == [f"{stem}_head00.png", f"{stem}_head02.png"]
    assert Image.open(tmp_path / "some" / "heads" / heads[0]).size == (96, 32)
    show(capsys, *common, "--out", tmp_path / "all")
    width = [Image.open(tmp_path / name / f"{stem}.png").size[0] for name in ("some", "all")]
    assert width[1] - width[0] == 720 + 8, "a head of 240 x 720 pixels, and a gap"
    show(capsys, *common, "--fit", "squash", "--height", 64, "--out", tmp_path / "square")
    assert Image.open(tmp_path / "square" / f"{stem}.png").size[0] == 5 * 64 + 6 * 8


def test_svg_pictures_and_lengths_of_tokens(weights, photos, tmp_path, capsys):
    common = ("attention", weights["swin"], photos / "wide.png", "--size", 32, "--out", tmp_path)
    said = show(capsys, *common, "--norms", "--format", "svg")
    (file,) = tmp_path.iterdir()
    assert file.name == "00000_wide_norms.svg" and "length of the patch tokens" in said.out
    assert "length of the patch tokens, no attention" in file.read_text()


@pytest.mark.parametrize("picture", ["attention", "features"])
def test_frames_become_a_moving_picture(weights, tmp_path, capsys, picture):
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(3):
        level = np.full((32, 48, 3), 60 * i, np.uint8)
        level[8:16, 8 * i : 8 * i + 8] = 255
        Image.fromarray(level).save(folder / f"{i}.png")
    common = (picture, weights["vit"], folder, "--size", 32, "--out", tmp_path / "out")
    said = show(capsys, *common, "--video", "webp", "--rate", 10, "--limit", 1)
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == f"00000_clip_{picture}.webp" and "3 frames at 10 a second" in said.out
    with Image.open(file) as moving:
        assert moving.n_frames == 3 and moving.size == (48, 32)


def test_what_training_sees_is_drawn_of_weights_and_of_recipes(weights, photos, tmp_path, capsys):
    image = photos / "wide.png"
    said = show(capsys, "augment", weights["vit"], image, "--out", tmp_path / "a", "--number", 3)
    assert "2 global views" in said.out and "not in these weights" in said.out
    table = (tmp_path / "a" / "00000_wide_augment.csv").read_text().splitlines()
    assert table[0] == "view,row,column,word,probability"
    assert all(0 <= int(row.split(",")[3]) < 10 for row in table[1:])
    said = show(capsys, "augment", "vit_s16", image, "--out", tmp_path / "b", "--epoch", 2)
    assert "epoch 2" in said.out and "a recipe has no teacher" in said.out
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["00000_wide_augment.png"]


def test_an_image_of_the_set_has_the_views_of_its_place(weights, photos, tmp_path, capsys):
    show(capsys, "augment", weights["vit"], photos, "--out", tmp_path / "all")
    name = next(file.stem for file in (tmp_path / "all").glob("*wide*.png"))
    place = int(name[:5])
    again = ("augment", weights["vit"], photos / "wide.png", "--out", tmp_path / "one")
    show(capsys, *again, "--number", place)
    tables = [
        next(folder.glob("*wide*.csv")).read_text()
        for folder in (tmp_path / "all", tmp_path / "one")
    ]
    assert tables[0] == tables[1]


MISTAKES = {
    "head": (("--only", "0,3"), "there is no head 3", "--only with numbers in 0..2"),
    "norms": (("--norms", "--only", "1"), "there is no head 1", "leave out --only"),
    "mass": (("--mass", "1.5"), "a share above 0 and below 1", ""),
    "file": (("--out", "{photos}/wide.png"), "wide.png' is a file", "--out"),
    "below": (("--out", "{photos}/wide.png/x"), "wide.png' is a file", "--out"),
    "key": (("--key", "nobody"), "nobody", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_a_remedy_and_leave_nothing(weights, photos, tmp_path, capsys, mistake):
    options, what, fix = MISTAKES[mistake]
    options = [text.format(photos=photos) for text in options]
    before = sorted(photos.iterdir())
    out = [] if "--out" in options else ["--out", tmp_path / "out"]
    common = ("attention", weights["vit"], photos / "wide.png", "--size", 16)
    said = show(capsys, *common, *options, *out, code=2)
    assert what in said.err and fix in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out").exists() and sorted(photos.iterdir()) == before


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (("{tmp}/empty",), "no images found under"),
        (
            ("{photos}/wide.png", "{photos}/gone.png"),
            "there is no file or folder '{photos}/gone.png'",
        ),
        (("{photos}/none-*.tar",), "no .tar file matches"),
        (("{photos}/broken.jpg",), "none of the images can be read"),
    ],
)
def test_places_without_images_are_named(weights, photos, tmp_path, capsys, images, words):
    (tmp_path / "empty").mkdir()
    named = [text.format(photos=photos, tmp=tmp_path) for text in images]
    said = show(capsys, "features", weights["vit"], *named, "--out", tmp_path / "o", code=2)
    assert words.format(photos=photos) in said.err and not (tmp_path / "o").exists()


def test_weights_of_others_do_not_say_how_they_were_trained(weights, photos, tmp_path, capsys):
    tensors = load_file(weights["vit"])
    backbone = {k.removeprefix("backbone."): v for k, v in tensors.items() if "head" not in k}
    save_file(backbone, tmp_path / "foreign.safetensors")
    common = (tmp_path / "foreign.safetensors", photos / "wide.png", "--heads", 3)
    said = show(capsys, "augment", *common, "--out", tmp_path / "o", code=2)
    assert "does not say how views were made" in said.err and "recipe" in said.err
    show(capsys, "attention", *common, "--size", 16, "--out", tmp_path / "o")
    named = ("augment", "vit_s61", photos / "wide.png", "--out", tmp_path / "p")
    assert "did you mean vit_s16?" in show(capsys, *named, code=2).err
    absent = show(capsys, "augment", "runs/none", photos / "wide.png", code=2).err
    assert "no file or folder 'runs/none'" in absent
    auto = show(capsys, "augment", "auto", photos / "wide.png", code=2).err
    assert "auto has no settings of its own" in auto and "a run" in auto


def test_a_network_without_attention_is_told_what_remains(monkeypatch, weights, photos, capsys):
    from ibot.models.swin import SwinTransformer

    monkeypatch.delattr(SwinTransformer, "received_attention")
    common = ("attention", weights["swin"], photos / "wide.png", "--size", 16)
    said = show(capsys, *common, "--out", photos.parent / "none", code=2)
    assert "no attention to show" in said.err and "--norms" in said.err


def test_pictures_lie_below_results_and_an_earlier_one_is_replaced(
    weights, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights["vit"], "net.safetensors")
    for size in (16, 24):
        said = show(capsys, "features", "net.safetensors", photos / "wide.png", "--size", size)
    place = Path("results/net/pictures/features/00000_wide_features.png")
    assert place.is_file() and str(place) in said.out
    assert sum(1 for path in Path().rglob("*") if path.is_file()) == 2


def test_help_names_every_picture_and_loads_nothing_heavy(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["show", "--help"])
    listed = capsys.readouterr().out
    for name, kind in PICTURES.items():
        assert name in listed and kind.summary.split()[0] in listed
    code = (
        "import sys; from ibot.cli.main import build_parser\n"
        "try: build_parser().parse_args(['show', 'attention', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]") and "--each-head" in done.stdout


def test_networks_are_left_as_they_are(weights, photos, tmp_path, capsys):
    before = torch.random.get_rng_state()
    show(capsys, "attention", weights["vit"], photos / "wide.png", "--size", 16, "--out", tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_images_a_picture_of_words_names_those_of_the_index(photos, tmp_path, capsys):
    run = write_run(tmp_path / "my run", [3])
    command = f"ibot show fig4 '{run}' --data"
    assert f"name a folder or a set:  {command} DIR" in show(capsys, "fig4", run, code=2).err
    assert main(["index", str(run), "--data", str(photos), "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    said = show(capsys, "fig4", run, code=2).err
    assert f"those of the index in '{run / 'index'}':  {command} {photos}" in said
