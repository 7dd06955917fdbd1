"""The fast forward passes against the plain ones that send every token through every layer."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ibot.config.resolve import check
from ibot.config.schema import (
    AugmentConfig,
    Config,
    HeadConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from ibot.data.masks import masks_from_map
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.method.center import sinkhorn_probs, update_centers
from ibot.method.fused import PLAIN
from ibot.method.losses import cls_loss, patch_loss, teacher_probs
from ibot.method.model import StudentTeacher, _with_more_rows, flat_token_rows
from ibot.method.step import training_step
from ibot.models.contract import Views
from ibot.models.layers import DropPath
from ibot.types import Batch, Masks, StepValues

VALUES = StepValues(
    lr=1e-3,
    weight_decay=0.04,
    momentum=0.9,
    teacher_temp=0.05,
    patch_temp=0.06,
    freeze_last_layer=False,
)


def updating(model: StudentTeacher, config) -> Update:
    optimizer = build_optimizer(model.student, config.optim)
    return Update(model=model, student=model.student, optimizer=optimizer, config=config)


def settings(**kwargs) -> Config:
    model = ModelConfig(
        **{
            "width": 24,
            "depth": 3,
            "heads": 3,
            "patch": 8,
            "drop_path": 0.0,
            **kwargs.get("model", {}),
        }
    )
    head = HeadConfig(
        **{
            "out_dim": 20,
            "patch_out_dim": 20,
            "hidden_dim": 16,
            "bottleneck_dim": 8,
            **kwargs.get("head", {}),
        }
    )
    return Config(
        augment=AugmentConfig(
            num_local=kwargs.get("local", 2), global_size=(32, 24), local_size=(16, 16)
        ),
        model=model,
        head=head,
        train=TrainConfig(batch=4),
        optim=OptimConfig(clip=0.0),
    )


def random_batch(config: Config, seed: int, num_images: int = 4) -> Batch:
    g = torch.Generator().manual_seed(seed)
    augment = config.augment
    global_views = torch.randn(
        2, num_images, 3, *augment.global_size, generator=g, dtype=torch.float64
    )
    local_views = torch.randn(
        augment.num_local, num_images, 3, *augment.local_size, generator=g, dtype=torch.float64
    )
    maps = torch.rand(2, num_images, 12, generator=g) < 0.3
    maps[0, 1] = False
    masks = masks_from_map(maps, dtype=torch.float64)
    return Batch(
        global_views, local_views if augment.num_local else None, masks, np.arange(num_images)
    )


def plain_loss(model: StudentTeacher, batch: Batch, temp: float, patch_temp: float):
    """All computed for every token, then multiplied by the mask, as the paper's algorithm reads."""

    def all_logits(network, images, mask):
        out = network.backbone(images, mask)
        tokens = torch.cat([out.cls[:, None], out.patches], 1)
        z = network.head.project(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        z_patches = z[:, 1:]
        if network.head.patch_mlp is not None:
            layers = torch.nn.Sequential(
                *network.head.mlp[: network.head.common], *network.head.patch_mlp
            )
            z_patches = torch.nn.functional.normalize(layers(tokens[:, 1:]), dim=-1)
        cls, patch = network.head.logits(z[:, 0], z_patches.flatten(0, 1))
        return cls, patch.unflatten(0, (len(images), -1))

    images, maps = batch.global_views.flatten(0, 1), batch.masks.map.flatten(0, 1)
    with torch.no_grad():
        teacher_cls, teacher_patch = all_logits(model.teacher, images, None)
    student_cls, student_patch = all_logits(model.student, images, maps)
    if batch.local_views is not None:
        student_cls = torch.cat(
            [student_cls, all_logits(model.student, batch.local_views.flatten(0, 1), None)[0]]
        )
    num_images = batch.global_views.shape[1]
    target = teacher_probs(teacher_cls, model.cls_center.value, temp).unflatten(0, (2, num_images))
    patch_target = teacher_probs(teacher_patch, model.patch_center.value, patch_temp)
    loss = cls_loss(student_cls.unflatten(0, (-1, num_images)), target, 0.1)
    weight = (1 / maps.sum(1, keepdim=True).clamp(min=1).double()).expand_as(maps)[maps]
    loss = loss + patch_loss(student_patch[maps], patch_target[maps], weight, len(maps), 0.1)
    return loss, teacher_cls.mean(0), teacher_patch.mean((0, 1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"local": 0},
        {
            "model": {
                "kind": "swin",
                "width": 12,
                "depths": (1, 2),
                "stage_heads": (1, 2),
                "window": 3,
                "patch": 4,
            }
        },
        {"head": {"shared": False, "shared_teacher": False, "patch_out_dim": 28}},
        {"head": {"shared": False, "shared_teacher": False, "shared_layers": 0}},
        {"head": {"shared": False, "shared_teacher": False, "shared_layers": 2, "norm": "ln"}},
        {"head": {"norm": "bn"}},
        {"head": {"norm": "ln"}},
        {"head": {"bottleneck_dim": 0}},
        {"head": {"bottleneck_dim": 0, "layers": 1, "shared": False, "shared_teacher": False}},
        {"model": {"mean_pooling": True}},
        {"model": {"layer_scale": 0.5, "registers": 3}},
    ],
    ids=lambda k: str(k),
)
@pytest.mark.parametrize(("seed", "few_sizes"), [(0, False), (1, True)])
def test_used_rows_alone_give_the_loss_and_gradients_of_all_tokens(
    kwargs, seed, few_sizes, monkeypatch
):
    monkeypatch.setattr("ibot.method.model._few_sizes", lambda device: few_sizes)
    config = settings(**kwargs)
    torch.manual_seed(seed)
    model = StudentTeacher(config).double()
    model.cls_center.value.normal_(std=0.1)
    model.patch_center.value.normal_(std=0.1)
    batch, plain = random_batch(config, seed), copy.deepcopy(model)
    want, cls_mean, patch_mean = plain_loss(plain, batch, VALUES.teacher_temp, VALUES.patch_temp)
    want.backward()
    update = updating(model, config)
    start = model.cls_center.value.clone(), model.patch_center.value.clone()
    got = update.step([batch], VALUES)
    assert got.loss.item() == pytest.approx(want.item(), rel=1e-12)
    for (name, p), q in zip(
        model.student.named_parameters(), plain.student.parameters(), strict=True
    ):
        if q.requires_grad:
            torch.testing.assert_close(
                p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
            )
    torch.testing.assert_close(model.cls_center.value, 0.9 * start[0] + 0.1 * cls_mean)
    torch.testing.assert_close(model.patch_center.value, 0.9 * start[1] + 0.1 * patch_mean)


