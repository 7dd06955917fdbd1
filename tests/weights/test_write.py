"""Files of tensors: permissions of every other file, and bytes that follow from the content."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
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


METADATA = {
    "step": "48",
    "config": '{"name": "B\\u00e4r \\" \\n"}',
    "format": "pt",
    "ä/\x7f\x01\n\t": "é\\",
}
WRITE = """
import json, sys, torch
from pathlib import Path
from ibot.weights.write import save_tensors
torch.manual_seed(0)
tensors = {"b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "c": torch.arange(3)}
for number in range(6):
    file = Path(sys.argv[1]) / f"{number}.safetensors"
    save_tensors(tensors, file, json.loads(sys.argv[2]))
"""


def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path):
    written = set()
    for process in ("first", "second"):
        (tmp_path / process).mkdir()
        given = dict(METADATA) if process == "first" else dict(reversed(METADATA.items()))
        command = [sys.executable, "-c", WRITE, str(tmp_path / process), json.dumps(given)]
        subprocess.run(command, check=True)
        written |= {file.read_bytes() for file in (tmp_path / process).iterdir()}
    assert len(written) == 1
    file = tmp_path / "first" / "0.safetensors"
    with safe_open(file, framework="pt") as stored:
        assert stored.metadata() == METADATA
    torch.manual_seed(0)
    tensors = load_file(file)
    assert torch.equal(tensors["b"], torch.randn(3, 5))
    assert torch.equal(tensors["a"], torch.randn(7).bfloat16())
    assert torch.equal(tensors["c"], torch.arange(3))
