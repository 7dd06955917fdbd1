"""Everything that a command writes may be read by those whom the umask lets in."""

import os
import stat

import pytest

from ibot.cli.main import main
from ibot.data.scenes import write_folder

SMALL = [
    "train.batch=8",
    "model.depth=1",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "model.width=24",
    "model.heads=2",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "system.workers=0",
]


@pytest.fixture
def open_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_all_files_and_folders_follow_the_umask(tmp_path, open_umask):
    data, run, cache = tmp_path / "data", str(tmp_path / "run"), str(tmp_path / "cache")
    write_folder(data, train=30, val=20, size=32)
    common = ["--data", str(data), "--device", "cpu"]
    commands = [
        ["pretrain", "tiny32", *common, "--run", run, "--steps", "1", *SMALL],
        ["eval", "linear", run, *common, "--cache", cache, "--workers", "0", "epochs=1"],
        ["features", run, *common, "--out", str(tmp_path / "features" / "f.safetensors")],
        ["features", run, *common, "--out", str(tmp_path / "features" / "f.npz")],
        ["search", run, *common, "--cache", cache, "--out", str(tmp_path / "search")],
    ]
    for target, name in (
        ("safetensors", "s.safetensors"),
        ("published", "p.pth"),
        ("checkpoint", "c.pth"),
    ):
        commands.append(
            ["weights", "export", run, "--to", target, "--out", str(tmp_path / "exports" / name)]
        )
    for command in commands:
        assert main(command) == 0, command
    written = [path for path in tmp_path.rglob("*") if data not in path.parents and path != data]
    assert len(written) > 30 and any(path.suffix == ".npy" for path in written)
    for path in written:
        wanted = 0o775 if path.is_dir() else 0o664
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path.relative_to(tmp_path)
