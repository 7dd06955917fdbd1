import numpy as np
import pytest
import torch

from ibot.eval.robustness.calibration_error import (
    aurra,
    confidence_and_correct,
    rms_calibration_error,
)
from ibot.eval.robustness.settings import CalibrationSettings

BINS = CalibrationSettings().bin_size


def ramp() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.linspace(0, 0.999, 1000)), torch.arange(1000) % 2 == 1


def random_samples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, generator=g, dtype=torch.float64)
    return confidence, torch.rand(n, generator=g) < confidence


def loop_rms(
    confidence: torch.Tensor, correct: torch.Tensor, bin_size: int, drop_last: bool
) -> float:
    order = np.argsort(confidence.numpy(), kind="stable")
    starts = list(range(0, len(order) - bin_size + 1, bin_size)) or [0]
    ends = [*starts[1:], len(order)]
    total = 0.0
    for start, end in list(zip(starts, ends, strict=True))[: -1 if drop_last else None]:
        members = order[start:end]
        gap = np.mean(confidence.numpy()[members]) - np.mean(correct.numpy()[members])
        total += len(members) / len(order) * gap**2
    return float(np.sqrt(total))


def loop_aurra(confidence: torch.Tensor, correct: torch.Tensor) -> float:
    right = [
        bool(correct[i]) for i in sorted(range(len(correct)), key=lambda i: -float(confidence[i]))
    ]
    return float(np.mean([np.mean(right[:r]) for r in range(1, len(right) + 1)]))


def test_vectors_of_the_specification():
    assert rms_calibration_error(*ramp(), BINS, drop_last=True) == pytest.approx(0.249590, abs=5e-7)
    assert rms_calibration_error(*ramp(), BINS) == pytest.approx(0.287229, abs=5e-7)
    assert aurra(*ramp()) == pytest.approx(0.502045, abs=5e-7)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [1, 9, 10, 11, 19, 20, 57, 100])
def test_rms_equals_a_loop_over_bins(n, drop_last):
    confidence, correct = random_samples(n, seed=n)
    got = rms_calibration_error(confidence, correct, bin_size=10, drop_last=drop_last)
    assert got == pytest.approx(loop_rms(confidence, correct, 10, drop_last), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 57])
def test_aurra_equals_a_loop_over_ranks(n):
    assert aurra(*random_samples(n, seed=n)) == pytest.approx(
        loop_aurra(*random_samples(n, seed=n)), abs=1e-12
    )


def test_fewer_samples_than_a_bin_are_one_bin():
    confidence, correct = torch.tensor([0.2, 0.9, 0.7]), torch.tensor([True, False, True])
    assert rms_calibration_error(confidence, correct, BINS) == pytest.approx(
        abs(0.6 - 2 / 3), abs=1e-6
    )
    assert rms_calibration_error(confidence, correct, BINS, drop_last=True) == 0


def test_a_calibrated_bin_has_no_error_and_a_sure_mistake_has_all():
    assert rms_calibration_error(torch.full((200,), 0.5), torch.arange(200) % 2 == 0, BINS) == 0
    assert rms_calibration_error(torch.ones(200), torch.zeros(200, dtype=torch.bool), BINS) == 1


def test_dropping_the_last_bin_never_raises_the_error():
    for seed in range(5):
        samples = random_samples(730, seed)
        assert rms_calibration_error(*samples, BINS, drop_last=True) <= rms_calibration_error(
            *samples, BINS
        )


def test_the_order_of_samples_changes_nothing():
    confidence, correct = random_samples(333, seed=0)
    shuffled = torch.randperm(333, generator=torch.Generator().manual_seed(1))
    assert rms_calibration_error(confidence[shuffled], correct[shuffled], BINS) == pytest.approx(
        rms_calibration_error(confidence, correct, BINS), abs=1e-12
    )
    assert aurra(confidence[shuffled], correct[shuffled]) == pytest.approx(
        aurra(confidence, correct), abs=1e-12
    )


def test_aurra_rewards_mistakes_of_low_confidence():
    correct = torch.tensor([True, True, False])
    good, bad = (
        aurra(torch.tensor([0.9, 0.8, 0.1]), correct),
        aurra(torch.tensor([0.1, 0.2, 0.9]), correct),
    )
    assert good == pytest.approx((1 + 1 + 2 / 3) / 3) and bad == pytest.approx(
        (0 + 1 / 2 + 2 / 3) / 3
    )
    assert aurra(torch.rand(7), torch.ones(7, dtype=torch.bool)) == 1


def test_confidence_over_all_classes_equals_numpy():
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20) % 6
    confidence, correct = confidence_and_correct(logits, labels)
    probs = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    np.testing.assert_allclose(confidence.numpy(), probs.max(1), atol=1e-12)
    np.testing.assert_array_equal(correct.numpy(), probs.argmax(1) == labels.numpy())


def test_a_subset_competes_alone_and_labels_count_within_it():
    logits = torch.tensor([[9.0, 0.0, 1.0, 0.5]])
    confidence, correct = confidence_and_correct(logits, torch.tensor([1]), torch.tensor([3, 2]))
    assert confidence.item() == pytest.approx(
        1 / (1 + np.exp(-0.5)), abs=1e-6
    ) and correct.tolist() == [True]
    _, in_order = confidence_and_correct(logits, torch.tensor([1]), torch.tensor([2, 3]))
    assert in_order.tolist() == [False]


def test_half_precision_logits_give_float32_confidence():
    confidence, correct = confidence_and_correct(
        torch.randn(4, 3).bfloat16(), torch.zeros(4, dtype=torch.int64)
    )
    assert confidence.dtype == torch.float32 and correct.dtype == torch.bool


def test_unusable_arguments_are_refused():
    confidence, correct = random_samples(5, seed=0)
    with pytest.raises(ValueError, match=r"\(5,\) and \(4,\)"):
        rms_calibration_error(confidence, correct[:4], BINS)
    with pytest.raises(ValueError, match="n > 0"):
        aurra(confidence[:0], correct[:0])
    with pytest.raises(ValueError, match="at least one"):
        rms_calibration_error(confidence, correct, bin_size=0)
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        confidence_and_correct(torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="subset between 1 and 3"):
        confidence_and_correct(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="labels between 2 and 2"):
        confidence_and_correct(torch.zeros(1, 3), torch.tensor([2]), torch.tensor([0, 1]))
