"""A file from the web is whole or absent, is gone on with, and is fetched by one process."""

import errno
import hashlib
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from served import served

from ibot.errors import UserError
from ibot.system import download
from ibot.system.download import fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 3 * 2**20 + 17, np.uint8).tobytes()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "POLL", 0.01)


@pytest.fixture
def server():
    with served() as held:
        held.files["/w.pth"] = CONTENT
        yield held


def fetched(server, folder, check=lambda path: None):
    file = folder / "cache" / "w.pth"
    fetch(f"{server.address}/w.pth", file, "w", check)
    return file


def lying(folder):
    """What is there of the file, beside the lock."""
    return sorted(p.name for p in (folder / "cache").iterdir() if not p.name.endswith(".lock"))


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server, tmp_path):
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert lying(tmp_path) == ["w.pth"] and server.asked == [("/w.pth", "")]


def test_it_is_checked_before_it_has_its_name_and_deleted_where_it_fails(server, tmp_path):
    def refuse(path):
        assert path.read_bytes() == CONTENT and not (tmp_path / "cache" / "w.pth").exists()
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        fetched(server, tmp_path, refuse)
    assert lying(tmp_path) == []


def test_broken_connections_are_gone_on_with(server, tmp_path):
    server.cuts = [1_000_000, 1, 700_000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    starts = ["", "bytes=1000000-", "bytes=1000001-", "bytes=1700001-"]
    assert [wanted for _, wanted in server.asked] == starts


def test_what_an_earlier_command_left_is_gone_on_with(server, tmp_path):
    server.cuts = [1_000_000, *[0] * download.TRIES]
    with pytest.raises(UserError) as error:
        fetched(server, tmp_path)
    assert "ended before the file did (1.0 MiB are here" in error.value.why
    assert lying(tmp_path) == [".w.pth.part", ".w.pth.part.json"]
    server.asked.clear()
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/w.pth", "bytes=1000000-")]


@pytest.mark.parametrize("tag", ['"two"', None])
def test_another_file_at_the_address_is_fetched_from_its_beginning(server, tmp_path, tag):
    server.cuts = [1_000_000, *[0] * download.TRIES]
    with pytest.raises(UserError):
        fetched(server, tmp_path)
    other = CONTENT[::-1] + b"longer"
    server.files["/w.pth"], server.tag = other, tag
    assert fetched(server, tmp_path).read_bytes() == other


def test_a_part_longer_than_the_file_is_no_beginning(server, tmp_path):
    server.cuts = [1_000_000, *[0] * download.TRIES]
    with pytest.raises(UserError):
        fetched(server, tmp_path)
    server.files["/w.pth"] = CONTENT[:1000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT[:1000]


def test_servers_that_give_no_parts_give_the_whole_file_again(server, tmp_path):
    server.ranges, server.cuts = False, [1_000_000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT


def test_without_a_word_for_the_version_the_rest_is_not_taken_for_the_same_file(server, tmp_path):
    server.tag, server.cuts = None, [1_000_000, *[0] * download.TRIES]
    with pytest.raises(UserError) as error:
        fetched(server, tmp_path)
    assert "goes on from there" not in error.value.why
    server.files["/w.pth"] = CONTENT[::-1]  # as long as the other
    assert fetched(server, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_that_promises_more_than_it_has_is_given_up(server, tmp_path):
    server.lengths = str(10**15)
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetched(server, tmp_path)
    assert len(server.asked) == 1 + download.TRIES


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 5000])
def test_a_length_that_is_no_number_is_none(server, tmp_path, length):
    server.lengths = length
    assert fetched(server, tmp_path).read_bytes() == CONTENT


def test_a_server_cannot_send_us_to_files_of_this_machine(server, tmp_path):
    (tmp_path / "secret").write_text("mine")
    server.codes = [302]
    server.headers["/w.pth"] = {"Location": (tmp_path / "secret").as_uri()}
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        fetched(server, tmp_path)
    assert "not allowed" in error.value.why and "\n" not in error.value.why


def test_a_busy_server_is_asked_again_and_another_error_is_not(server, tmp_path):
    server.codes = [503, 500]
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "cache" / "w.pth").unlink()
    server.codes = [403]
    server.asked.clear()
    with pytest.raises(UserError) as error:
        fetched(server, tmp_path)
    assert "403" in error.value.why and len(server.asked) == 1


def test_without_a_network_the_address_and_the_exact_place_are_named(tmp_path):
    with served() as gone:
        pass
    with pytest.raises(UserError) as error:
        fetched(gone, tmp_path)
    assert f"{gone.address}/w.pth" in error.value.what and "refused" in error.value.why
    assert f"'{tmp_path / 'cache' / 'w.pth'}'" in error.value.fix


def test_a_folder_takes_the_place_of_a_server(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "w.pth").write_bytes(CONTENT)
    file = tmp_path / "cache" / "w.pth"
    fetch((tmp_path / "mirror" / "w.pth").as_uri(), file, "w", lambda path: None)
    assert file.read_bytes() == CONTENT


def test_what_another_user_left_half_done_is_told(server, tmp_path, monkeypatch):
    opened = Path.open

    def refused(path, mode="r", *rest, **named):  # root may open all
        if path.name == ".w.pth.lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match="has no place to go to") as error:
        fetched(server, tmp_path)
    assert "w.pth.lock: Permission denied" in error.value.why and "XDG_CACHE" in error.value.fix


def test_one_process_downloads_while_others_wait(server, tmp_path):
    server.gate.clear()
    context = multiprocessing.get_context("fork")
    place = (f"{server.address}/w.pth", tmp_path / "cache" / "w.pth", "w", hashlib.sha256)
    threading.Thread(target=lambda: (time.sleep(0.3), server.gate.set()), daemon=True).start()
    workers = [context.Process(target=_fetch, args=place[:3]) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert server.asked == [("/w.pth", "")]


def _fetch(address, file, title):
    fetch(address, file, title, lambda path: None)
    if file.read_bytes() != CONTENT:
        raise SystemExit(1)