def test_micro_batches_equal_the_large_batch():
    config = settings()
    torch.manual_seed(0)
    model = StudentTeacher(config).double()
    whole, parts = model, copy.deepcopy(model)
    batch = random_batch(config, 3)

    def part(rows):
        masks = masks_from_map(batch.masks.map[:, rows], dtype=torch.float64)
        return Batch(
            batch.global_views[:, rows], batch.local_views[:, rows], masks, batch.index[rows]
        )

    for network, batches in ((whole, [batch]), (parts, [part(slice(0, 2)), part(slice(2, 4))])):
        update = updating(network, config)
        for _ in range(3):
            out = update.step(batches, VALUES)
        assert out.loss.isfinite()
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_no_masked_patch_gives_the_mask_token_a_zero_gradient():
    config = settings()
    model = StudentTeacher(config).double()
    batch = random_batch(config, 0)
    masks = masks_from_map(torch.zeros_like(batch.masks.map), dtype=torch.float64)
    update = updating(model, config)
    out = update.step([Batch(batch.global_views, batch.local_views, masks, batch.index)], VALUES)
    assert out.metrics["patch_loss"].item() == 0.0
    assert model.student.backbone.masked_embed.grad.abs().max() == 0.0


def test_nothing_of_size_images_by_tokens_by_prototypes_is_built():
    config = settings(head={"out_dim": 4096, "patch_out_dim": 4096})
    model = StudentTeacher(config).double()
    batch = random_batch(config, 0)
    forbidden = 2 * 4 * 12 * 4096  # G * B * N * K
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == 4096:
                    largest = max(largest, tensor.numel())
            return out

    update = updating(model, config)
    with Watch():
        update.step([batch], VALUES)
    assert 0 < largest < forbidden


def test_the_teacher_starts_as_the_student_and_moves_by_the_momentum():
    config = settings()
    model = StudentTeacher(config)
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    assert set(student) - set(teacher) == {"backbone.masked_embed"}
    assert all(torch.equal(teacher[name], student[name]) for name in teacher)
    model.double()
    before = copy.deepcopy(model.teacher.state_dict())
    update = updating(model, config)
    update.step([random_batch(config, 0)], VALUES)
    after, student = model.teacher.state_dict(), model.student.state_dict()
    for name in after:
        torch.testing.assert_close(after[name], 0.9 * before[name] + 0.1 * student[name])


