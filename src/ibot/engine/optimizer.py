"""Parameter groups, optimizers, per-tensor clipping and the frozen last layer (spec 6.3 to 6.6)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ibot.config.schema import OptimConfig
from ibot.models.head import ProjectionHead
from ibot.system.sharding import l2_norms, local
from ibot.types import StepValues

LARS_ETA = 0.001


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates with momentum (spec 6.6); vectors neither decay nor scale."""

    def __init__(
        self, groups: Iterable[dict[str, object]], lr: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                if p.ndim != 1:
                    grad = grad.add(p, alpha=group["weight_decay"])
                    p_norm, g_norm = p.norm(), grad.norm()
                    scale = torch.where(
                        (p_norm > 0) & (g_norm > 0), LARS_ETA * p_norm / g_norm, 1.0
                    )
                    grad = grad * scale
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(group["momentum"]).add_(grad)
                p.sub_(state["mu"], alpha=group["lr"])


def parameter_groups(student: nn.Module) -> list[dict[str, object]]:
    """Group 0 decays, group 1 does not: biases and 1-dimensional tensors (spec 6.3).

    So class token, positions, mask token and trained prototype lengths decay, as published (quirk
    Q31).
    """
    decayed, plain = [], []
    for name, p in student.named_parameters():
        if p.requires_grad:
            (plain if name.endswith(".bias") or p.ndim == 1 else decayed).append(p)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(student: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of the student; `apply_values` sets its rate and decay at each step."""
    groups = parameter_groups(student)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.betas[0])
    return LARS(groups, momentum=config.betas[0])


def apply_values(optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Set learning rate (all groups) and weight decay (first group only)."""
    for group in optimizer.param_groups:
        group["lr"] = values.lr
    optimizer.param_groups[0]["weight_decay"] = values.weight_decay


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale each gradient tensor by itself to an l2 norm of at most `limit`; 0: off.

    Returns the norms before clipping [number of tensors with a gradient], in the order of
    `parameters` (spec 6.4).
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = l2_norms(grads)
    if limit:
        factors = (limit / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(grad) for grad in grads], list(factors.unbind()))
    return norms


def drop_last_layer_gradients(head: ProjectionHead) -> None:
    """Freeze the prototypes in this step: no gradient, decay, moments or count (spec 6.5).

    Without a bottleneck there are no prototypes and nothing is frozen, as published.
    """
    if head.normalized:
        drop_gradients(head.cls_layer)
        drop_gradients(head.patch_layer)


def drop_gradients(part: nn.Module) -> None:
    """The optimizer leaves this part alone in this step."""
    for p in part.parameters():
        p.grad = None
