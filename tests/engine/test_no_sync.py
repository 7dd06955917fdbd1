"""A step never waits for the device: nothing is read back, and no shape follows from values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.data.loader import Loader
from ibot.data.sets.scan import scan
from ibot.engine.health import HealthMonitor
from ibot.engine.loop import mask_grid
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES
from ibot.engine.schedule import Schedules
from ibot.engine.transfer import ahead
from ibot.engine.update import Update
from ibot.kernels.choice import using
from ibot.method.model import StudentTeacher
from ibot.models import layers, swin

WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose"),  # read back
    *("nonzero", "nonzero_numpy", "masked_select", "bincount", "histc"),  # as large as values say
    *("unique_consecutive", "unique_dim", "_unique", "_unique2"),
    *("lift_fresh", "lift_fresh_copy"),  # torch.tensor(list): a GPU takes it from pageable memory
}
"""ATen operators for which a GPU is waited for."""


class Waiting(AssertionError):
    """A step did what waits for a GPU."""


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait, on whatever device it runs."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_values = name in ("index", "index_put", "index_put_") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype is torch.bool
            for leaf in tree_leaves(args[1])
        )
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITS or by_values or (counted and isinstance(args[-1], torch.Tensor)):
            raise Waiting(f"{func} waits for a GPU")
        return func(*args, **(kwargs or {}))


VARIED = {
    "tiny32": [],
    "the paper's": ["method.targets=center", "method.koleo_weight=0", "optim.clip=3"],
    "swin": [
        *("model.kind=swin", "model.patch=4", "model.depths=(1,2)", "model.stage_heads=(2,2)"),
        *("model.width=16", "model.window=2", "method.targets=center"),
    ],
    "frozen prototypes, two micro-batches, two heads": [
        *("train.accumulate=2", "head.shared=false", "head.shared_teacher=false"),
        "train.batch=4",
    ],
    "options of patches": [
        *("mask.shape=attention", "method.visible_weight=0.3", "method.patch_balance=all"),
        "method.patch_target_norm=false",
    ],
    "sgd": ["optim.name=sgd"],
    "lars": ["optim.name=lars"],
}


CPU_ALONE = ("blocks", "patch embedding", "rows of few sizes")
"""Fast paths that a GPU does not take."""


@pytest.mark.parametrize("name", VARIED)
def test_a_step_and_what_health_notes_of_it_read_nothing_back(small, name, monkeypatch):
    for module in (layers, swin):  # nor are factors read that lie on a GPU
        monkeypatch.setattr(module, "skips", lambda *_: False)
    config = apply(small, VARIED[name])
    model = StudentTeacher(config)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
    )
    health = HealthMonitor.of(config, Schedules.of(config, derive(config, 48)), num_images=48)
    source, rates = scan(config.data.path), model.student.backbone.drop_rates
    loader = Loader(config, source, grid=mask_grid(config), end_step=2, drop_rates=rates)
    for i, step in enumerate(ahead(loader, config, torch.device("cpu"))):
        on_device = step.on_device()
        with NoWaiting(), using("auto", CPU_ALONE):
            out = update.step(on_device, VALUES, observe=True)
            health.observe(i, out, step.read, 0.1, 0.0)
    assert health.report().values["cls_loss"] > 0


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool(x[0] > 0),
        lambda x: x.long().bincount(),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x.repeat_interleave(torch.arange(2)),
        lambda x: x.masked_fill_(x > 0, 0.0).nonzero(),
    ],
)
def test_what_waits_is_found(reads):
    with pytest.raises(Waiting), NoWaiting():
        reads(torch.arange(2.0) + 1)