SWIN = {
    "kind": "swin",
    "width": 12,
    "depths": (1, 2),
    "stage_heads": (1, 2),
    "window": 3,
    "patch": 4,
}


@pytest.mark.parametrize(
    "kwargs", [{}, {"model": SWIN}, {"head": {"norm": "bn"}}], ids=["vit", "swin", "bn"]
)
def test_hidden_patches_of_local_views_count_like_those_of_global_ones(kwargs):
    config = settings(**kwargs)
    torch.manual_seed(0)
    model, batch = StudentTeacher(config).double(), random_batch(config, 0)
    model.patch_center.value.normal_(std=0.1)
    plain, g = copy.deepcopy(model), torch.Generator().manual_seed(5)
    hidden = torch.rand(2, 4, 4, generator=g) < 0.5
    hidden[0, 1] = False
    local = masks_from_map(hidden, dtype=torch.float64)
    batch = dataclasses.replace(batch, masks=dataclasses.replace(batch.masks, local=local))
    update = updating(model, config)
    metrics = update.step([batch], VALUES).metrics

    def logits(network, views, maps):
        out = network.backbone(views.flatten(0, 1), None if maps is None else maps.flatten(0, 1))
        z = network.head.project_both(out.cls, out.patches.flatten(0, 1))
        return network.head.logits(*z)

    cls, total = [], 0.0
    for views, maps in ((batch.global_views, batch.masks.map), (batch.local_views, hidden)):
        student_cls, student = logits(plain.student, views, maps)
        teacher_cls, teacher = logits(plain.teacher, views, None)
        cls.append((student_cls, teacher_cls))
        target = teacher_probs(teacher, plain.patch_center.value, VALUES.patch_temp).view(
            *maps.shape, -1
        )
        scores = (student / 0.1).log_softmax(-1).view(*maps.shape, -1)
        each = -(target * scores).sum(-1) * maps
        total += (each.sum(-1) / maps.sum(-1).clamp(min=1)).sum().item()
    assert metrics["patch_loss"].item() == pytest.approx(total / 16, rel=1e-10)
    student_cls = torch.cat([cls[0][0], cls[1][0]]).unflatten(0, (4, 4))
    want = cls_loss(
        student_cls, teacher_probs(cls[0][1].unflatten(0, (2, 4)), torch.zeros(20), 0.05), 0.1
    )
    assert metrics["cls_loss"].item() == pytest.approx(want.item(), rel=1e-10)


@pytest.mark.parametrize("targets", ["center", "sinkhorn"])
def test_hard_labels_put_all_of_a_target_on_its_largest_entry(targets):
    config = settings(local=0)
    method = dataclasses.replace(config.method, patch_labels="hard", targets=targets)
    config = dataclasses.replace(config, method=method)
    torch.manual_seed(0)
    model, batch = StudentTeacher(config).double(), random_batch(config, 0)
    model.patch_center.value.normal_(std=0.3)
    with torch.no_grad():
        teacher = model.teacher(batch.global_views, batch.masks).patch
        student = model.student(batch.global_views, batch.masks, None).patch
    probs = (teacher - model.patch_center.value) / VALUES.patch_temp
    if targets == "sinkhorn":
        probs = sinkhorn_probs(teacher, VALUES.patch_temp)
    each = torch.nn.functional.cross_entropy(student / 0.1, probs.argmax(-1), reduction="none")
    update = updating(model, config)
    metrics = update.step([batch], VALUES).metrics
    assert metrics["patch_loss"].item() == pytest.approx(
        (each * batch.masks.weight).sum().item() / 8, rel=1e-10
    )
    assert metrics["patch_entropy"].item() == 0
    assert metrics["teacher_entropy"].item() > 0, "class targets stay soft"


def test_a_center_momentum_of_one_is_no_centering():
    config = settings(local=0)
    config = dataclasses.replace(
        config, method=dataclasses.replace(config.method, center_momentum_patch=1.0)
    )
    check(config)
    torch.manual_seed(0)
    model = StudentTeacher(config).double()
    update = updating(model, config)
    update.step([random_batch(config, 0)], VALUES)
    assert not model.patch_center.value.any() and model.cls_center.value.any()


