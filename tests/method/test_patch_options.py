"""Patch losses beyond the paper against loops over views and patches, in both forms of the step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.config.schema import (
    AugmentConfig,
    Config,
    HeadConfig,
    MaskConfig,
    MethodConfig,
    ModelConfig,
    TrainConfig,
)
from ibot.data.masks import masks_from_map, with_visible
from ibot.kernels.choice import using
from ibot.method.attended import most_attended
from ibot.method.center import sinkhorn_probs
from ibot.method.losses import teacher_probs
from ibot.method.model import StudentTeacher, most_similar
from ibot.method.step import training_step
from ibot.types import Batch, StepValues

G, B, N = 2, 4, 12
VALUES = StepValues(
    lr=1e-3,
    weight_decay=0.04,
    momentum=0.9,
    teacher_temp=0.05,
    patch_temp=0.06,
    freeze_last_layer=False,
)
VIT = ModelConfig(width=32, depth=2, heads=2, patch=8, drop_path=0.0)
SWIN = ModelConfig(
    kind="swin", width=12, depths=(1, 2), stage_heads=(1, 2), window=3, patch=4, drop_path=0.0
)
FORMS = pytest.mark.parametrize("form", ["reference", "auto"])
TARGETS = pytest.mark.parametrize("targets", ["center", "sinkhorn"])


def settings(model=VIT, norm="none", **method) -> Config:
    return Config(
        augment=AugmentConfig(num_local=1, global_size=(32, 24), local_size=(16, 16)),
        model=model,
        head=HeadConfig(out_dim=20, patch_out_dim=20, hidden_dim=16, bottleneck_dim=8, norm=norm),
        method=MethodConfig(**method),
        train=TrainConfig(batch=B),
    )


class Case:
    """Random views; one of them without a hidden patch, one with nothing else."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.model = StudentTeacher(config).double()
        self.model.patch_center.value.normal_(std=0.3)
        hidden = torch.rand(G, B, N) < 0.4
        hidden[0, 1], hidden[1, 2] = False, True
        masks = masks_from_map(hidden, torch.float64)
        if config.method.visible_weight:
            masks = with_visible(masks)
        views, local = torch.randn(G, B, 3, 32, 24), torch.randn(1, B, 3, 16, 16)
        self.batch = Batch(views.double(), local.double(), masks, np.arange(B))

    def step(self, form: str = "reference", **values):
        with using(form):
            return training_step(
                self.model,
                self.model.student,
                self.batch,
                replace(VALUES, **values),
                self.config.method,
            )

    def logits(self, network, hidden):
        """Patch logits [G * B * N, K] of every patch of the global views."""
        maps = None if hidden is None else hidden.flatten(0, 1)
        output = network.backbone(self.batch.global_views.flatten(0, 1), maps)
        z = network.head.project_both(output.cls, output.patches.flatten(0, 1))
        return network.head.logits(*z)[1]

    def losses(self, probs, maps, hidden) -> torch.Tensor:
        """Mean over views of the mean over the patches of each that are in `maps`; none is zero."""
        student = (self.logits(self.model.student, hidden) / 0.1).log_softmax(-1)
        each = -(probs * student).sum(-1).view(G, B, N)
        total = torch.zeros((), dtype=torch.float64)
        for view in range(G):
            for image in range(B):
                if maps[view, image].any():
                    total = total + each[view, image][maps[view, image]].mean()
        return total / (G * B)


