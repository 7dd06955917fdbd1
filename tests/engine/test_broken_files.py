"""A thousand steps on a folder in which one file in twenty is odd or damaged."""

import json
import tarfile

import pytest
from PIL import Image

from ibot.config.override import apply
from ibot.data.scenes import draw_scene
from ibot.engine.loop import train
from ibot.system.jsonl import read_jsonl


def mixed_folder(shared_data, root):
    with tarfile.open(shared_data / "broken" / "broken.tar") as archive:
        archive.extractall(root, filter="tar")
    entries = json.loads((shared_data / "broken" / "manifest.json").read_text())["files"]
    for i in range(19 * len(entries)):
        Image.fromarray(draw_scene(0, i).image).save(root / f"{i:04d}.png")
    return entries


@pytest.mark.slow
def test_a_thousand_steps_among_broken_files_list_exactly_the_broken_ones(
    shared_data, small, tmp_path
):
    data = tmp_path / "data"
    data.mkdir()
    entries = mixed_folder(shared_data, data)
    config = apply(
        small,
        [
            f"data.path={data}",
            "train.batch=16",
            "train.length=1000 steps",
            "log.every=100",
            "checkpoint.every=500 steps",
        ],
    )
    assert train(config, tmp_path / "run", quiet=True).step == 1000
    listed = {  # without the remedies
        row["path"]: row["reason"].partition(": ")[0]
        for row in read_jsonl(tmp_path / "run" / "bad_files.jsonl")
    }
    wanted = {
        f"broken/{entry['file']}": entry["reason"]
        for entry in entries
        if entry["expect"] == "refuse"
    }
    allowed = {
        f"broken/{entry['file']}": entry["reason"]
        for entry in entries
        if entry["expect"] == "either" and "reason" in entry
    }
    assert {name: reason for name, reason in listed.items() if name not in allowed} == wanted
    assert all(allowed[name] == reason for name, reason in listed.items() if name in allowed)
    print(
        f"{len(listed)} files listed, {len(wanted)} of them must be; {len(entries)} odd ones "
        f"among {20 * len(entries)}"
    )


def test_unreadable_files_end_up_in_the_run_folder_and_too_many_stop_it(small, tmp_path, pictures):
    from ibot.errors import TrainingStopped

    data = tmp_path / "data"
    data.mkdir()
    for i, path in enumerate(sorted(pictures.iterdir())):
        (data / path.name).write_bytes(b"broken" if i % 8 == 0 else path.read_bytes())
    train(apply(small, [f"data.path={data}"]), tmp_path / "run", quiet=True)
    rows = read_jsonl(tmp_path / "run" / "bad_files.jsonl")
    assert {row["path"] for row in rows} == {f"{i:03d}.png" for i in range(0, 48, 8)} and len(
        rows
    ) == 6
    for path in sorted(data.iterdir())[:36]:
        path.write_bytes(b"broken")
    with pytest.raises(TrainingStopped, match="of 48 files cannot be read") as caught:
        train(apply(small, [f"data.path={data}"]), tmp_path / "other", quiet=True)
    assert "data.max_bad_fraction" in caught.value.fix