@pytest.mark.parametrize("match", ["position", "feature"])
@pytest.mark.parametrize("seed", [0, 1])
def test_patches_across_views_are_paired_as_by_loops(match, seed):
    config = settings(local=0)
    config = dataclasses.replace(
        config, method=dataclasses.replace(config.method, patch_match=match)
    )
    torch.manual_seed(seed)
    model, batch, g = (
        StudentTeacher(config).double(),
        random_batch(config, seed),
        torch.Generator().manual_seed(seed),
    )
    used = torch.rand(2, 4, 12, generator=g) < 0.6
    partner = torch.randint(12, (2, 4, 12), generator=g)
    masks = masks_from_map(used, dtype=torch.float64)
    flat = partner + 12 * (
        torch.arange(4)[:, None] + 4 * torch.tensor([1, 0])[:, None, None]
    )  # of the other view
    masks = Masks(
        torch.zeros_like(used),
        masks.index,
        masks.weight,
        flat[used] if match == "position" else None,
    )
    update = updating(model, config)
    plain = copy.deepcopy(model)
    got = (
        update.step([dataclasses.replace(batch, masks=masks)], VALUES).metrics["patch_loss"].item()
    )
    want = 0.0
    with torch.no_grad():
        student = [plain.student.backbone(view).patches for view in batch.global_views]
        teacher = [plain.teacher.backbone(view).patches for view in batch.global_views]

        def logits(network, token):
            z = network.head.project(token[None])
            return network.head.logits(z[:0], z)[1][0]

        for view, image, place in used.nonzero().tolist():
            other = teacher[1 - view][image]
            if match == "feature":
                cosine = torch.nn.functional.cosine_similarity(
                    teacher[view][image, place][None], other
                )
                chosen = int(cosine.argmax())
            else:
                chosen = int(partner[view, image, place])
            target = (
                (logits(plain.teacher, other[chosen]) - plain.patch_center.value)
                / VALUES.patch_temp
            ).softmax(0)
            scores = (logits(plain.student, student[view][image, place]) / 0.1).log_softmax(0)
            want -= (target * scores).sum().item() / int(used[view, image].sum()) / 8
    assert got == pytest.approx(want, rel=1e-10)


def test_rows_of_masked_patches_skip_the_class_tokens():
    maps = torch.tensor([[[True, False, True], [False, True, False]]])
    assert flat_token_rows(masks_from_map(maps)).tolist() == [1, 3, 6]


def test_steps_have_few_numbers_of_rows_and_none_of_the_more_comes_twice():
    generator, sizes = torch.Generator().manual_seed(0), set()
    for share in torch.linspace(0.05, 0.3, 40):
        maps = torch.rand(32, 16, generator=generator) < share
        rows = torch.cat([torch.arange(32) * 17, flat_token_rows(masks_from_map(maps[None]))])
        views, more = _with_more_rows(Views(torch.zeros(32, 3, 8, 8), maps, rows))
        assert views.rows[: len(rows)].equal(rows) and len(views.rows) == len(rows) + more
        assert views.rows.unique().shape == views.rows.shape and int(views.rows.max()) < 32 * 17
        sizes.add(len(views.rows))
    assert len(sizes) <= 9
    hidden = torch.ones(2, 3, dtype=torch.bool)
    all_rows = Views(torch.zeros(2, 3, 8, 8), hidden, torch.arange(8))
    assert _with_more_rows(all_rows) == (all_rows, 0)


def test_entropies_of_a_fresh_teacher_lie_below_ln_k():
    config = settings()
    model = StudentTeacher(config).double()
    update = updating(model, config)
    metrics = update.step([random_batch(config, 0)], VALUES).metrics
    assert 0 < metrics["teacher_entropy"] <= math.log(20)
    assert metrics["teacher_entropy"] <= metrics["marginal_entropy"] + 1e-9
    assert (
        metrics["cls_prototypes"].sum() == 8
        and metrics["patch_prototypes"].sum() == random_batch(config, 0).masks.map.sum()
    )


def test_the_student_drops_paths_at_the_rate_of_the_settings_and_the_teacher_none():
    config = settings(model={"drop_path": 0.4, "depth": 3})
    model = StudentTeacher(config)

    def rates(network):
        return {module.rate for module in network.modules() if isinstance(module, DropPath)}

    assert rates(model.teacher) <= {0.0}
    assert (
        max(rates(model.student)) == pytest.approx(0.4) and len(rates(model.student) - {0.0}) == 2
    )


def test_in_training_the_student_is_random_and_the_teacher_is_not():
    config = settings(model={"drop_path": 0.5})
    model, batch = StudentTeacher(config).double().train(), random_batch(config, 0)
    seen = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        seen.append(
            (
                model.student(batch.global_views, batch.masks, batch.local_views),
                model.teacher(batch.global_views, batch.masks),
            )
        )
    (student, teacher), (other, same) = seen
    assert torch.equal(teacher.cls, same.cls) and torch.equal(teacher.patch, same.patch)
    assert not torch.equal(student.cls, other.cls) and not torch.equal(student.patch, other.patch)
    assert not teacher.cls.requires_grad and student.cls.requires_grad


