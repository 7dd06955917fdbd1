"""Files that are whole or absent."""

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from ibot.errors import ResourceError, UserError, WeightsError
from ibot.system import files
from ibot.system.files import read_state, write_atomically, write_named


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "a.txt"
    for text in ("first", "second"):
        write_atomically(file, lambda path, text=text: path.write_text(text))
        assert file.read_text() == text and list(tmp_path.iterdir()) == [file]


def test_content_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    file, seen = tmp_path / "a.txt", []
    monkeypatch.setattr(files, "sync", lambda path: seen.append((path.is_dir(), file.exists())))
    write_atomically(file, lambda path: path.write_text("x"))
    assert seen == [(False, False), (True, True)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, PermissionError])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail(path):
        path.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(file, fail)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def full(path):
    path.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_sync_waits_for_the_disk_and_closes_what_it_opened(tmp_path, monkeypatch):
    synced, handles, fsync = [], [], os.fsync

    def note(handle):
        handles.append(handle)
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(files.os, "fsync", note)
    for path in (tmp_path / "a", tmp_path):
        files.sync(path)
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]

    def fail(handle):
        handles.append(handle)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.sync(tmp_path)
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_a_full_disk_is_told_from_other_failures():
    full_codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    assert all(files.is_disk_full(OSError(code, "words")) for code in full_codes)
    assert not any(
        files.is_disk_full(OSError(code, "no space left")) for code in (errno.EIO, errno.EACCES)
    )
    said = (
        "No space left on device",
        "I/O error (os error 28)",
        "Disk quota exceeded",
        "unexpected pos 64 vs 0",
    )
    assert all(files.is_disk_full(RuntimeError(words)) for words in (*said, "File too large"))
    assert not files.is_disk_full(RuntimeError("shapes do not fit"))


def test_the_error_of_a_full_disk_names_what_is_needed_and_what_comes_next(tmp_path):
    error = files.disk_full(tmp_path, "the file takes 3 MiB", "it goes on")
    assert error.why.startswith("the file takes 3 MiB, ") and error.why.endswith("MiB are free")
    assert error.fix == "free some space, then run the same command: it goes on"
    free = float(files.disk_full(tmp_path).why.split()[0])
    assert free == pytest.approx(
        os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 2**20, rel=0.2
    )
    assert files.disk_full(tmp_path).fix == "free some space, then run the same command"


CONTENT = {"a": torch.zeros(100_000)}


@pytest.mark.parametrize(
    "write",
    [
        full,
        lambda path: torch.save(CONTENT, path),
        lambda path: save_file(CONTENT, path),
        lambda path: path.write_bytes(bytes(400_000)),
    ],
    ids=["raised", "torch", "safetensors", "plain"],
)
def test_a_full_disk_is_named_with_what_is_free(tmp_path, write):
    file = tmp_path / "a.pt"
    file.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=f"the disk of '{tmp_path}' is full") as caught:
            write_atomically(file, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "MiB are free" in caught.value.why and "run the same command" in caught.value.fix
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_state_comes_back(tmp_path):
    file = tmp_path / "a.state"
    content = {"epoch": 3, "weight": torch.arange(4.0), "scores": [0.5, None, "x"]}
    write_atomically(file, lambda path: torch.save(content, path))
    got = read_state(file)
    assert torch.equal(got.pop("weight"), content.pop("weight")) and got == content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["cut", "changed", "noise", "empty", "absent", "code"])
def test_a_damaged_state_is_to_be_deleted(tmp_path, kind):
    file = tmp_path / "a.state"
    torch.save({"weight": torch.arange(40.0)}, file)
    raw = file.read_bytes()
    random = torch.Generator().manual_seed(0)
    noise = bytes(torch.randint(0, 256, (300,), generator=random).tolist())
    damaged = {
        "cut": raw[: len(raw) // 2],
        "changed": raw[:60] + noise[:60] + raw[120:],
        "noise": noise,
        "empty": b"",
    }
    if kind == "code":
        torch.save({"run": os.system}, file)
    elif kind == "absent":
        file.unlink()
    else:
        file.write_bytes(damaged[kind])
    with pytest.raises(WeightsError, match=r"a\.state' cannot be read") as caught:
        read_state(file)
    assert caught.value.why and caught.value.fix.startswith("delete it and run the same command")
    with pytest.raises(WeightsError) as caught:
        read_state(file, tmp_path)
    assert f"delete the folder '{tmp_path}'" in caught.value.fix


def test_a_file_that_a_user_named_is_whole_or_absent_and_its_folders_are_made(tmp_path):
    file = tmp_path / "new" / "table.csv"
    write_named(file, lambda path: path.write_text("first"))
    for code, kind in ((errno.ENOSPC, ResourceError), (errno.EROFS, UserError)):

        def fail(path, code=code):
            path.write_text("half")
            raise OSError(code, "refused")

        with pytest.raises(kind, match="cannot be written") as error:
            write_named(file, fail)
        assert error.value.why == "refused" and error.value.fix == "name another"
        with pytest.raises(kind) as error:
            write_named(file, fail, "--out")
        assert error.value.fix == "name another place with --out"
        assert file.read_text() == "first" and list(file.parent.iterdir()) == [file]


def test_links_and_devices_that_a_user_named_are_written_as_they_are(tmp_path):
    file, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    file.write_text("old")
    link.symlink_to(file)
    write_named(link, lambda path: path.write_text("new"))
    assert link.is_symlink() and file.read_text() == "new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_named(pipe, lambda path: path.write_text("through"))
    assert os.read(reader, 100) == b"through" and pipe.is_fifo()
    os.close(reader)
