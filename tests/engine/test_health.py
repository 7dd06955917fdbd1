"""The monitor on made-up streams of numbers; real failures are provoked in test_health_provoked.py."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.config.override import apply
from ibot.engine.health import HealthMonitor, spectrum
from ibot.engine.schedule import Schedules
from ibot.engine.update import UpdateOutput
from ibot.eval.spectrum import effective_rank
from ibot.recipes import recipe
from ibot.types import Batch

K = 64
LN_K = math.log(K)
CONFIG = apply(recipe("tiny32"), [f"head.out_dim={K}", f"head.patch_out_dim={K}", "train.batch=32"])


def monitor(**changes) -> HealthMonitor:
    made = HealthMonitor.from_config(CONFIG, Schedules(CONFIG, 100, 1000, 50, 0, 0), num_images=5000)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def output(generator, **changes) -> UpdateOutput:
    """A healthy step, unless `changes` say otherwise."""
    features = changes.pop("features", torch.randn(64, 32, generator=generator))
    counts = changes.pop("counts", torch.bincount(torch.randint(0, K, (64,), generator=generator), minlength=K))
    scalars = {
        "cls_loss": 0.8 * LN_K, "patch_loss": 0.3 * LN_K, "teacher_entropy": 0.6 * LN_K, "patch_entropy": 0.4 * LN_K,
        "marginal_entropy": 0.95 * LN_K, "patch_marginal_entropy": 0.9 * LN_K, "agreement": 0.3, "patch_views": 2.0,
        "masked_fraction": 0.15,
    }  # fmt: skip
    norms = {part: torch.tensor(changes.pop(f"grad_{part}", 0.5)) for part in ("backbone", "head_mlp", "last_layer")}
    metrics = {name: torch.tensor(changes.pop(name, value)) for name, value in scalars.items()}
    assert not changes
    metrics |= {"cls_prototypes": counts, "patch_prototypes": counts, "features": features}
    return UpdateOutput(torch.tensor(0.0), torch.tensor(0.0), metrics, norms)


def batch(content) -> Batch:
    return Batch(torch.empty(0), None, None, np.arange(len(content)), np.asarray(content))


def stream(made, reports, *, start=0, content=range(64), wait=0.0, **changes):
    """Feed ten steps per report; returns all verdicts as (step, kind) and the last report."""
    generator, verdicts, report = torch.Generator().manual_seed(0), [], None
    for r in range(reports):
        for i in range(10):
            values = {name: value(start + 10 * r + i) if callable(value) else value for name, value in changes.items()}
            made.observe(start + 10 * r + i, output(generator, **values), [batch(list(content))], 0.1, wait)
        report = made.report()
        verdicts += [(start + 10 * (r + 1), verdict) for verdict in report.verdicts]
    return verdicts, report


def test_a_healthy_run_gives_no_verdict_and_meaningful_numbers():
    verdicts, report = stream(monitor(), 60)
    assert verdicts == [] and report.words == "healthy"
    values = report.values
    assert values["cls_kl"] == pytest.approx(0.2 * LN_K, rel=1e-5)
    assert values["patch_loss_masked"] == pytest.approx(0.6 * LN_K, rel=1e-5)
    assert values["patch_kl"] == pytest.approx(0.2 * LN_K, rel=1e-5)
    assert values["images_per_second"] == pytest.approx(320, rel=1e-6) and values["ln_k"] == pytest.approx(LN_K)
    assert values["cls_prototypes_used"] == K and 20 < values["effective_rank"] < 32


@pytest.mark.parametrize(
    ("changes", "kind", "settings"),
    [
        ({"cls_loss": LN_K, "teacher_entropy": 0.999 * LN_K}, "uniform", ["method.teacher_temp", "method.momentum"]),
        ({"marginal_entropy": 0.01, "cls_loss": 0.02, "agreement": 1.0}, "single prototype", ["optim.lr", "momentum"]),
        ({"features": torch.linspace(0, 1, 64)[:, None] @ torch.ones(1, 32)}, "low rank", ["method.koleo_weight=0.1"]),
        ({"cls_loss": 2 * LN_K}, "diverging", ["optim.lr", "optim.warmup"]),
        ({"grad_backbone": lambda step: 0.5 if step < 150 else 90.0}, "diverging", ["optim.lr"]),
        ({"grad_backbone": float("nan")}, "diverging", ["train.precision=float32"]),
    ],
    ids=["uniform", "single", "rank", "loss", "gradient", "nan"],
)  # fmt: skip
def test_failures_are_named_with_the_settings_to_change(changes, kind, settings):
    verdicts, report = stream(monitor(), 40, **changes)
    assert {verdict.kind for _, verdict in verdicts} == {kind} and kind in report.words
    text = str(verdicts[0][1])
    assert all(setting in text for setting in settings)
    assert len(verdicts) == 1, "a lasting failure is said once, then only after a long time"


def test_nothing_is_said_during_the_warm_up():
    verdicts, _ = stream(monitor(uniform_after=600, quiet_until=600), 40, cls_loss=LN_K, teacher_entropy=LN_K)
    assert verdicts == []


def test_one_bad_report_is_not_a_failure():
    verdicts, _ = stream(monitor(), 30, marginal_entropy=lambda step: 0.0 if 200 <= step < 215 else 0.9 * LN_K)
    assert verdicts == []


@pytest.mark.parametrize("content", [[-1] * 64, [7] * 64, [7] * 40 + list(range(24))])
def test_equal_or_plain_images_are_noticed_at_the_first_report(content):
    verdicts, _ = stream(monitor(), 3, content=content)
    assert [verdict.kind for _, verdict in verdicts] == ["identical images"] and verdicts[0][0] == 10
    assert "64 images" in verdicts[0][1].evidence and "data.path" in verdicts[0][1].advice


def test_too_many_prototypes_for_the_images_or_hardly_any_in_use():
    many = monitor(num_images=40)
    verdicts, _ = stream(many, 20)
    assert [v.kind for _, v in verdicts] == ["too many prototypes"] and "for 40 images" in verdicts[0][1].evidence
    wide = apply(CONFIG, ["head.out_dim=1024", "head.patch_out_dim=1024"])
    made = HealthMonitor.from_config(wide, Schedules(wide, 100, 1000, 50, 0, 0), num_images=5000)
    counts = torch.zeros(1024, dtype=torch.int64)
    counts[:4] = 16
    verdicts, report = stream(made, 40, counts=counts)
    assert [v.kind for _, v in verdicts] == ["too many prototypes"] and report.values["cls_prototypes_used"] == 4
    assert "head.out_dim" in verdicts[0][1].advice


def test_waiting_for_images_is_said_with_its_share():
    verdicts, report = stream(monitor(), 6, wait=0.1)
    assert [v.kind for _, v in verdicts] == ["data-bound"] and "50%" in verdicts[0][1].evidence
    assert report.values["wait_fraction"] == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(200, 16), (12, 48)])
def test_the_cheap_spectrum_equals_the_singular_values(shape):
    features = torch.randn(*shape) @ torch.randn(shape[1], shape[1])
    rank, spread = spectrum(features)
    assert rank == pytest.approx(effective_rank(features), rel=1e-6)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    assert spread == pytest.approx((unit - unit.mean(0)).norm(dim=1).square().mean().sqrt().item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranks_of_half_precision_features_are_computed_wider(dtype):
    """A common direction of length 3000 leaves the differences to float32; its square is beyond float16."""
    features = (torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 20 + 3000).to(dtype)
    want = effective_rank(features.double())
    assert spectrum(features)[0] == pytest.approx(want, rel=1e-6)
    assert effective_rank(features) == pytest.approx(want, rel=1e-4)


def test_prototype_use_forgets_what_is_long_ago():
    made = monitor()
    first, second = torch.zeros(K, dtype=torch.int64), torch.zeros(K, dtype=torch.int64)
    first[: K // 2], second[K // 2] = 1, 64
    stream(made, 1, counts=first)
    _, report = stream(made, 40, start=10, counts=second)
    assert report.values["cls_prototypes_used"] == 1


def test_the_advice_carries_the_run_s_own_values():
    config = replace(CONFIG, method=replace(CONFIG.method, teacher_temp=0.123))
    made = HealthMonitor.from_config(config, Schedules(config, 100, 1000, 50, 0, 0), num_images=5000)
    verdicts, _ = stream(made, 40, cls_loss=LN_K, teacher_entropy=LN_K)
    assert "0.123" in verdicts[0][1].advice
