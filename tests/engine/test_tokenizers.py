"""Runs whose patch targets come from a frozen network, colours or clusters."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.data.masks import masks_from_map
from ibot.data.sources import scan
from ibot.engine.checkpoint import load_checkpoint
from ibot.engine.loop import train
from ibot.engine.optimizer import build_optimizer
from ibot.engine.processes import Processes
from ibot.engine.run import read_jsonl
from ibot.engine.tokenizers import build_tokenizer, cluster, with_tokenizer
from ibot.errors import ConfigError, WeightsError
from ibot.method.model import StudentTeacher


def test_k_means_finds_separate_groups_and_repeats():
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (groups[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    centers = cluster(rows, 3, seed=1)
    assert torch.equal(centers, cluster(rows, 3, seed=1))
    assert (torch.cdist(groups, centers).min(1).values < 0.2).all()
    with pytest.raises(ConfigError, match="cannot give"):
        cluster(rows, 151, seed=0)


@pytest.mark.parametrize("kind", ["color", "clusters"])
def test_a_run_on_fixed_classes_learns_them_and_resumes(small, tmp_path, kind):
    settings = [f"method.patch_target={kind}", "method.cls_weight=0", "mask.ratio=0.4:0.1", "train.length=60 steps",
                "optim.lr=0.05", "head.patch_out_dim=8", "checkpoint.every=30 steps"]  # fmt: skip
    config = with_tokenizer(apply(small, settings))
    assert not config.head.shared and config.head.patch_out_dim == (512 if kind == "color" else 8)
    train(replace(config, train=replace(config.train, max_steps=30)), tmp_path / "run", quiet=True)
    first = load_file(tmp_path / "run" / "tokenizer.safetensors") if kind == "clusters" else {}
    train(config, tmp_path / "run", quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    last = "checkpoints/step_00000060/model.safetensors"
    a, b = load_file(tmp_path / "run" / last), load_file(tmp_path / "whole" / last)
    assert all(torch.equal(a[name], b[name]) for name in a)
    if first:
        assert torch.equal(first["centers"], load_file(tmp_path / "whole" / "tokenizer.safetensors")["centers"])
    losses = [row["patch_loss"] for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_frozen_run_gives_the_distribution_of_its_teacher(small, tmp_path):
    train(small, tmp_path / "source", quiet=True)
    config = with_tokenizer(apply(small, ["method.patch_target=frozen", f"method.tokenizer={tmp_path / 'source'}"]))
    tokenizer = build_tokenizer(config, scan(small.data.path), tmp_path, Processes())
    model = StudentTeacher(small)
    load_checkpoint(
        tmp_path / "source" / "checkpoints" / "step_00000020", model, build_optimizer(model.student, small.optim)
    )
    views = torch.randn(2, 3, 3, 32, 32)
    masks = masks_from_map(torch.rand(2, 3, 16) < 0.4)
    want = torch.softmax((model.teacher(views, masks).patch - model.patch_center.value) / 0.05, -1)
    torch.testing.assert_close(tokenizer.targets(views, masks, 0.05), want)
    train(replace(config, train=replace(config.train, max_steps=2)), tmp_path / "run", quiet=True)


def test_a_tokenizer_that_cannot_serve_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match="needs weights"):
        with_tokenizer(apply(small, ["method.patch_target=frozen"]))
    torch.save({"cls_token": torch.zeros(1, 1, 4)}, tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="no projection head"):
        with_tokenizer(apply(small, ["method.patch_target=frozen", f"method.tokenizer={tmp_path / 'bare.pth'}"]))
