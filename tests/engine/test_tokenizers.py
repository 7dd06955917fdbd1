"""Runs whose patch targets come from a frozen network, colours or clusters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.data.decode import decode
from ibot.data.masks import masks_from_map
from ibot.data.pixels import evaluation_view
from ibot.data.sets.scan import scan
from ibot.engine import tokenizers
from ibot.engine.checkpoint import load_checkpoint
from ibot.engine.loop import train
from ibot.engine.optimizer import build_optimizer
from ibot.engine.tokenizers import (
    build_tokenizer,
    cluster,
    sample_patches,
    tokenizer_size,
    with_tokenizer,
)
from ibot.errors import ConfigError, WeightsError
from ibot.method.model import StudentTeacher
from ibot.system.jsonl import read_jsonl
from ibot.system.processes import Processes


def test_k_means_finds_separate_groups_and_repeats():
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (groups[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    centers = cluster(rows, 3, seed=1)
    assert torch.equal(centers, cluster(rows, 3, seed=1))
    assert (torch.cdist(groups, centers).min(1).values < 0.2).all()
    with pytest.raises(ConfigError, match="cannot give"):
        cluster(rows, 151, seed=0)


@pytest.mark.parametrize("seed", [0, 3])
def test_k_means_equals_lloyds_iterations_by_loops(seed):
    g = torch.Generator().manual_seed(5)
    rows = torch.cat(
        [torch.randn(20, 3, generator=g), torch.zeros(12, 3)]
    )  # equal rows leave clusters empty
    generator = torch.Generator().manual_seed(seed)
    centers = [rows[i].clone() for i in torch.randperm(32, generator=generator)[:6].tolist()]
    for _ in range(10):
        members = [[] for _ in centers]
        for row in rows:
            members[min(range(6), key=lambda k: (row - centers[k]).square().sum().item())].append(
                row
            )
        empty = [k for k in range(6) if not members[k]]
        centers = [torch.stack(own).mean(0) if own else centers[k] for k, own in enumerate(members)]
        for k, i in zip(
            empty,
            torch.randint(32, (len(empty),), generator=generator).tolist() if empty else [],
            strict=True,
        ):
            centers[k] = rows[i].clone()
    torch.testing.assert_close(cluster(rows, 6, seed), torch.stack(centers), rtol=1e-4, atol=1e-5)
    assert cluster(rows[:6], 6, seed).shape == (6, 3)
    with pytest.raises(ConfigError, match="6 patches cannot give 7") as caught:
        cluster(rows[:6], 7, seed)
    assert caught.value.fix == "head.patch_out_dim=2 or less"


def test_patches_are_those_of_a_tenth_of_the_images_that_can_be_read(small, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8)).save(
            tmp_path / f"{i:02d}.png"
        )
    chosen = np.random.default_rng(7).permutation(40)[:4]
    (tmp_path / f"{chosen[1]:02d}.png").write_bytes(b"no image")
    source = scan(str(tmp_path))
    got = sample_patches(source, (16, 24), 8, 7, statistics=((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    want = []
    for i in (chosen[0], chosen[2], chosen[3]):
        view = evaluation_view(decode(source.path(int(i))), 24, (16, 24))
        view = (view / 255 - (0.1, 0.2, 0.3)) / (0.5, 0.6, 0.7)
        for row in range(2):
            for column in range(3):
                patch = view[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                want.append(patch.transpose(2, 0, 1).reshape(-1))
    torch.testing.assert_close(got, torch.from_numpy(np.array(want)).float())
    monkeypatch.setattr(tokenizers, "MOST_ROWS", 7)
    torch.testing.assert_close(sample_patches(source, (16, 24), 8, 7).shape, got[:7].shape)


def test_clusters_are_made_once_by_the_main_process_and_kept(small, tmp_path, monkeypatch):
    config = with_tokenizer(
        apply(small, ["method.patch_target=clusters", "head.patch_out_dim=8", "train.seed=4"])
    )
    source = scan(small.data.path)
    made = build_tokenizer(config, source, tmp_path, Processes())
    rows = sample_patches(source, (32, 32), 8, 4, statistics=config.model.statistics)
    assert torch.equal(made.centers, cluster(rows, 8, 4)) and (made.patch, made.size) == (8, 8)
    monkeypatch.setattr(tokenizers, "cluster", None)  # not again
    again = build_tokenizer(config, source, tmp_path, Processes(1, 2))
    assert torch.equal(again.centers, made.centers)
    color = build_tokenizer(
        apply(config, ["method.patch_target=color"]), source, tmp_path, Processes()
    )
    assert (color.patch, color.size) == (8, 512) and torch.allclose(
        color.mean, torch.tensor(config.model.mean)
    )
    assert build_tokenizer(small, source, tmp_path, Processes()) is None
    assert with_tokenizer(small) is small and tokenizer_size(small) == small.head.patch_out_dim


@pytest.mark.parametrize("kind", ["color", "clusters"])
def test_a_run_on_fixed_classes_learns_them_and_resumes(small, tmp_path, kind):
    settings = [
        f"method.patch_target={kind}",
        *("method.visible_weight=0", "method.patch_residual=false"),
        "method.cls_weight=0",
        "mask.ratio=0.4:0.1",
        "train.length=30 steps",
        "optim.lr=0.05",
        "head.patch_out_dim=8",
        "checkpoint.every=15 steps",
    ]
    config = with_tokenizer(apply(small, settings))
    assert not config.head.shared and config.head.patch_out_dim == (512 if kind == "color" else 8)
    train(replace(config, train=replace(config.train, max_steps=15)), tmp_path / "run", quiet=True)
    first = load_file(tmp_path / "run" / "tokenizer.safetensors") if kind == "clusters" else {}
    train(config, tmp_path / "run", quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    last = "checkpoints/step_00000030/model.safetensors"
    a, b = load_file(tmp_path / "run" / last), load_file(tmp_path / "whole" / last)
    assert all(torch.equal(a[name], b[name]) for name in a)
    if first:
        assert torch.equal(
            first["centers"], load_file(tmp_path / "whole" / "tokenizer.safetensors")["centers"]
        )
    losses = [row["patch_loss"] for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_frozen_run_gives_the_distribution_of_its_teacher(small, tmp_path):
    train(small, tmp_path / "source", quiet=True)
    settings = [
        *("method.patch_target=frozen", f"method.tokenizer={tmp_path / 'source'}"),
        *("method.visible_weight=0", "method.patch_residual=false"),
    ]
    config = with_tokenizer(apply(small, settings))
    tokenizer = build_tokenizer(config, scan(small.data.path), tmp_path, Processes())
    model = StudentTeacher(small)
    load_checkpoint(
        tmp_path / "source" / "checkpoints" / "step_00000020",
        model,
        build_optimizer(model.student, small.optim),
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
        with_tokenizer(
            apply(
                small, ["method.patch_target=frozen", f"method.tokenizer={tmp_path / 'bare.pth'}"]
            )
        )
