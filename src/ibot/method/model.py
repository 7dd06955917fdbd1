"""Student and teacher, and the forward passes that the losses need.

The normal path computes only what a loss reads, by the exact identities of spec 5.7: the student's
head runs on class tokens and masked patches alone (I3, I4) and its last block on those rows alone
(I5); the teacher's patch logits exist at masked patches alone (I2), and the patch center comes from
the mean of the projected tokens, because the last layer is linear (I1). Nothing of size images x
tokens x prototypes is built. Batch norm in the head must see every token, so there the student's
head runs on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.schema import Config
from ibot.kernels.choice import chosen
from ibot.method.attended import most_attended
from ibot.method.center import Center
from ibot.method.network import Network
from ibot.method.tokenizers import PatchTokenizer
from ibot.models.contract import Views
from ibot.models.head import ProjectionHead, Scored, at_least_float32
from ibot.types import Masks, TokenOutput


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """What the teacher makes of the whole global views; no gradient."""

    cls: Tensor | Scored
    """[G, B, K] class logits."""
    patch: Tensor | Scored
    """[M, K'] patch logits to predict: of the places in the loss, or of an ablation's partners.
    Or those of all patches, if they are balanced together."""
    cls_mean: Tensor
    """[K], mean class logits, for the center."""
    patch_mean: Tensor
    """[K'], mean patch logits over all patches, for the center."""
    features: Tensor
    """[G, B, D] class tokens."""
    places: Tensor | None = None
    """int64 [M], where `patch` has all patches [G * B * N, K']: those to predict."""
    masks: Masks | None = None
    """What the student does not see, where the teacher's attention says it."""


@dataclass(frozen=True, slots=True)
class StudentOutput:
    """What the student makes of the masked global views and the local views."""

    cls: Tensor | Scored
    """[V, B, K] class logits."""
    patch: Tensor | Scored
    """[M, K'] patch logits of the masked patches, then of the visible ones in the loss."""
    features: Tensor
    """[G, B, D] class tokens of the global views."""


class Student(Network):
    """The trained network."""

    def __init__(self, config: Config) -> None:
        drop_path, shared = config.model.drop_path, config.head.shared
        super().__init__(config, drop_path=drop_path, masked=True, shared=shared)

    def forward(
        self,
        global_views: Tensor,
        masks: Masks,
        local_views: Tensor | None,
        drop: Tensor | None = None,
        scored: bool = False,
    ) -> StudentOutput:
        """One pass over all views: global [G, B, 3, H, W] with masks, local [L, B, 3, H', W'].

        Local views are whole, unless `masks.local` hides patches of theirs, which come last.
        drop: factors of stochastic depth, as in `Batch`. With `scored` the last layer is left to
        the losses.
        """
        num_global, batch = global_views.shape[:2]
        if self.head.sees_batch:
            drop_local = None
            if drop is not None:
                drop, drop_local = drop.tensor_split([num_global * batch], dim=-1)
            images, hidden = global_views.flatten(0, 1), masks.map.flatten(0, 1)
            cls, patch, features = self._dense_pass(images, hidden, places_in_loss(masks), drop)
            if local_views is not None:
                images, hidden, places = local_views.flatten(0, 1), None, None
                if masks.local is not None:
                    hidden, places = masks.local.map.flatten(0, 1), masks.local.index
                cls_local, patch_local, _ = self._dense_pass(images, hidden, places, drop_local)
                cls, patch = torch.cat([cls, cls_local]), torch.cat([patch, patch_local])
        else:
            views, num_more = [self._views(global_views, masks)], 0
            if masks.target is None and masks.local is None and _few_sizes(global_views.device):
                views[0], num_more = _with_more_rows(views[0])
            if local_views is not None:
                views.append(self._views(local_views, masks.local))
            # Of each size class tokens, then hidden patches.
            tokens = self.backbone.forward_views(views, drop)
            parts = tokens.split([n for v in views for n in (len(v.images), v.num_patches)])
            features = parts[0]
            cls, patch = self.head.project_both(torch.cat(parts[::2]), torch.cat(parts[1::2]))
            patch = patch[: len(patch) - num_more]
        cls, patch = _last_layer(self.head, cls, patch, batch, scored)
        return StudentOutput(cls, patch, features.unflatten(0, (num_global, batch)))

    def _views(self, views: Tensor, masks: Masks | None) -> Views:
        """Views [V, B, C, H, W] of which class tokens, then patches in the loss are read."""
        images = views.flatten(0, 1)
        height, width = self.backbone.token_grid(*images.shape[-2:])
        rows = torch.arange(len(images), device=images.device) * (1 + height * width)
        if masks is None:
            return Views(images, None, rows)
        return Views(images, masks.map.flatten(0, 1), torch.cat([rows, flat_token_rows(masks)]))

    def _dense_pass(
        self, images: Tensor, hidden: Tensor | None, places: Tensor | None, drop: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every token through the head, for batch norm: projected rows, and the class tokens."""
        output = self.backbone(images, hidden, drop)
        cls, patches = self.head.project_both(output.cls, output.patches.flatten(0, 1))
        return cls, patches[places] if places is not None else patches[:0], output.cls


class Teacher(Network):
    """The moving average of the student; never trained."""

    def __init__(self, config: Config) -> None:
        shared, residual = config.head.shared_teacher, config.method.patch_residual
        super().__init__(config, drop_path=0.0, masked=False, shared=shared, residual=residual)
        self.matches_features = config.method.patch_match == "feature"
        self.attends = config.mask.shape == "attention"
        self.normed = config.method.patch_target_norm
        self.balances_all = config.method.patch_balance == "all"
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(
        self,
        global_views: Tensor,
        masks: Masks,
        local_views: Tensor | None = None,
        scored: bool = False,
    ) -> TeacherOutput:
        """One pass over the whole global views [G, B, 3, H, W].

        And over the local ones [L, B, 3, H', W'], where `masks.local` hides patches of theirs. With
        `scored` the last layer is left to the losses, but for the means.
        """
        num_global, batch = global_views.shape[:2]
        output, attention = self._tokens(global_views.flatten(0, 1))
        if attention is not None:
            masks = most_attended(masks, attention.mean(dim=1).unflatten(0, (num_global, batch)))
        z_cls, z_patches = self.head.project_both(output.cls, output.patches.flatten(0, 1))
        by_view = z_patches.unflatten(0, output.patches.shape[:2])
        z_patches = self.head.rows_of_views(by_view).flatten(0, 1)
        places = places_of_targets(masks)
        if self.matches_features:
            places = most_similar(output.patches.unflatten(0, (num_global, batch)))[masks.index]
        wanted = z_patches if self.balances_all else z_patches[places]
        if masks.local is not None and local_views is not None:
            local, _ = self._tokens(local_views.flatten(0, 1))
            _, z_local = self.head.project_both(local.cls, local.patches.flatten(0, 1))
            wanted = torch.cat([wanted, z_local[masks.local.index]])
        cls, patch = _last_layer(self.head, z_cls, wanted, batch, scored)
        # By linearity the mean of all logits is the last layer of the mean row (spec 5.7, I1).
        mean_row = z_cls.mean(dim=0, keepdim=True) if scored else z_cls[:0]
        cls_mean, patch_mean = self.head.logits(mean_row, z_patches.mean(dim=0, keepdim=True))
        return TeacherOutput(
            cls=cls,
            patch=patch,
            cls_mean=cls.flatten(0, 1).mean(dim=0) if isinstance(cls, Tensor) else cls_mean[0],
            patch_mean=patch_mean[0],
            features=output.cls.unflatten(0, (num_global, batch)),
            places=places if self.balances_all else None,
            masks=masks if self.attends else None,
        )

    def _tokens(self, images: Tensor) -> tuple[TokenOutput, Tensor | None]:
        """Tokens, of patches perhaps before the final norm; and the attention of the class token
        [B, heads, N] where it says what is hidden.
        """
        attention = None
        if self.attends:
            output, attention = self.backbone.tokens_and_attention(images, norm=self.normed)
        elif self.normed:
            output = self.backbone(images)
        else:
            (output,) = self.backbone.last_layers(images, 1, norm=False)
        if not self.normed:
            output = replace(output, cls=self.backbone.get_submodule("norm")(output.cls))
        return output, attention


class StudentTeacher(nn.Module):
    """Both networks and both centers: everything that training changes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        # Gives the patch targets in place of the teacher; only ablations have one.
        self.tokenizer: PatchTokenizer | None = None
        head, method = config.head, config.method
        self.student = Student(config)
        self.teacher = Teacher(config)
        # One shared head makes both losses use the class prototypes.
        patch_dim = head.out_dim if head.shared_teacher else head.patch_out_dim
        self.cls_center = Center(head.out_dim, method.center_momentum)
        self.patch_center = Center(patch_dim, method.center_momentum_patch)
        self.start_teacher()

    @torch.no_grad()
    def start_teacher(self) -> None:
        """Copy the student into the teacher (spec 4.6).

        With unequal sharing, a shared teacher layer ends up as the student's patch layer, and both
        layers of an unshared teacher start as the student's one layer: the published semantics
        (quirk Q46).
        """
        source = self.student.state_dict()
        own = self.teacher.state_dict()
        common = {name: source[name] for name in own if name in source}
        self.teacher.load_state_dict(common, strict=False)
        self.teacher.head.cls_layer.load_state_dict(self.student.head.cls_layer.state_dict())
        self.teacher.head.patch_layer.load_state_dict(self.student.head.patch_layer.state_dict())

    def averaged(self) -> list[tuple[Tensor, Tensor]]:
        """Pairs (teacher, student) that the moving average reaches: those with a common name."""
        student, teacher = (net.named_parameters() for net in (self.student, self.teacher))
        trained = dict(student)
        return [(p, trained[name]) for name, p in teacher if name in trained]


def _last_layer(
    head: ProjectionHead, cls: Tensor, patches: Tensor, batch: int, scored: bool
) -> tuple[Tensor | Scored, Tensor | Scored]:
    """Projected class rows [views * B, d] and patch rows [M, d] -> logits [views, B, K], [M, K'].

    Or, with `scored`, what they will be computed from.
    """
    if scored:
        of_cls, of_patches = head.scored(cls, patches)
        return of_cls._replace(rows=cls.unflatten(0, (-1, batch))), of_patches
    logits, of_patches = head.logits(cls, patches)
    return logits.unflatten(0, (-1, batch)), of_patches


def most_similar(patches: Tensor) -> Tensor:
    """For each patch of two views [2, B, N, D] the most similar one (cosine) of the other view.

    int64 [2 * B * N], positions in the flattened [2, B, N].
    """
    unit = F.normalize(at_least_float32(patches), dim=-1)
    nearest = (unit @ unit.flip(0).transpose(-1, -2)).argmax(dim=-1)  # [2, B, N]
    views, batch, cells = nearest.shape
    start = torch.arange(views * batch, device=nearest.device).view(views, batch, 1).flip(0) * cells
    return (nearest + start).flatten()


def _few_sizes(device: torch.device) -> bool:
    """Whether steps are to have few numbers of rows, for products that are built for each size.

    So are those of oneDNN in bfloat16, for a millisecond each, and no two masks hide as many.
    """
    if device.type != "cpu":
        return False
    half = torch.is_autocast_enabled("cpu")
    return chosen("rows of few sizes", unfit="" if half else "float32 products suit any")


def _with_more_rows(views: Views) -> tuple[Views, int]:
    """Views with more rows, of visible patches, up to one of few numbers; and how many more.

    They come last. No row comes twice, and none where too few patches are visible.
    """
    assert views.mask is not None
    num_patches, num_rows = views.mask.shape[-1], len(views.rows)
    more = -num_rows % max(16, 2 ** (num_rows.bit_length() - 4))
    if more > len(views.images) * (1 + num_patches) - num_rows:
        return views, 0
    visible = views.mask.flatten().byte().argsort(stable=True)[:more]
    rows = torch.cat([views.rows, visible + visible // num_patches + 1])
    return views._replace(rows=rows), more


def places_in_loss(masks: Masks) -> Tensor:
    """Positions of the patches in a loss in the flattened map: the masked, then the visible."""
    return masks.index if masks.visible is None else torch.cat([masks.index, masks.visible.index])


def places_of_targets(masks: Masks) -> Tensor:
    """Positions of the teacher's patches that those of `places_in_loss` predict."""
    parts = [masks] if masks.visible is None else [masks, masks.visible]
    places = [part.index if part.target is None else part.target for part in parts]
    return places[0] if len(places) == 1 else torch.cat(places)


def flat_token_rows(masks: Masks) -> Tensor:
    """Rows of the patches in a loss in the tokens [G * B * (1 + N), D]; a view begins with its
    cls.
    """
    places = places_in_loss(masks)
    return places + places // masks.map.shape[-1] + 1
