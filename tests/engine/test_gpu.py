"""What needs a CUDA device: run with pytest -m gpu."""

import pytest
import torch

from ibot.config.override import apply
from ibot.engine.loop import train
from ibot.eval.neighbours.vote import knn_accuracy
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
