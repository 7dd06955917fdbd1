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

from ibot.kernels.choice import using
from ibot.method.fused import RowFunctions, triton_rows

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))
QUICK = "swin_local40"
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


def with_kernels() -> list:
    """All cases; in the interpreter each row takes long."""
    return [
        pytest.param(*case.values, id=case.id, marks=[] if case.id == QUICK else pytest.mark.slow)
        for case in training_cases()
    ]


def test_the_golden_folder_holds_training_cases():
    assert len(training_cases()) >= 5, f"no training cases in {FOLDER}"


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("path", training_cases())
def test_our_steps_equal_the_published_ones(path, kernels):
    run = golden_case.Run(path)
    with using(kernels):
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


def in_float32(kernels: RowFunctions) -> RowFunctions:
    """The same for the float64 of these cases, with the rounding of float32."""

    def softmax(logits, center, temp):
        narrow = logits.float()
        kernels.softmax(narrow, center.float(), temp)
        logits.copy_(narrow)

    def cross_entropy(scores, probs, scale, temp, own):
        narrow = scores.float()
        losses = kernels.cross_entropy(narrow, probs.float(), scale.float(), temp, own)
        scores.copy_(narrow)
        return losses.double()

    return RowFunctions(softmax, cross_entropy)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run on the GPU that is there"
)
@pytest.mark.parametrize("path", with_kernels())
def test_the_kernels_of_the_losses_give_the_published_steps(path, monkeypatch):
    """Whose losses are rounded to float32, and nothing else. Later weights are not compared:
    AdamW makes the rounding of a small gradient a large change.
    """
    kernels = in_float32(triton_rows())
    monkeypatch.setattr("ibot.method.fused.PLAIN", kernels)
    errors = golden_case.Run(path).run()
    for quantity in ("losses", "centers", "gradients"):
        assert errors[quantity] <= 1e-5, f"{quantity}: error {errors[quantity]:.1e}"
    assert errors["losses"] > 1e-9 or not golden_case.Case(path).config().head.bottleneck_dim


def test_an_unknown_setting_fails_instead_of_being_skipped(tmp_path):
    source = FOLDER / "vit_default.json"
    content = json.loads(source.read_text())
    content["head"]["new_option"] = 1
    (tmp_path / "vit_default.json").write_text(json.dumps(content))
    (tmp_path / "vit_default.npz").symlink_to(source.with_suffix(".npz").resolve())
    with pytest.raises(AssertionError, match="unknown"):
        golden_case.Run(tmp_path / "vit_default.json")
