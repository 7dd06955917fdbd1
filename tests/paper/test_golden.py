"""The published method in float64: every training case of the golden folder, driven by the files
found there.
"""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_case

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))
QUANTITIES = {
    "scores",
    "tokens",
    "schedules",
    "losses",
    "centers",
    "gradients",
    "gradient norms",
    "student_final",
    "teacher_final",
    "moments",
}


def training_cases() -> list:
    cases = []
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "steps" in content:
            cases.append(pytest.param(path, id=path.stem))
    return cases


def test_the_golden_folder_holds_training_cases():
    assert len(training_cases()) >= 5, f"no training cases in {FOLDER}"


@pytest.mark.parametrize("path", training_cases())
def test_our_steps_equal_the_published_ones(path):
    run = golden_case.Run(path)
    errors = run.run()
    assert set(errors) >= QUANTITIES
    # A batch norm in the head makes some gradients pure rounding noise, which AdamW turns into
    # changes (README there).
    noisy = 1e-7 if run.config.head.norm == "bn" else 0.0
    for quantity, value in errors.items():
        tolerance = golden_case.TOLERANCE[quantity]
        if quantity in ("student_final", "teacher_final"):
            tolerance = max(tolerance, noisy)
        if quantity == "acc":  # a share in float32
            tolerance = 1e-6
        assert value <= tolerance, f"{quantity}: error {value:.1e} above {tolerance:.0e}"


def test_an_unknown_setting_fails_instead_of_being_skipped(tmp_path):
    source = FOLDER / "vit_default.json"
    content = json.loads(source.read_text())
    content["head"]["new_option"] = 1
    (tmp_path / "vit_default.json").write_text(json.dumps(content))
    (tmp_path / "vit_default.npz").symlink_to(source.with_suffix(".npz").resolve())
    with pytest.raises(AssertionError, match="unknown"):
        golden_case.Run(tmp_path / "vit_default.json")
