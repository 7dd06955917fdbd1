"""The projection head of a weights file: the tokenizer, whose prototypes are clusters of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibot.errors import WeightsError
from ibot.models.head import ProjectionHead
from ibot.weights.arguments import head_config
from ibot.weights.files import is_configuration
from ibot.weights.read import Weights, refuse_bad_numbers


def projection_head(weights: Weights, width: int, key: str) -> ProjectionHead | None:
    """Build and fill the head of the network `key` on tokens of `width`; None for a file without
    one of ours.

    Raises WeightsError when the file's tensors do not fit its settings, or hold NaN or infinity.
    """
    config = head_config(weights)
    if config is None:
        return None
    head = ProjectionHead(
        width,
        config,
        config.shared_teacher if key == "teacher" else config.shared,
        residual=has_residual_patches(weights.settings, key),
    )
    stored = {name.removeprefix("head."): tensor for name, tensor in weights.head.items()}
    own = head.state_dict()
    wrong = [name for name in own if name not in stored or stored[name].shape != own[name].shape]
    if wrong:
        raise WeightsError(
            f"the projection head in '{weights.source}' does not fit", why=f"for example {wrong[0]}"
        )
    refuse_bad_numbers(weights.source, {name: stored[name] for name in own}, own)
    head.load_state_dict({name: stored[name] for name in own})
    return head.eval().requires_grad_(False)


def has_residual_patches(settings: Mapping[str, Any], key: str) -> bool:
    """Whether the words of patches, by the network `key`, are of what they add to their view.

    So it is of the teacher of a run of ours with `method.patch_residual`; its student predicts
    those words from patches as they are, and no published network has such.
    """
    method = settings.get("method") if is_configuration(settings) else None
    trained_so = isinstance(method, dict) and method.get("patch_residual") is True
    return trained_so and key == "teacher"
