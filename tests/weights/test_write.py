"""Files of tensors have the permissions of every other file."""

import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from ibot.weights.write import save_tensors


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_a_new_file_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_tensors({"a": torch.ones(2)}, tmp_path / "new.safetensors", {"config": "{}"})
    finally:
        os.umask(before)
    assert mode(tmp_path / "new.safetensors") == 0o666 & ~mask
    assert torch.equal(load_file(tmp_path / "new.safetensors")["a"], torch.ones(2))


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    file = tmp_path / "old.safetensors"
    file.write_bytes(b"old")
    file.chmod(0o640)
    save_tensors({"a": torch.ones(2)}, file)
    assert mode(file) == 0o640 and list(load_file(file)) == ["a"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    shared = torch.ones(2)
    with pytest.raises(RuntimeError, match="share memory"):
        save_tensors({"a": shared, "b": shared}, tmp_path / "new.safetensors")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.safetensors").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="share memory"):
        save_tensors({"a": shared, "b": shared}, tmp_path / "old.safetensors")
    assert (tmp_path / "old.safetensors").read_bytes() == b"old"
