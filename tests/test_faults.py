"""Faults that use has found, as the scripts that showed them show them now. Fast tests of each:
docs/faults.md.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(os.environ.get("IBOT_SHARED_FAULTS", Path(__file__).parents[2] / "shared" / "faults"))
NOT_OURS = r"neither a ViT nor a Swin"
UNUSABLE = r"tensors that cannot be used|use other weights"
REFUSED = r"^  fix:  name another (with )?--(run|out)"
EXPECTED = {
    "beit_traceback": [NOT_OURS, NOT_OURS],
    "gray_tiff_levels": [
        r"u16_whiteiszero.tif\s+left 255 .* right +0 ",
        r"u8_whiteiszero.tif\s+left 255 .* right +0 ",
        r"i16.tif\s+left +0 middle 12[789] .* right 255",
        r"u32.tif\s+left +0 middle 12[789] .* right 255",
        r"u32_small.tif\s+left +0 middle 12[789] .* right 255",
    ],
    "heads_guessed": [r"heads 12 taken 6", r"heads 16 taken 16 class token off by 0.00"],
    "jpeg_by_other_names": [r"24 images in data/train", r"^knn: r"],
    "known_weights_refused": [
        *(
            rf"== {name}\n(?!.*error)"
            for name in (
                "mae",
                "reg",
                "shards",
                r"dinov2_training\.pth",
                r"compiled\.pth",
                r"lightning\.pth",
                r"ema\.pth",
            )
        ),
        r"remedies",
    ],
    "nan_weights_pass": [UNUSABLE] * 2,
    "normalisation_ignored": [r"with the mean of the file: 0\.000"],
    "pipe_closed_exit0": [r"exit code 0", r"step_00000300", r'"step": 300', r'"event": "end"'],
    "small_shm_hang": [r"rc=4", r"shared memory \(/dev/shm\) is too small"],
    "split_folder_names": [r"classes written: \['blue' 'red'\]", r"24 images"],
    "torchrun_labelled_knn": [r"^rc=0", r"unlabelled \(no val\): rc=0"],
    "torchrun_run_option": [r"ambiguous option"],
    "uid_without_passwd": [r"-- pretrain", r"-- eval knn, HOME unset"],
    "unwritable_folder_traceback": [REFUSED] * 6,
}
"""What each prints, in this order. torchrun reads `--run` before ibot is started; the README's
line has `--`."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_reported_fault_is_mended(name, tmp_path):
    if not (FAULTS / name).is_dir():
        pytest.skip(f"no {FAULTS / name}; set IBOT_SHARED_FAULTS")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {**os.environ, "IBOT_CHECKOUT": str(tmp_path)}
    done = subprocess.run(
        ["bash", FAULTS / name / "repro.sh"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    text = done.stdout
    assert "Traceback" not in text and "src/ibot/" not in done.stderr, "a traceback of ours"
    for pattern in EXPECTED[name]:
        found = re.search(pattern, text, re.M)
        assert found, f"no {pattern!r} in {text!r} of\n{done.stdout}{done.stderr}"
        text = text[found.end() :]
