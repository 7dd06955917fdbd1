"""Images named on the command line, and how networks see them whole."""

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.errors import DataError, UserError
from ibot.models.backbone import build_backbone
from ibot.show.inputs import MOST_TOKENS, WholeView, check_folder, network_input, open_inputs

SHAPES = [(480, 640), (64, 64), (1, 1), (3, 4000), (20000, 5), (37, 91), (2000, 3000)]


def save(path, level=100, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


@pytest.mark.parametrize("patch", [8, 16, 32, 14])
@pytest.mark.parametrize("fit", ["keep", "squash", "natural"])
def test_views_are_whole_patches_of_nearly_the_image_s_aspect(patch, fit):
    for height, width in SHAPES:
        rows, columns = (side / patch for side in WholeView(480, fit).size(height, width, patch))
        assert rows == int(rows) >= 1 and columns == int(columns) >= 1
        assert rows * columns <= MOST_TOKENS
        if fit == "squash":
            assert rows == columns == 480 // patch
        elif fit == "keep" and (height, width) in ((480, 640), (2000, 3000)):
            assert rows == round(480 / patch) and abs(columns / rows * height / width - 1) < 0.04
        elif fit == "natural" and height * width < 10**6 and min(height, width) > 30:
            assert abs(rows * patch - height) <= patch / 2
            assert abs(columns * patch - width) <= patch / 2


def test_an_image_of_its_view_s_size_is_taken_as_it_is_and_squashing_is_bilinear():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    np.testing.assert_array_equal(WholeView(fit="natural").render(image, 16), image)
    np.testing.assert_array_equal(WholeView(64).render(image, 16), image)
    resized = Image.fromarray(image).resize((50, 50), Image.Resampling.BILINEAR)
    squashed = WholeView(50, "squash").render(image, 16)
    np.testing.assert_array_equal(squashed, np.asarray(resized)[:48, :48])


def test_networks_of_both_families_take_any_view():
    small = {"width": 8, "patch": 4}
    vit = ModelConfig(depth=1, heads=2, **small)
    swin = ModelConfig(kind="swin", depths=(1, 1), stage_heads=(1, 2), window=4, **small)
    for config in (vit, swin):
        backbone = build_backbone(config, (32, 32)).eval()
        for shape in ((7, 300, 3), (33, 20), (1, 1, 5)):
            image = np.random.default_rng(1).random(shape)
            view = WholeView(24).render(image, backbone.patch_size)
            with torch.no_grad():
                tokens = backbone(network_input(view, backbone))
            sides = [side // backbone.patch_size for side in view.shape[:2]]
            assert list(tokens.grid) == sides and tokens.patches.isfinite().all()


def test_input_is_normalised_by_the_network_s_statistics():
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    backbone = build_backbone(ModelConfig(width=8, depth=1, heads=1, patch=4, **statistics), (8, 8))
    view = np.random.default_rng(2).integers(0, 256, (8, 12, 3), np.uint8)
    want = (view / 255 - statistics["mean"]) / statistics["std"]
    got = network_input(view, backbone)
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(
        network_input(view, backbone.double()),
        normalize(torch.from_numpy(view).permute(2, 0, 1)[None], backbone.statistics).double(),
    )


def test_files_folders_and_lists_are_taken_in_their_order(tmp_path):
    files = [save(tmp_path / name, level) for name, level in (("b.png", 1), ("a.png", 2))]
    for i in range(3):
        save(tmp_path / "folder" / f"{i}.png", 10 + i)
    listed = tmp_path / "list.csv"
    listed.write_text("path\nfolder/2.png\n")
    inputs = open_inputs([*files, tmp_path / "folder", listed, files[0]])
    assert [one.pixels[0, 0, 0] for one in inputs] == [1, 2, 10, 11, 12, 12, 1]
    assert [one.index for one in inputs] == list(range(7)) and len(inputs) == 7
    assert [one.pixels[0, 0, 0] for one in inputs] == [1, 2, 10, 11, 12, 12, 1], "twice"


def test_of_a_large_folder_a_fixed_choice_is_taken_and_said_but_of_named_files_all(tmp_path):
    files = [save(tmp_path / f"{i:02}.png", i) for i in range(20)]
    first, again = (open_inputs([tmp_path], 5) for _ in range(2))
    chosen = [one.index for one in first]
    assert chosen == [one.index for one in again] == sorted(chosen) and len(set(chosen)) == 5
    assert [one.pixels[0, 0, 0] for one in first] == chosen
    assert "5 of the 20 images" in first.notes[0] and "seed 0" in first.notes[0]
    assert [one.index for one in open_inputs([tmp_path], 5, seed=1)] != chosen
    assert len(open_inputs(files, 5)) == 20 and not open_inputs(files, 5).notes


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    good = save(tmp_path / "good.png")
    inputs = open_inputs([tmp_path / "broken.png", good])
    assert [one.index for one in inputs] == [1]
    assert inputs.bad[0][0].endswith("broken.png") and caplog.text.count("passed over") == 1
    assert [one.index for one in inputs] == [1] and caplog.text.count("passed over") == 1
    with pytest.raises(DataError, match="none of the images can be read"):
        list(open_inputs([tmp_path / "broken.png"]))


def test_places_that_hold_no_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for named, words in (
        ([], "no images named"),
        ([tmp_path / "gone.png"], "gone.png"),
        ([tmp_path / "empty"], "no images found"),
    ):
        with pytest.raises(DataError, match=words):
            open_inputs(named)


def test_a_file_in_the_place_of_the_output_folder_is_refused(tmp_path):
    file = save(tmp_path / "a.png")
    assert check_folder(tmp_path / "new" / "er") == tmp_path / "new" / "er"
    for out in (file, file / "below"):
        with pytest.raises(UserError, match=r"a\.png' is a file"):
            check_folder(out)
