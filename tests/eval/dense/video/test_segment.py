"""Video segmentation as a whole: drawn videos, real ones, cut off and shared among processes."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_videos import moving_squares, write_davis
from PIL import Image
from several import run_forked

import ibot
from ibot.cli.main import main
from ibot.data.annotated.object_masks import VideoObjects, read_numbers
from ibot.errors import ConfigError
from ibot.eval.dense.video import segment
from ibot.eval.dense.video.propagate import Rule
from ibot.eval.dense.video.scores import boundary_accuracy, region_similarity
from ibot.eval.dense.video.segment import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = {"JPEGImages": "jpg", "Annotations_two_objects_derived": "png"}
TABLE = ["J&F", "J", "J recall", "J decay", "F", "F recall", "F decay"]


@pytest.fixture
def places(tmp_path):
    return {"out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu", "quiet": True}


def evaluate(weights, data="", settings=("size=48",), **more):
    return ibot.evaluate("video_segmentation", weights, data, settings=settings, **more)


def masks_of(record, name):
    """The written masks of a video [T, H, W]."""
    files = sorted(Path(record.extra["files"], "masks", name).glob("*.png"))
    return np.stack([read_numbers(file)[0] for file in files])


def as_codes(frame):
    """One-hot tokens [h, w, 64] of a frame whose pixels are their numbers, 2 x 2 for each token."""
    return F.one_hot(torch.from_numpy(frame[::2, ::2, 0].astype(np.int64)), 64).float()


@pytest.mark.parametrize("grid", [(12, 20), (20, 12), (14, 14)], ids=["wide", "high", "square"])
@pytest.mark.parametrize("leaves", [False, True])
def test_objects_that_carry_their_code_along_are_found_in_every_frame(grid, leaves):
    """One code for the background, one for each place within an object."""
    height, width = grid
    codes = np.zeros((6, height, width), np.int64)
    truth = np.zeros((6, height, width), np.uint8)
    for i in range(6):
        codes[i, 3:7, 1 + i : 5 + i] = 1 + np.arange(16).reshape(4, 4)
        truth[i, 3:7, 1 + i : 5 + i] = 1
        if leaves and i < 3:  # in the fourth frame it is outside
            shown = codes[i, height - 3 + i :, width - 4 :]
            shown[:] = 17 + np.arange(12).reshape(3, 4)[: len(shown)]
            truth[i, height - 3 + i :, width - 4 :] = 2
    frames, large = (one.repeat(2, axis=1).repeat(2, axis=2) for one in (codes, truth))
    # With more neighbours than there are right ones, a trace of the object that left stays in the
    # other, and is stretched to a whole one, as in the published code.
    rule = Rule(topk=1 if leaves else 5)
    segmenter = Segmenter(see=as_codes, rule=rule, context_frames=7, patch=2)
    numbers = (1, 2) if leaves else (1,)
    objects = VideoObjects(large[0], numbers, np.arange(256, dtype=np.uint8), None, "2017")
    found = list(segmenter.masks(iter(frames[..., None]), objects))
    assert len(found) == 6
    for mask, true in zip(found, large, strict=True):
        assert all(region_similarity(mask == i, true == i) == 1.0 for i in numbers)


@pytest.mark.parametrize("network", ["vit", "swin"])
def test_records_masks_and_pictures_of_two_drawn_videos(network, networks, tmp_path, capsys):
    palette = [0, 0, 0, 10, 200, 30, 200, 10, 30]
    videos = {"wide": moving_squares(6, 40, 71, 2), "high": moving_squares(5, 71, 40)}
    data = write_davis(tmp_path / "set", videos, palette)
    command = ["eval", "video_segmentation", str(networks[network]), "--data", str(data)]
    command += ["--device", "cpu", "--out", str(tmp_path / "out"), "size=64", "context_frames=3"]
    command += ["--baselines", "none"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "11 frames of 2 videos" in printed and "71 x 40 pixels seen as 112 x 64" in printed
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    assert [row["row"] for row in rows] == TABLE
    assert rows[0]["settings"]["year"] == "2017" and rows[0]["num_val"] == 11
    place, values = Path(rows[0]["extra"]["files"]), {"J": [], "F": []}
    for name, truth in videos.items():
        files = sorted((place / "masks" / name).glob("*"))
        assert [file.name for file in files] == [f"{i:05d}.png" for i in range(len(truth))]
        found = [Image.open(file) for file in files]
        assert all(one.mode == "P" and one.getpalette()[:9] == palette for one in found)
        found = [np.asarray(one) for one in found]
        assert np.array_equal(found[0], truth[0]) and found[1].shape == truth[1].shape
        for number in sorted({*np.unique(truth[0])} - {0}):
            pairs = [(f == number, t == number) for f, t in zip(found, truth, strict=True)][1:-1]
            values["J"].append(np.mean([region_similarity(*pair) for pair in pairs]))
            values["F"].append(np.mean([boundary_accuracy(*pair) for pair in pairs]))
        for suffix in ("png", "webp"):
            assert Image.open(place / "overlays" / f"{name}.{suffix}").size[1] == truth.shape[1]
    by_row = {row["row"]: row["value"] for row in rows}
    assert by_row["J"] == pytest.approx(100 * np.mean(values["J"]))
    assert by_row["F"] == pytest.approx(100 * np.mean(values["F"]))
    assert by_row["J&F"] == pytest.approx((by_row["J"] + by_row["F"]) / 2)
    assert len(rows[0]["extra"]["by_object"]) == 3 and by_row["J"] > 20


def test_one_object_from_0_and_255_and_the_year_that_is_asked_for(networks, tmp_path, places):
    masks = moving_squares(5, 40, 64)
    data = write_davis(tmp_path / "binary", {"a": 255 * masks})
    record = evaluate(networks["vit"], data, **places)[0]
    assert record.settings["year"] == "2016" and record.extra["objects"] == 1
    assert np.array_equal(masks_of(record, "a")[0], masks[0])
    two = write_davis(tmp_path / "two", {"a": moving_squares(5, 40, 64, 2)})
    (two / "ImageSets" / "2017").rename(two / "ImageSets" / "2016")
    record = evaluate(networks["vit"], two, ["size=48", "year=2016"], **places)[0]
    assert record.extra["objects"] == 1 and set(np.unique(masks_of(record, "a"))) <= {0, 1}


def test_a_folder_of_frames_and_its_mask_gives_masks_and_no_scores(networks, tmp_path, places):
    """Frames smaller than a patch, too."""
    for size in ((5, 7), (90, 33)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
        first = np.zeros(size, np.uint8)
        first[: size[0] // 2] = 1
        Image.fromarray(first).save(folder / "mask.png")
        (record,) = evaluate(networks["swin"], folder, **places)
        assert record.metric == "video_frames" and record.value == 3
        assert "without masks to compare with" in record.notes[-1]
        assert masks_of(record, folder.name).shape == (3, *size)


def test_published_mode_divides_by_its_own_deviation(networks, tmp_path, places, monkeypatch):
    data, seen = write_davis(tmp_path / "set", {"a": moving_squares(3, 40, 64)}), []
    see = segment.frame_tokens
    monkeypatch.setattr(
        segment, "frame_tokens", lambda *a, **k: seen.append(k["statistics"][1]) or see(*a, **k)
    )
    for mode, std in (("published", 0.228), ("clean", 0.229)):
        seen.clear()
        evaluate(networks["vit"], data, mode=mode, **places)
        assert {found[0] for found in seen} == {std}


def test_what_was_cut_off_goes_on_and_gives_the_same(networks, tmp_path, places, monkeypatch):
    videos = {name: moving_squares(count, 40, 64, 2) for name, count in {"a": 4, "b": 6}.items()}
    data = write_davis(tmp_path / "set", videos)
    whole = evaluate(networks["vit"], data, **{**places, "out": tmp_path / "whole"})
    see, seen = segment.frame_tokens, []

    def third_of_the_shorter_is_cut_off(*given, **more):
        seen.append(1)
        if len(seen) == 6 + 3:
            raise KeyboardInterrupt
        return see(*given, **more)

    monkeypatch.setattr(segment, "frame_tokens", third_of_the_shorter_is_cut_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate(networks["vit"], data, **places)
    resumed = evaluate(networks["vit"], data, **places)
    assert len(seen) == 6 + 3 + 4  # what is done is not done again
    assert [record.value for record in resumed] == [record.value for record in whole]
    for name in videos:
        assert np.array_equal(masks_of(resumed[0], name), masks_of(whole[0], name))
    evaluate(networks["vit"], data, ["size=48", "radius=3"], **places)
    assert len(seen) == 6 + 3 + 4 + 10  # other settings, other masks


@pytest.mark.distributed
def test_two_processes_share_the_videos_and_give_what_one_gives(networks, tmp_path, places):
    videos = {"a": moving_squares(3, 40, 64), "b": moving_squares(6, 40, 64)}
    data = write_davis(tmp_path / "set", videos)
    alone = evaluate(networks["vit"], data, **places)

    def work(rank):
        found = evaluate(networks["vit"], data, **{**places, "out": tmp_path / "shared"})
        (tmp_path / f"{rank}.json").write_text(json.dumps([record.value for record in found]))

    codes, errors = run_forked(work, tmp_path)
    assert codes == [0, 0], errors
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [record.value for record in alone]
    assert len((tmp_path / "shared" / "results.jsonl").read_text().splitlines()) == len(TABLE)


@pytest.fixture(scope="module")
def horse(shared_data, tmp_path_factory):
    """Four real frames, and masks of two objects."""
    folder = tmp_path_factory.mktemp("horse")
    with tarfile.open(shared_data / "davis2016_subset" / "davis2016_subset.tar") as archive:
        for part, suffix in PARTS.items():
            for i in range(4):
                name = f"{part}/480p/horsejump-high/{i:05d}.{suffix}"
                archive.extract(name, folder, filter="data")
    return [folder / part / "480p" for part in PARTS]


def test_real_frames_with_two_objects_by_folders_of_frames_and_masks(networks, horse, places):
    places |= dict(zip(("images", "labels"), horse, strict=True))
    record = evaluate(networks["vit"], settings=["size=192"], **places)[0]
    assert record.extra["grids"] == {"horsejump-high": [24, 42]}
    assert set(record.extra["by_object"]) == {"horsejump-high/1", "horsejump-high/2"}
    found = masks_of(record, "horsejump-high")[1]
    truth = read_numbers(horse[1] / "horsejump-high" / "00001.png")[0]
    assert region_similarity(found == 1, truth == 1) > 0.2  # the horse jumps far in a frame


def test_settings_that_cannot_be_are_told(networks, places):
    for wrong in ("size=0", "topk=0", "radius=-1", "temperature=0", "context_frames=-1"):
        with pytest.raises(ConfigError, match=f"{wrong.split('=')[0]}=.* cannot be"):
            evaluate(networks["vit"], "nowhere", [wrong], **places)
    with pytest.raises(ConfigError, match="year=2018"):
        evaluate(networks["vit"], "nowhere", ["year=2018"], **places)