@FORMS
@TARGETS
@pytest.mark.parametrize(
    "config",
    [settings(), settings(SWIN), settings(norm="bn")],
    ids=["vit", "swin", "batch norm"],
)
def test_visible_patches_have_a_loss_of_their_own_in_every_global_view(config, targets, form):
    method = replace(config.method, targets=targets, patch_weight=0.7, visible_weight=0.3)
    case = Case(replace(config, method=method))
    hidden = case.batch.masks.map
    with torch.no_grad():
        teacher = case.logits(case.model.teacher, None)
        probs = teacher_probs(teacher, case.model.patch_center.value, VALUES.patch_temp)
        if targets == "sinkhorn":  # hidden and visible ones together are all there are
            probs = sinkhorn_probs(teacher, VALUES.patch_temp)
    out = case.step(form)
    of_hidden, of_visible = (case.losses(probs, maps, hidden) for maps in (hidden, ~hidden))
    assert out.metrics["patch_loss"].item() == pytest.approx(of_hidden.item(), rel=1e-9)
    assert out.metrics["visible_loss"].item() == pytest.approx(of_visible.item(), rel=1e-9)
    want = out.metrics["cls_loss"] + 0.7 * of_hidden + 0.3 * of_visible
    assert out.loss.item() == pytest.approx(want.item(), rel=1e-9)
    case.model.cls_center.pending.zero_()
    only = replace(case.config.method, cls_weight=0.0)
    case.config = replace(case.config, method=only)
    trained = [p for p in case.model.student.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(0.7 * of_hidden + 0.3 * of_visible, trained, allow_unused=True)
    got = torch.autograd.grad(case.step(form).loss, trained, allow_unused=True)
    for p, a, b in zip(trained, got, wanted, strict=True):
        a, b = (torch.zeros_like(p) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-11)


@FORMS
@pytest.mark.parametrize("match", ["hidden", "feature"])
def test_all_patches_are_balanced_together_of_which_the_predicted_ones_are_taken(match, form):
    asked = dict(targets="sinkhorn", patch_balance="all", patch_match=match)
    case = Case(settings(**asked))
    hidden = case.batch.masks.map
    if match == "feature":
        hidden = torch.zeros_like(hidden)
        masks = replace(masks_from_map(~hidden, torch.float64), map=hidden)
        case.batch = replace(case.batch, masks=masks)
    with torch.no_grad():
        teacher = case.logits(case.model.teacher, None)
        probs = sinkhorn_probs(teacher, VALUES.patch_temp)
        if match == "feature":
            patches = case.model.teacher.backbone(case.batch.global_views.flatten(0, 1)).patches
            probs = probs[most_similar(patches.unflatten(0, (G, B)))]
    wanted = case.losses(probs, hidden if match == "hidden" else ~hidden, hidden)
    assert case.step(form).metrics["patch_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)
    few = Case(settings(**{**asked, "patch_balance": "masked"})).step(form)
    assert match == "feature" or few.metrics["patch_loss"] != case.step(form).metrics["patch_loss"]


@FORMS
@pytest.mark.parametrize("visible", [0.0, 0.3])
def test_masks_on_attention_hide_as_many_patches_where_the_teacher_attends_most(visible, form):
    config = settings(replace(VIT, registers=2), visible_weight=visible)
    case = Case(replace(config, mask=MaskConfig(shape="attention")))
    given, teacher = case.batch.masks, case.model.teacher
    with torch.no_grad():
        maps = teacher.backbone.attention_maps(case.batch.global_views.flatten(0, 1))
        attention = maps.mean(1)[:, 0, 1 : 1 + N].view(G, B, N)
        probs = teacher_probs(
            case.logits(teacher, None), case.model.patch_center.value, VALUES.patch_temp
        )
    hidden = torch.zeros_like(given.map)
    for view in range(G):
        for image in range(B):
            count = int(given.map[view, image].sum())
            hidden[view, image, attention[view, image].topk(count).indices] = True
    out = case.step(form)
    masks = out.teacher.masks
    assert torch.equal(masks.map, hidden) and not torch.equal(hidden, given.map)
    assert torch.equal(masks.index, hidden.flatten().nonzero()[:, 0])
    wanted = case.losses(probs, hidden, hidden)
    assert out.metrics["patch_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)
    if visible:
        wanted = case.losses(probs, ~hidden, hidden)
        assert out.metrics["visible_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)


def test_masks_on_attention_are_those_of_each_image_alone():
    case = Case(replace(settings(), mask=MaskConfig(shape="attention")))
    whole = case.step().teacher.masks.map
    batch = case.batch
    for part in (slice(0, 1), slice(1, 4)):
        case.batch = replace(
            batch,
            global_views=batch.global_views[:, part],
            local_views=batch.local_views[:, part],
            masks=masks_from_map(batch.masks.map[:, part], torch.float64),
        )
        assert torch.equal(case.step().teacher.masks.map, whole[:, part])


def test_of_equal_attention_the_first_patches_are_hidden():
    masks = with_visible(masks_from_map(torch.tensor([[[False, True, False, True]]])))
    chosen = most_attended(masks, torch.ones(1, 1, 4))
    assert chosen.index.tolist() == [0, 1] and chosen.visible.index.tolist() == [2, 3]
    early = most_attended(masks.emptied(), torch.ones(1, 1, 4))
    assert not len(early.index) and not len(early.visible.index) and not early.map.any()


@FORMS
@pytest.mark.parametrize("shape", ["block", "attention"])
def test_targets_of_patches_can_come_from_before_the_final_norm(shape, form):
    config = settings(patch_target_norm=False)
    case = Case(replace(config, mask=MaskConfig(shape=shape)))
    model = case.model
    model.teacher.backbone.norm.weight.data.uniform_(0.5, 2.0)
    out = case.step(form)
    with torch.no_grad():
        images = case.batch.global_views.flatten(0, 1)
        normed = model.teacher.backbone(images)
        (raw,) = model.teacher.backbone.last_layers(images, 1, norm=False)
        z = model.teacher.head.project_both(normed.cls, raw.patches.flatten(0, 1))
        cls, patches = model.teacher.head.logits(*z)
    torch.testing.assert_close(out.teacher.features.flatten(0, 1), normed.cls)
    torch.testing.assert_close(out.teacher.cls_mean, cls.mean(0))
    torch.testing.assert_close(out.teacher.patch_mean, patches.mean(0))
    hidden = (out.teacher.masks or case.batch.masks).map
    probs = teacher_probs(patches, model.patch_center.value, VALUES.patch_temp)
    wanted = case.losses(probs, hidden, hidden)
    assert out.metrics["patch_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)


@FORMS
@TARGETS
def test_visible_patches_can_predict_what_the_other_view_shows_of_the_same_place(targets, form):
    case = Case(settings(targets=targets, visible_weight=0.6, visible_target="other"))
    hidden, own = case.batch.masks.map, case.batch.masks
    shown = (torch.rand(G, B, N) < 0.5).flatten().nonzero()[:, 0]
    partner = (shown + B * N) % (G * B * N)  # at the same place of the other view
    pairs = replace(own, index=shown, target=partner, visible=None)
    masks = with_visible(replace(own, visible=None), pairs)
    case.batch = replace(case.batch, masks=masks)
    with torch.no_grad():
        teacher = case.logits(case.model.teacher, None)
        paired = torch.zeros(G * B * N, dtype=torch.bool)
        paired[shown] = True
        asked = {place: (place + B * N) % (G * B * N) for place in range(G * B * N)}
        in_loss = [p for p in range(G * B * N) if hidden.flatten()[p]]
        seen = [p for p in range(G * B * N) if paired[p] and not hidden.flatten()[p]]
        rows = teacher[[*in_loss, *(asked[p] for p in seen)]]
        probs = teacher_probs(rows, case.model.patch_center.value, VALUES.patch_temp)
        if targets == "sinkhorn":
            probs = sinkhorn_probs(rows, VALUES.patch_temp)
        whole = torch.zeros_like(teacher)
        whole[[*in_loss, *seen]] = probs
    out = case.step(form)
    visible = paired.view(G, B, N) & ~hidden
    of_hidden, of_visible = (case.losses(whole, maps, hidden) for maps in (hidden, visible))
    assert out.metrics["patch_loss"].item() == pytest.approx(of_hidden.item(), rel=1e-9)
    assert out.metrics["visible_loss"].item() == pytest.approx(of_visible.item(), rel=1e-9)


@FORMS
def test_targets_of_patches_can_be_what_they_add_to_the_mean_of_their_view(form):
    case = Case(settings(patch_residual=True))
    model = case.model
    out = case.step(form)
    rows = []
    with torch.no_grad():
        output = model.teacher.backbone(case.batch.global_views.flatten(0, 1))
        for cls, patches in zip(output.cls, output.patches, strict=True):
            z = model.teacher.head.project_both(cls[None], patches)[1]
            for row in z:
                more = row - sum(z) / N
                rows.append(more / more.square().sum().sqrt())
        z = torch.stack(rows)
        logits = model.teacher.head.logits(z[:0], z)[1]
    torch.testing.assert_close(out.teacher.patch_mean, logits.mean(0))
    hidden = case.batch.masks.map
    probs = teacher_probs(logits, model.patch_center.value, VALUES.patch_temp)
    wanted = case.losses(probs, hidden, hidden)
    assert out.metrics["patch_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)


def test_before_the_masks_start_visible_patches_are_in_no_loss_either():
    case = Case(settings(visible_weight=0.5))
    out = case.step("auto", hides_patches=False)
    assert out.metrics["patch_loss"] == 0 and out.metrics["visible_loss"] == 0
    torch.testing.assert_close(out.loss.detach(), out.metrics["cls_loss"])
    assert out.metrics["visible_entropy"] == 0


@pytest.mark.parametrize("match", ["position", "feature"])
def test_pairs_that_an_ablation_predicts_have_their_loss_before_the_masks_start(match):
    case = Case(settings(patch_match=match))
    hidden, used = torch.zeros(G, B, N, dtype=torch.bool), torch.rand(G, B, N) < 0.4
    pairs = replace(masks_from_map(used, torch.float64), map=hidden)
    pairs = replace(pairs, target=torch.randint(0, hidden.numel(), pairs.index.shape))
    case.batch = replace(case.batch, masks=pairs)
    early, later = (case.step("auto", hides_patches=hides) for hides in (False, True))
    assert early.metrics["patch_loss"] == later.metrics["patch_loss"] > 0
    assert early.loss == later.loss


def test_entropy_of_visible_targets_is_the_mean_over_views():
    case = Case(settings(visible_weight=0.5))
    visible = ~case.batch.masks.map
    with torch.no_grad():
        teacher = case.logits(case.model.teacher, None)
    probs = teacher_probs(teacher, case.model.patch_center.value, VALUES.patch_temp)
    each = torch.special.entr(probs).sum(-1).view(G, B, N)
    views = [
        each[g, i][visible[g, i]].mean() for g in range(G) for i in range(B) if visible[g, i].any()
    ]
    got = case.step("auto").metrics["visible_entropy"].item()
    assert got == pytest.approx(torch.stack(views).mean().item(), rel=1e-9)
