"""The monitor on made-up streams of numbers; real failures are provoked in
test_health_provoked.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.config.override import apply
from ibot.engine import health
from ibot.engine.health import HealthMonitor, spectrum
from ibot.engine.meter import StageMeter
from ibot.engine.schedule import Schedules
from ibot.engine.update import UpdateOutput
from ibot.eval.features.spectrum import effective_rank
from ibot.recipes import recipe
from ibot.types import Batch, Made

K = 64
LN_K = math.log(K)
CONFIG = apply(recipe("tiny32"), [f"head.out_dim={K}", f"head.patch_out_dim={K}", "train.batch=32"])


def monitor(
    config=CONFIG, *, total=1000, warmup=50, freeze=0, num_images=5000, **judged
) -> HealthMonitor:
    """`judged` replaces what the judge has derived."""
    schedules = Schedules(
        config=config,
        steps_per_epoch=100,
        total_steps=total,
        warmup_steps=warmup,
        temp_warmup_steps=0,
        freeze_steps=freeze,
        mask_start=0,
    )
    made = HealthMonitor.of(config, schedules, num_images)
    for name, value in judged.items():
        setattr(made.judge, name, value)
    return made


def output(generator, **changes) -> UpdateOutput:
    """A healthy step, unless `changes` say otherwise."""
    features = changes.pop("features", torch.randn(64, 32, generator=generator))
    counts = changes.pop(
        "counts", torch.bincount(torch.randint(0, K, (64,), generator=generator), minlength=K)
    )
    scalars = {
        "cls_loss": 0.8 * LN_K,
        "patch_loss": 0.3 * LN_K,
        "teacher_entropy": 0.6 * LN_K,
        "patch_entropy": 0.4 * LN_K,
        "marginal_entropy": 0.95 * LN_K,
        "patch_marginal_entropy": 0.9 * LN_K,
        "agreement": 0.3,
        "patch_views": 2.0,
        "masked_fraction": 0.15,
    }
    norms = {
        part: torch.tensor(changes.pop(f"grad_{part}", 0.5))
        for part in ("backbone", "head_mlp", "last_layer")
    }
    metrics = {name: torch.tensor(changes.pop(name, value)) for name, value in scalars.items()}
    assert not changes
    metrics |= {"cls_prototypes": counts, "patch_prototypes": counts, "features": features}
    return UpdateOutput(torch.tensor(0.0), torch.tensor(0.0), metrics, norms)


def batch(content) -> Batch:
    index = np.arange(len(content))
    made = Made(decode=0.3, render=0.1, busy=0.4)
    return Batch(torch.empty(0), None, None, index, np.asarray(content), made=made)


def stream(made, reports, *, start=0, content=range(64), wait=0.0, **changes):
    """Feed ten steps per report; returns all verdicts as (step, kind) and the last report."""
    generator, verdicts, report = torch.Generator().manual_seed(0), [], None
    for r in range(reports):
        for i in range(10):
            values = {
                name: value(start + 10 * r + i) if callable(value) else value
                for name, value in changes.items()
            }
            made.observe(
                start + 10 * r + i, output(generator, **values), [batch(list(content))], 0.1, wait
            )
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
    assert values["images_per_second"] == pytest.approx(320, rel=1e-6) and values[
        "ln_k"
    ] == pytest.approx(LN_K)
    assert values["cls_prototypes_used"] == K and 20 < values["effective_rank"] < 32


@pytest.mark.parametrize(
    ("changes", "kind", "settings"),
    [
        (
            {"cls_loss": LN_K, "teacher_entropy": 0.999 * LN_K},
            "uniform",
            ["method.teacher_temp", "method.momentum"],
        ),
        (
            {"marginal_entropy": 0.01, "cls_loss": 0.02, "agreement": 1.0},
            "single prototype",
            ["optim.lr", "momentum"],
        ),
        (
            {"features": torch.linspace(0, 1, 64)[:, None] @ torch.ones(1, 32)},
            "low rank",
            ["method.koleo_weight=0.1"],
        ),
        ({"cls_loss": 2 * LN_K}, "diverging", ["optim.lr", "optim.warmup"]),
        ({"grad_backbone": lambda step: 0.5 if step < 150 else 90.0}, "diverging", ["optim.lr"]),
        ({"grad_backbone": float("nan")}, "diverging", ["train.precision=float32"]),
    ],
    ids=["uniform", "single", "rank", "loss", "gradient", "nan"],
)
def test_failures_are_named_with_the_settings_to_change(changes, kind, settings):
    verdicts, report = stream(monitor(), 40, **changes)
    assert {verdict.kind for _, verdict in verdicts} == {kind} and kind in report.words
    text = str(verdicts[0][1])
    assert all(setting in text for setting in settings)
    assert len(verdicts) == 1, "a lasting failure is said once, then only after a long time"


COLLAPSED = [
    # step, class loss, agreement, prototypes in use, entropy of the batch mean, effective rank
    (20, 1.150, 0.556, 15, 1.049, 3.39),
    (40, 0.551, 0.762, 2, 0.634, 2.85),
    (60, 0.384, 0.869, 2, 0.503, 2.79),
    (80, 0.187, 0.922, 2, 0.267, 2.95),
    (100, 0.071, 0.975, 2, 0.104, 3.10),
    (120, 0.035, 0.997, 2, 0.060, 3.38),
    (135, 0.024, 0.992, 2, 0.060, 3.36),
]
"""Recorded: 600 photographs, 15 epochs, 32 prototypes, neither balanced, spread nor centered."""


def judged(rows, total, prototypes=32, settings=(), images=600):
    """What is said of recorded reports: (step, kinds of verdicts, words)."""
    config = apply(CONFIG, [f"head.out_dim={prototypes}", *settings])
    judge = monitor(config, total=total, warmup=14, num_images=images).judge
    said = []
    for step, loss, agreement, used, marginal, rank in rows:
        values = {
            "cls_loss": loss,
            "agreement": agreement,
            "cls_prototypes_used": used,
            "cls_prototypes_share": used / prototypes,
            "marginal_entropy": marginal,
            "effective_rank": rank,
            "ln_k": math.log(prototypes),
            "ln_k_patch": math.log(prototypes),
            "patch_loss_masked": 1.3,
            "teacher_entropy": 0.1,
            "grad_backbone": 0.4,
            "grad_head_mlp": 0.3,
            "grad_last_layer": 0.5,
        }
        verdicts, words = judge.judge(step, values, {}, StageMeter().read())
        said.append((step, [verdict.kind for verdict in verdicts], words))
    return said


def test_a_recorded_collapse_is_said_and_is_the_last_word():
    said = judged(COLLAPSED, 135)
    assert [step for step, kinds, _ in said if "collapse" in kinds] == [120]
    assert "collapse" in said[-1][2] and said[2][2] == "healthy"
    none = judged(COLLAPSED, 135, settings=["method.cls_weight=0"])
    assert not any("collapse" in words for _, _, words in none), "heads that no loss trains"


@pytest.mark.parametrize("reports", [1, 2])
def test_a_collapse_that_only_the_last_reports_show_is_said_at_the_end(reports):
    rows = COLLAPSED[: 3 + reports]
    kinds = [kinds for _, kinds, _ in judged(rows, rows[-1][0])]
    assert kinds[-1] == ["collapse"] and not any(kinds[:-1])
    assert all(words == "healthy" for _, _, words in judged(rows, 1000))


@pytest.mark.parametrize(
    ("row", "prototypes"),
    [
        ((360, 2.1, 0.76, 128, 4.5, 18.0), 128),  # the largest agreement of a healthy run
        ((200, 4.7, 0.20, 51, 4.0, 5.0), 256),  # the least share in use of one
        ((500, 0.3, 0.97, 3, 1.0, 6.0), 4),  # a few prototypes that suit the images
        ((500, 0.3, 0.97, 30, 3.3, 9.0), 1024),  # of as many scenes
    ],
)
def test_agreement_on_several_prototypes_is_no_collapse(row, prototypes):
    assert not any("collapse" in words for _, _, words in judged([row] * 5, row[0], prototypes))


@pytest.mark.parametrize(("used", "told"), [(6, False), (5, True)])
def test_images_that_each_have_a_prototype_of_their_own_have_not_collapsed(used, told):
    said = judged([(500, 0.3, 0.97, used, 1.7, 6.0)] * 5, 500, 64, images=6)
    assert ("collapse" in said[-1][2]) == told


def test_nothing_is_said_during_the_warm_up():
    verdicts, _ = stream(
        monitor(uniform_after=600, quiet_until=600), 40, cls_loss=LN_K, teacher_entropy=LN_K
    )
    assert verdicts == []


def test_one_bad_report_is_not_a_failure():
    verdicts, _ = stream(
        monitor(), 30, marginal_entropy=lambda step: 0.0 if 200 <= step < 215 else 0.9 * LN_K
    )
    assert verdicts == []


@pytest.mark.parametrize("content", [[-1] * 64, [7] * 64, [7] * 40 + list(range(24))])
def test_equal_or_plain_images_are_noticed_at_the_first_report(content):
    verdicts, _ = stream(monitor(), 3, content=content)
    assert [verdict.kind for _, verdict in verdicts] == ["identical images"] and verdicts[0][
        0
    ] == 10
    assert "64 images" in verdicts[0][1].evidence and "data.path" in verdicts[0][1].advice


def test_too_many_prototypes_for_the_images_or_hardly_any_in_use():
    many = monitor(num_images=40)
    verdicts, _ = stream(many, 20)
    assert [v.kind for _, v in verdicts] == ["too many prototypes"] and "for 40 images" in verdicts[
        0
    ][1].evidence
    wide = apply(CONFIG, ["head.out_dim=1024", "head.patch_out_dim=1024"])
    made = monitor(wide)
    counts = torch.zeros(1024, dtype=torch.int64)
    counts[:4] = 16
    verdicts, report = stream(made, 40, counts=counts)
    assert [v.kind for _, v in verdicts] == ["too many prototypes"] and report.values[
        "cls_prototypes_used"
    ] == 4
    assert "head.out_dim" in verdicts[0][1].advice


def test_waiting_for_images_is_said_with_its_share():
    made = monitor()
    made.meter = StageMeter(workers=4)
    verdicts, report = stream(made, 6, wait=0.1)
    assert [v.kind for _, v in verdicts] == ["data-bound"] and "50%" in verdicts[0][1].evidence
    assert report.words == "data-bound (decode)"
    assert report.values["wait_fraction"] == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(200, 16), (12, 48)])
def test_the_cheap_spectrum_equals_the_singular_values(shape):
    features = torch.randn(*shape) @ torch.randn(shape[1], shape[1])
    rank, spread = spectrum(features)
    assert rank == pytest.approx(effective_rank(features), rel=1e-6)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    assert spread == pytest.approx(
        (unit - unit.mean(0)).norm(dim=1).square().mean().sqrt().item(), rel=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranks_of_half_precision_features_are_computed_wider(dtype):
    """A common direction of length 3000 leaves the differences to float32; its square is beyond
    float16.
    """
    features = (torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 20 + 3000).to(
        dtype
    )
    want = effective_rank(features.double())
    assert spectrum(features)[0] == pytest.approx(want, rel=1e-6)
    assert effective_rank(features) == pytest.approx(want, rel=1e-4)


def test_a_report_holds_the_means_since_the_last_one_by_plain_sums():
    made, generator, used = monitor(), torch.Generator().manual_seed(3), torch.zeros(K)
    for report in range(2):
        outs = [
            output(generator, cls_loss=1.0 + i, patch_views=1.5, grad_head_mlp=0.1 * i)
            for i in range(4)
        ]
        counts = [
            torch.bincount(torch.randint(0, K, (5,), generator=generator), minlength=K)
            for _ in range(2)
        ]
        for out, count in zip(outs[::2], counts, strict=True):
            out.metrics.update(cls_prototypes=count, patch_prototypes=3 * count)
        for i in (1, 3):  # steps that were not observed
            for name in (
                "features",
                "cls_prototypes",
                "patch_prototypes",
                "teacher_entropy",
                "agreement",
            ):
                outs[i].metrics.pop(name)
        assert made.observed == 0
        for i, out in enumerate(outs):
            made.observe(4 * report + i, out, [batch([i])], 0.2, 0.05)
        assert made.observed == 4
        values = made.report().values
        used = used + sum(counts)  # the window holds 640 rows
        want = {
            "cls_loss": 2.5,
            "grad_head_mlp": 0.15,
            "teacher_entropy": 0.6 * LN_K,
            "agreement": 0.3,
            "patch_loss": 0.3 * LN_K,
            "patch_loss_masked": 0.45 * LN_K,
            "patch_kl": 0.05 * LN_K,
            "cls_kl": 2.5 - 0.6 * LN_K,
            "ln_k": LN_K,
            "ln_k_patch": LN_K,
            "images_per_second": 4 * 32 / 1.0,
            "wait_fraction": 0.2,
            "decode_seconds": 0.3,
            "render_seconds": 0.1,
            "workers": 0,
            "cls_prototypes_used": float((used > 0).sum()),
            "cls_prototypes_share": float((used > 0).sum() / min(K, used.sum())),
            "patch_prototypes_share": float((used > 0).sum() / min(K, 3 * used.sum())),
            "effective_rank": effective_rank(outs[2].metrics["features"]),
            "feature_std": None,
        }
        want["feature_std"] = spectrum(outs[2].metrics["features"])[1]
        assert {name: values[name] for name in want} == pytest.approx(want, rel=1e-4), report
        assert "patch_views" not in values


def test_without_hidden_patches_their_loss_is_zero():
    _, report = stream(monitor(), 1, masked_fraction=0.0)
    assert report.values["patch_loss_masked"] == report.values["patch_kl"] == 0.0


@pytest.mark.parametrize(("shared", "dims"), [(True, (K, K)), (False, (K, 2 * K))])
def test_a_shared_head_has_the_prototypes_of_the_class_for_patches_too(shared, dims):
    config = apply(
        CONFIG,
        [f"head.shared={shared}", f"head.shared_teacher={shared}", f"head.patch_out_dim={2 * K}"],
    )
    made = monitor(config)
    _, report = stream(made, 1)
    assert (report.values["ln_k"], report.values["ln_k_patch"]) == pytest.approx(
        tuple(map(math.log, dims))
    )


@pytest.mark.parametrize(
    ("total", "warmup", "freeze", "want"),
    [
        (1000, 50, 80, (80, 50, 100)),
        (1000, 80, 50, (80, 80, 100)),
        (5000, 60, 0, (60, 60, 200)),
        (60, 50, 10, (30, 30, 10)),
        (1000, 0, 700, (500, 0, 100)),
    ],
)
def test_judgement_begins_after_the_warm_ups_or_at_half_of_a_short_run(total, warmup, freeze, want):
    made = monitor(total=total, warmup=warmup, freeze=freeze)
    judge = made.judge
    assert (judge.uniform_after, judge.quiet_until, judge.uniform_steps) == want
    assert judge.total_steps == total


def test_five_steps_between_two_log_lines_are_observed_and_the_first():
    config = apply(CONFIG, ["log.every=20"])
    made = monitor(config)
    assert made.wants(3)
    made.observe(3, output(torch.Generator().manual_seed(0)), [], 0.1, 0.0)
    assert [step for step in range(20) if made.wants(step)] == [0, 4, 8, 12, 16]
    every = replace(config, log=replace(config.log, every=3))
    made = monitor(every)
    made.observe(3, output(torch.Generator().manual_seed(0)), [], 0.1, 0.0)
    assert all(made.wants(step) for step in range(5))


@pytest.mark.parametrize(
    ("quiet", "loud", "kind"),
    [
        (
            {"marginal_entropy": 0.021 * LN_K},
            {"marginal_entropy": 0.019 * LN_K},
            "single prototype",
        ),
        ({"cls_loss": 1.49 * LN_K}, {"cls_loss": 1.51 * LN_K}, "diverging"),
        (
            {"patch_loss": 0.74 * LN_K},
            {"patch_loss": 0.76 * LN_K},
            "diverging",
        ),  # twice that per hidden view
        (
            {"grad_last_layer": lambda step: 0.5 if step < 150 else 25.0},
            {"grad_last_layer": lambda step: 0.5 if step < 150 else 27.0},
            "diverging",
        ),  # of sqrt(3) / 2
        (
            {
                "grad_backbone": lambda step: 0.001 if step < 150 else 0.7,
                "grad_head_mlp": 0.001,
                "grad_last_layer": 0.001,
            },
            {
                "grad_backbone": lambda step: 0.001 if step < 150 else 1.1,
                "grad_head_mlp": 0.001,
                "grad_last_layer": 0.001,
            },
            "diverging",
        ),
        (
            {"cls_loss": 0.989 * LN_K, "teacher_entropy": LN_K},
            {"cls_loss": 0.991 * LN_K, "teacher_entropy": LN_K},
            "uniform",
        ),
        (
            {"cls_loss": LN_K, "teacher_entropy": 0.989 * LN_K},
            {"cls_loss": LN_K, "teacher_entropy": 0.991 * LN_K},
            "uniform",
        ),
        ({"wait": 0.017}, {"wait": 0.018}, "data-bound"),  # beside 0.1 s of work: 0.15 of all
    ],
    ids=[
        "marginal",
        "class loss",
        "patch loss",
        "gradient",
        "small gradient",
        "loss",
        "entropy",
        "wait",
    ],
)
def test_each_failure_begins_at_its_limit(quiet, loud, kind):
    for changes, kinds in ((quiet, set()), (loud, {kind})):
        verdicts, _ = stream(monitor(), 24, **changes)
        assert {verdict.kind for _, verdict in verdicts} == kinds, changes


@pytest.mark.parametrize(("rank", "kinds"), [(1.85, {"low rank"}), (1.95, set())])
def test_a_rank_below_the_limit_is_said(rank, kinds):
    """Two directions whose shares of the energy have this entropy."""
    shares = min(
        np.linspace(0.01, 0.5, 2000),
        key=lambda p: abs(math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p)) - rank),
    )
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr((lambda x: x - x.mean(0))(torch.randn(64, 2, generator=g)))[0]
    features = torch.zeros(64, 32)
    features[:, :2] = basis * torch.tensor([math.sqrt(1 - shares), math.sqrt(shares)])
    verdicts, report = stream(monitor(), 10, features=features)
    assert report.values["effective_rank"] == pytest.approx(rank, abs=0.01)
    assert {verdict.kind for _, verdict in verdicts} == kinds


def test_a_condition_is_said_at_its_third_report_and_again_after_fifty():
    verdicts, report = stream(
        monitor(quiet_until=0), 110, marginal_entropy=0.0, features=torch.eye(8)
    )
    assert [step for step, verdict in verdicts if verdict.kind == "single prototype"] == [
        30,
        530,
        1030,
    ]
    assert report.words == "single prototype"
    at_once, _ = stream(monitor(), 60, content=[7] * 64, features=torch.eye(8))
    assert [step for step, _ in at_once] == [10, 510]


def test_uniform_outputs_must_last_and_begin_anew_when_interrupted():
    bad = {"cls_loss": LN_K, "teacher_entropy": LN_K}
    first = {
        step: verdict
        for step, verdict in stream(monitor(uniform_after=40, uniform_steps=100), 30, **bad)[0]
    }
    assert min(first) == 40 + 100 + 20 and "since step 40" in first[160].evidence
    interrupted = {
        "cls_loss": lambda step: 0.5 * LN_K if 100 <= step < 110 else LN_K,
        "teacher_entropy": LN_K,
    }
    later = {
        step
        for step, _ in stream(monitor(uniform_after=40, uniform_steps=100), 30, **interrupted)[0]
    }
    assert min(later) == 120 + 100 + 20


@pytest.mark.parametrize(
    ("momentum", "steps", "frozen"), [(0.9375, 16, True), (0.9375, 17, False), (0.99, 1000, False)]
)
def test_a_teacher_that_remembers_longer_than_the_run_is_said_to_be_frozen(momentum, steps, frozen):
    config = apply(CONFIG, [f"method.momentum={momentum}"])
    made = monitor(config, total=steps, warmup=10)
    verdicts, _ = stream(made, 5)
    assert [verdict.kind for _, verdict in verdicts] == (["frozen teacher"] if frozen else [])
    if frozen:
        text = str(verdicts[0][1])
        assert "over 16 steps, the run has 16" in text and "(for this run 0.5 or less)" in text


@pytest.mark.parametrize(
    ("images", "out_dim", "used", "said"),
    [
        (64, 64, 64, ""),
        (63, 64, 64, "64 prototypes for 63 images"),
        (5000, 512, 10, "10 of 512 prototypes"),
        (5000, 512, 11, ""),
        (5000, 256, 1, ""),
    ],
)
def test_prototypes_are_too_many_beyond_the_images_or_at_two_per_cent_of_use(
    images, out_dim, used, said
):
    config = apply(CONFIG, [f"head.out_dim={out_dim}", f"head.patch_out_dim={out_dim}"])
    made = monitor(config, warmup=0, num_images=images)
    counts = torch.zeros(out_dim, dtype=torch.int64)
    counts[:used] = 64
    verdicts, report = stream(made, 8, counts=counts)
    assert report.values["cls_prototypes_used"] == used
    assert [said in verdict.evidence for _, verdict in verdicts] == ([True] if said else [])
    if said:
        advised = {63: 32, 5000: 256}[images]
        assert f"for {images} images try {advised})" in verdicts[0][1].advice


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([7] * 7, False),
        ([7] * 8, True),
        ([*range(4), 0, 0, 0, 0], False),
        ([*range(4), *[0] * 5], True),
        ([*range(5), *[-1] * 6], True),
    ],
)
def test_images_must_differ_in_half_of_at_least_eight(content, said):
    verdicts, report = stream(monitor(), 1, content=content)
    assert [verdict.kind for _, verdict in verdicts] == (["identical images"] if said else [])
    if said:
        distinct = len({c for c in content if c >= 0})
        plain = sum(c < 0 for c in content)
        assert f"of {len(content)} images {distinct} have" in verdicts[0][1].evidence
        assert (
            f"{plain} have one colour" in verdicts[0][1].evidence
            and report.words == "identical images"
        )


def test_waiting_is_judged_from_the_third_report_on():
    assert stream(monitor(), 2, wait=1.0)[0] == []
    assert [step for step, _ in stream(monitor(), 4, wait=1.0)[0]] == [30]


def test_the_spectrum_of_equal_or_broken_rows_is_of_rank_one():
    assert spectrum(torch.ones(5, 3)) == (1.0, pytest.approx(0.0, abs=1e-9))
    assert spectrum(torch.full((5, 3), torch.nan))[0] == 1.0


def test_sums_of_several_processes_are_means_over_all(monkeypatch):
    made = monitor()
    made.observe(0, output(torch.Generator().manual_seed(0), cls_loss=1.0), [], 0.1, 0.0)

    def of_three(tensors):  # the others have the same, but for the loss
        summed = [3 * tensor.double() for tensor in tensors]
        summed[0] += 6.0
        return summed

    monkeypatch.setattr(health, "sum_over_processes", of_three)
    assert next(iter(made._sums)) == "cls_loss"
    values = made.report().values
    assert values["cls_loss"] == pytest.approx(3.0) and values["teacher_entropy"] == pytest.approx(
        0.6 * LN_K
    )


def test_prototype_use_forgets_what_is_long_ago():
    made = monitor()
    first, second = torch.zeros(K, dtype=torch.int64), torch.zeros(K, dtype=torch.int64)
    first[: K // 2], second[K // 2] = 1, 64
    stream(made, 1, counts=first)
    _, report = stream(made, 40, start=10, counts=second)
    assert report.values["cls_prototypes_used"] == 1


def test_the_advice_carries_the_run_s_own_values():
    config = replace(CONFIG, method=replace(CONFIG.method, teacher_temp=0.123))
    made = monitor(config)
    verdicts, _ = stream(made, 40, cls_loss=LN_K, teacher_entropy=LN_K)
    assert "0.123" in verdicts[0][1].advice
