"""The arithmetic of the published training step, written plainly from the specification: every
token through the head.

The yardstick of `benchmarks.step`. It computes what the published code computes: patch logits of
all tokens of student and teacher, local crops included, full softmaxes, per-tensor clipping with a
read-back, an EMA parameter by parameter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.config.schema import Config
from ibot.method.model import StudentTeacher
from ibot.method.network import Network
from ibot.types import Batch, StepValues


class PublishedStep:
    """One step of the published loop on our networks' parameters."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.model = StudentTeacher(config)
        decayed = [p for p in self.model.student.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.model.student.parameters() if p.requires_grad and p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], foreach=False
        )
        self.center = torch.zeros(1, config.head.out_dim)
        self.center_patch = torch.zeros(1, 1, config.head.out_dim)

    def _logits(
        self, network: Network, images: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        out = network.backbone(images, mask)
        tokens = torch.cat([out.cls[:, None], out.patches], dim=1)
        z = network.head.project(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return network.head.cls_layer(z[:, 0]), network.head.patch_layer(z[:, 1:])

    def loss(self, batch: Batch, values: StepValues) -> Tensor:
        """Forward passes, loss and centers."""
        num_global, num_images = batch.global_views.shape[:2]
        images, masks = batch.global_views.flatten(0, 1), batch.masks.map.flatten(0, 1)
        with torch.no_grad():
            teacher_cls, teacher_patch = self._logits(self.model.teacher, images, None)
        student_cls, student_patch = self._logits(self.model.student, images, masks)
        if batch.local_views is not None:
            local_cls, _ = self._logits(self.model.student, batch.local_views.flatten(0, 1), None)
            student_cls = torch.cat([student_cls, local_cls])
        target = F.softmax((teacher_cls - self.center) / values.teacher_temp, dim=-1).chunk(
            num_global
        )
        target_patch = F.softmax(
            (teacher_patch - self.center_patch) / values.patch_temp, dim=-1
        ).chunk(num_global)
        scores, scores_patch = (
            (student_cls / 0.1).split(num_images),
            (student_patch / 0.1).chunk(num_global),
        )
        mask_of = masks.chunk(num_global)
        total_cls, total_patch, pairs, same = 0.0, 0.0, 0, 0
        for q in range(num_global):
            for v, score in enumerate(scores):
                if v == q:
                    per_patch = (-target_patch[q] * F.log_softmax(scores_patch[v], dim=-1)).sum(-1)
                    count = mask_of[v].sum(-1).clamp(min=1.0)
                    total_patch = (
                        total_patch + ((per_patch * mask_of[v].float()).sum(-1) / count).mean()
                    )
                    same += 1
                else:
                    total_cls = (
                        total_cls + (-target[q] * F.log_softmax(score, dim=-1)).sum(-1).mean()
                    )
                    pairs += 1
        self.center = 0.9 * self.center + 0.1 * teacher_cls.mean(0, keepdim=True)
        self.center_patch = (
            0.9 * self.center_patch + 0.1 * teacher_patch.mean(1).mean(0, keepdim=True)[:, None]
        )
        return total_cls / pairs + total_patch / same

    def step(self, batch: Batch, values: StepValues) -> float:
        """Run one step; returns the loss."""
        loss = self.loss(batch, values)
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.model.student.parameters():
            if p.grad is not None:
                factor = self.config.optim.clip / (p.grad.norm(2).item() + 1e-6)
                if factor < 1:
                    p.grad.mul_(factor)
        for group in self.optimizer.param_groups:
            group["lr"] = values.lr
        self.optimizer.param_groups[0]["weight_decay"] = values.weight_decay
        self.optimizer.step()
        with torch.no_grad():
            for teacher, student in self.model.averaged():
                teacher.mul_(values.momentum).add_((1 - values.momentum) * student)
        return loss.item()
