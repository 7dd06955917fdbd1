"""Videos, read and written."""

import numpy as np
import pytest
from PIL import Image

from ibot.errors import DataError, MissingExtra, UserError
from ibot.show import frames
from ibot.show.asked import Asked
from ibot.show.frames import is_video, moving_kind, open_frames, write_frames


def clip(count=7, size=(48, 64)):
    """A white square that moves to the right over black."""
    made = np.zeros((count, *size, 3), np.uint8)
    for i in range(count):
        made[i, 16:32, 4 * i : 4 * i + 16] = (250, 10, 10)
    return made


def asked(tmp_path, *images, **options):
    given = {"video": None, "rate": None, **options}
    named = tuple(map(str, images))
    return Asked(weights="w", images=named, out=tmp_path, quiet=True, options=given)


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_a_video_comes_back_as_it_was_written(tmp_path, kind):
    pytest.importorskip("cv2")
    made = clip()
    file = write_frames(iter(made), tmp_path, "a/b.mov", "_attention", kind, 12.5)
    assert file == tmp_path / f"00000_b_attention.{kind}"
    assert [path.name for path in tmp_path.iterdir()] == [file.name], "nothing else is left"
    back = open_frames(asked(tmp_path, file))
    assert back.count == 7 and back.rate == pytest.approx(12.5, rel=0.01)
    read = list(back)
    assert len(read) == len(list(back)) == 7, "each iteration begins anew"
    for frame, want in zip(read, made, strict=True):
        assert frame.shape == want.shape and frame[18, 8:10].shape == (2, 3)
        assert np.abs(frame.astype(int) - want).mean() < 12
        middle = np.nonzero(want.any(-1))
        assert frame[middle][:, 0].mean() > 150 > 100 > frame[middle][:, 2].mean(), "red is red"
    assert is_video(str(file)) and moving_kind(asked(tmp_path, file)) == "mp4"
    assert moving_kind(asked(tmp_path, file, video="webp")) == "webp"
    assert open_frames(asked(tmp_path, file, rate=3)).rate == 3


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2, 10, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"frame{number}.png")
    found = open_frames(asked(tmp_path, folder, video="frames"))
    assert [frame[0, 0, 0] for frame in found] == [1, 2, 10, 100]
    assert (found.name, found.count, found.rate) == ("frames", 4, 30)
    assert moving_kind(asked(tmp_path, folder)) is None


def test_folders_and_webp_hold_every_frame_in_one_size(tmp_path):
    made = [*clip(3), np.full((96, 128, 3), 200, np.uint8)]
    folder = write_frames(iter(made), tmp_path, "x", "_features", "frames", 30)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"0000{i}.png" for i in range(4)]
    for file, want in zip(files[:3], made[:3], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), want)
    assert Image.open(files[3]).size == (64, 48)
    webp = write_frames(iter(made), tmp_path, "x", "_features", "webp", 10)
    with Image.open(webp) as picture:
        assert picture.n_frames == 4 and picture.size == (64, 48)


def test_too_many_frames_for_a_webp_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "MOST_IN_WEBP", 2)
    with pytest.raises(UserError, match="more than 2 frames"):
        write_frames(iter(clip(3)), tmp_path, "x", "", "webp", 10)
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.mp4' cannot be read"):
        open_frames(asked(tmp_path, broken))
    with pytest.raises(UserError, match="is a video, and more is named"):
        open_frames(asked(tmp_path, broken, tmp_path))

    def missing():
        raise MissingExtra("opencv-python-headless", "show")

    monkeypatch.setattr(frames, "_cv2", missing)
    with pytest.raises(MissingExtra, match="opencv"):
        open_frames(asked(tmp_path, broken))
    with pytest.raises(MissingExtra, match="opencv"):
        write_frames(iter(clip(2)), tmp_path / "out", "x", "", "mp4", 10)
    assert not list((tmp_path / "out").iterdir())
