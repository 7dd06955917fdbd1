"""What needs a CUDA device: run with pytest -m gpu."""

import pytest
import torch
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.data.loader import Loader
from ibot.data.pixels_device import render
from ibot.data.sets.scan import scan
from ibot.engine.blocks import prepare_blocks
from ibot.engine.checkpoint import find_checkpoint
from ibot.engine.guards import Sent
from ibot.engine.health import HealthMonitor
from ibot.engine.loop import mask_grid, train
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES
from ibot.engine.schedule import Schedules
from ibot.engine.transfer import ahead
from ibot.engine.update import Update
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.method.model import StudentTeacher
from ibot.system.device import choose_device, choose_precision
from ibot.system.jsonl import read_jsonl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_on_the_gpu_follows_the_one_on_the_cpu(small, tmp_path, precision):
    small = apply(small, ["model.drop_path=0", "log.every=1"])
    train(small, tmp_path / "cpu", quiet=True)
    train(
        apply(small, ["system.device=cuda", f"train.precision={precision}"]),
        tmp_path / "gpu",
        quiet=True,
    )
    rows = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("cpu", "gpu")]
    tolerance = 1e-3 if precision == "float32" else 0.05
    for a, b in zip(*rows, strict=True):
        assert b["cls_loss"] == pytest.approx(a["cls_loss"], rel=tolerance)


def test_automatic_choices_on_a_gpu():
    device = choose_device("auto")
    assert device.type == "cuda"
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_precision("auto", device) is (torch.bfloat16 if native else torch.float32)


def test_knn_is_the_same_on_both_devices():
    bank, queries = (torch.nn.functional.normalize(torch.randn(n, 32), dim=1) for n in (500, 100))
    labels, truth = torch.randint(0, 5, (500,)), torch.randint(0, 5, (100,))
    cpu = knn_accuracy(bank, labels, queries, truth, ks=[10])
    gpu = knn_accuracy(bank.cuda(), labels.cuda(), queries.cuda(), truth.cuda(), ks=[10])
    assert gpu[10].top1 == pytest.approx(cpu[10].top1, abs=1.0)


def test_views_made_on_the_gpu_are_those_made_on_the_cpu(small):
    (undrawn,) = next(
        iter(
            Loader(
                apply(small, ["data.pixels=device", "augment.turn=0.5"]),
                scan(small.data.path),
                grid=mask_grid(small),
            )
        )
    )
    given = undrawn.sizes, undrawn.params, small.augment
    cpu = render(undrawn.pictures, *given, torch.device("cpu"))
    gpu = render(undrawn.pictures, *given, torch.device("cuda"))
    for a, b in zip(cpu, gpu, strict=True):
        apart = (a.int() - b.cpu().int()).abs()
        assert apart.max() <= 16 and apart.float().mean() < 0.05  # a colour may round otherwise


def test_nothing_waits_for_the_gpu_where_views_are_made(small):
    config = apply(small, ["data.pixels=device", "system.device=cuda", "augment.turn=0.5"])
    steps = ahead(
        Loader(config, scan(config.data.path), grid=mask_grid(config), end_step=3),
        config,
        torch.device("cuda"),
    )
    next(steps)  # memory is page-locked at the first one
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in steps:
            assert step.on_device()[0].global_views.is_cuda
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", ["on", "off"])
def test_nothing_waits_for_the_gpu_in_a_step(small, compiled):
    small = apply(small, [f"system.compile={compiled}"])
    model = StudentTeacher(small).to("cuda")
    prepare_blocks(model, small.system, torch.device("cuda"))
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, small.optim),
        config=small,
    )
    health = HealthMonitor.of(small, Schedules.of(small, derive(small, 48)), num_images=48)

    def three_steps():
        source, rates = scan(small.data.path), model.student.backbone.drop_rates
        loader = Loader(small, source, grid=mask_grid(small), end_step=3, drop_rates=rates)
        for i, step in enumerate(ahead(loader, small, torch.device("cuda"))):
            out = update.step(step.on_device(), VALUES, observe=True)
            health.observe(i, out, step.read, 0.1, 0.0)
            failed = Sent(out.failed)
        return failed

    three_steps()  # memory is taken and blocks are compiled at the first ones
    torch.cuda.set_sync_debug_mode("error")
    try:
        failed = three_steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert failed.read() == 0


@pytest.mark.parametrize(("precision", "apart"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_twenty_steps_with_all_fast_paths_follow_the_plain_forms(small, tmp_path, precision, apart):
    small = apply(small, ["system.device=cuda", f"train.precision={precision}", "log.every=1"])
    for name, settings in (
        ("plain", ["system.kernels=reference"]),
        ("fast", ["system.compile=on", "system.checkpoint_activations=selective"]),
    ):
        train(apply(small, settings), tmp_path / name, quiet=True)
    plain, fast = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("plain", "fast"))
    assert len(plain) == 20
    for a, b in zip(plain, fast, strict=True):
        for name in ("cls_loss", "patch_loss"):
            assert b[name] == pytest.approx(a[name], rel=apart)


def test_a_resumed_run_on_the_gpu_is_the_whole_one(small, tmp_path):
    small = apply(small, ["system.device=cuda", "train.length=9 steps", "data.pixels=device"])
    train(small, tmp_path / "whole", quiet=True)
    for end in (4, 9):
        train(apply(small, [f"train.max_steps={end}"]), tmp_path / "parts", quiet=True)
    whole, parts = (
        load_file(find_checkpoint(tmp_path / name) / "model.safetensors")
        for name in ("whole", "parts")
    )
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=1e-5)