def test_features_are_the_class_tokens_of_the_global_views():
    config = settings()
    model, batch = StudentTeacher(config).double(), random_batch(config, 0)
    student = model.student(batch.global_views, batch.masks, batch.local_views).features
    teacher = model.teacher(batch.global_views, batch.masks).features
    for view in range(2):
        hidden = batch.masks.map[view]
        torch.testing.assert_close(
            student[view], model.student.backbone(batch.global_views[view], hidden).cls
        )
        torch.testing.assert_close(
            teacher[view], model.teacher.backbone(batch.global_views[view]).cls
        )


def test_each_center_has_the_size_and_momentum_of_its_own_settings():
    apart = {"shared": False, "shared_teacher": False, "patch_out_dim": 28}
    config = dataclasses.replace(
        settings(head=apart), method=MethodConfig(center_momentum=0.7, center_momentum_patch=0.8)
    )
    model = StudentTeacher(config)
    assert (len(model.cls_center.value), model.cls_center.momentum) == (20, 0.7)
    assert (len(model.patch_center.value), model.patch_center.momentum) == (28, 0.8)
    shared = StudentTeacher(dataclasses.replace(config, head=settings().head))
    assert len(shared.patch_center.value) == 20
    assert model.tokenizer is None and not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize(
    ("student", "teacher"), [(True, True), (False, False), (True, False), (False, True)]
)
def test_the_teacher_starts_with_the_student_s_layers_however_they_are_shared(student, teacher):
    model = StudentTeacher(settings(head={"shared": student, "shared_teacher": teacher}))
    heads = model.student.head, model.teacher.head
    for name, value in heads[1].mlp.state_dict().items():
        assert torch.equal(value, heads[0].mlp.state_dict()[name])
    for key, value in heads[1].patch_layer.state_dict().items():
        assert torch.equal(value, heads[0].patch_layer.state_dict()[key])
    if not teacher:  # else it is the patch layer
        for key, value in heads[1].cls_layer.state_dict().items():
            assert torch.equal(value, heads[0].cls_layer.state_dict()[key])
    names = [name for name, _ in model.teacher.named_parameters()]
    pairs = model.averaged()
    student_of = {id(p): name for name, p in model.student.named_parameters()}
    teacher_of = {id(p): name for name, p in model.teacher.named_parameters()}
    assert all(teacher_of[id(t)] == student_of[id(s)] for t, s in pairs)
    assert {teacher_of[id(t)] for t, _ in pairs} == set(names) & set(student_of.values())


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {
            "model": {
                "kind": "swin",
                "width": 12,
                "depths": (1, 2),
                "stage_heads": (1, 2),
                "window": 3,
                "patch": 4,
            }
        },
    ],
    ids=["vit", "swin"],
)
@pytest.mark.parametrize(
    "method", [{}, {"targets": "sinkhorn", "koleo_weight": 0.1}, {"patch_match": "feature"}]
)
def test_a_step_on_a_gpu_makes_nothing_on_the_cpu(kwargs, method, monkeypatch):
    """On tensors without values, whose device is checked in every operation."""
    monkeypatch.setattr("ibot.method.fused.triton_rows", lambda: PLAIN)  # a kernel needs values
    config = dataclasses.replace(settings(**kwargs), method=MethodConfig(**method))
    given = random_batch(config, 0)
    model = StudentTeacher(config)
    with FakeTensorMode():

        def on_gpu(tensor):
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            return torch.empty(tensor.shape, dtype=dtype, device="cuda")

        for network in model.modules():
            for name, p in network._parameters.items():
                network._parameters[name] = (
                    p if p is None else torch.nn.Parameter(on_gpu(p), p.requires_grad)
                )
            for name, buffer in network._buffers.items():
                network._buffers[name] = buffer if buffer is None else on_gpu(buffer)
        batch = Batch(
            on_gpu(given.global_views),
            on_gpu(given.local_views),
            given.masks.each(on_gpu),
            given.index,
        )
        out = training_step(model, model.student, batch, VALUES, config.method, observe=False)
        update_centers([model.cls_center, model.patch_center])
    made = (out.loss, model.cls_center.value, model.patch_center.value, *out.metrics.values())
    assert {tensor.device.type for tensor in made} == {"cuda"}
