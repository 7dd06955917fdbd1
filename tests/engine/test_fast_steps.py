"""Steps with every fast path against steps of the plain forms alone."""

import os
from functools import partial

import numpy as np
import pytest
import torch

from ibot.config.override import apply
from ibot.data.depth import branch_factors
from ibot.data.masks import masks_from_map
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.kernels import blocks
from ibot.kernels.choice import using
from ibot.method.fused import triton_rows
from ibot.method.model import StudentTeacher
from ibot.system.device import autocast
from ibot.types import Batch, StepValues

STEPS = 20
VALUES = StepValues(
    lr=5e-4,
    weight_decay=0.04,
    momentum=0.99,
    teacher_temp=0.04,
    patch_temp=0.05,
    freeze_last_layer=False,
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
PRECISIONS = pytest.mark.parametrize("precision", TOLERANCE, ids=lambda dtype: str(dtype)[6:])

interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run on the GPU that is there"
)


def losses(config, mode: str, precision: torch.dtype, num_images: int = 4) -> torch.Tensor:
    """Class and patch losses [STEPS, 2]; the masks of one step are empty."""
    torch.manual_seed(0)
    model = StudentTeacher(config)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        autocast=partial(autocast, torch.device("cpu"), precision),
    )
    g = torch.Generator().manual_seed(1)
    rows, rates, images = [], model.student.backbone.drop_rates, np.arange(num_images)
    with using(mode) as choices:
        for step in range(STEPS):
            masks = masks_from_map(torch.rand(2, num_images, 16, generator=g) < 0.3 * (step != 7))
            views = [
                torch.randn(n, num_images, 3, size, size, generator=g)
                for n, size in ((2, 32), (4, 16))
            ]
            drop = branch_factors(rates, 6, 0, step, images)
            batch = Batch(*views, masks, images, drop=drop)
            metrics = update.step([batch], VALUES, observe=step % 5 == 0).metrics
            rows.append(torch.stack([metrics["cls_loss"], metrics["patch_loss"]]))
    taken = {"losses", "patch embedding"} | ({"blocks"} if blocks.is_built() else set())
    if precision is torch.bfloat16:
        taken.add("rows of few sizes")
    assert taken <= choices.taken.keys() if mode == "auto" else not choices.taken
    return torch.stack(rows)


@pytest.fixture
def config(small):
    network = ["model.width=32", "model.depth=3", "model.drop_path=0.4"]
    return apply(small, [*network, "method.koleo_weight=0.1", "augment.num_local=4"])


@PRECISIONS
def test_twenty_steps_with_the_fast_paths_are_those_of_the_plain_forms(config, precision):
    fast, plain = (losses(config, mode, precision) for mode in ("auto", "reference"))
    assert not torch.equal(fast, plain), "they round otherwise"
    torch.testing.assert_close(fast, plain, rtol=TOLERANCE[precision], atol=0)


@interpreted
@pytest.mark.slow  # each row of a loss is a program of the interpreter
@PRECISIONS
def test_twenty_steps_with_the_kernels_of_a_gpu_are_those_of_the_plain_forms(
    config, precision, monkeypatch
):
    plain = losses(config, "reference", precision, 2)
    monkeypatch.setattr("ibot.method.fused.PLAIN", triton_rows())
    torch.testing.assert_close(
        losses(config, "auto", precision, 2), plain, rtol=TOLERANCE[precision], atol=0
    )
