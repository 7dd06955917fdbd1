"""How the numbers of a training are called in TensorBoard: groups, and what each one is."""

from __future__ import annotations

GROUPS: dict[str, dict[str, str]] = {
    "loss": {
        "cls_loss": "Cross entropy of the class token; at the start ln K.",
        "patch_loss": "Cross entropy of hidden patches, averaged over all global views.",
        "patch_loss_masked": "The same over views with hidden patches alone; at the start ln K'.",
        "visible_loss": "Cross entropy of visible patches, averaged over all global views.",
        "koleo_loss": "KoLeo regulariser before its weight; lower: class tokens further apart.",
        "cls_kl": "Class loss less the teacher's entropy: what the student still lacks.",
        "patch_kl": "Patch loss less the teacher's entropy: what the student still lacks.",
        "ln_k": "Class loss of a student that knows nothing.",
        "ln_k_patch": "Patch loss of a student that knows nothing.",
    },
    "schedule": {
        "lr": "Learning rate of this step.",
        "weight_decay": "Weight decay of this step.",
        "momentum": "Share of itself that the teacher keeps at this step.",
        "teacher_temp": "Temperature of the teacher's class token; lower is sharper.",
        "patch_temp": "Temperature of the teacher's patch tokens; lower is sharper.",
        "epoch": "Passes over the images.",
        "images_seen": "Images that steps have used.",
    },
    "clock": {
        "images_per_second": "Images per second of all processes, loading included.",
        "step_seconds": "Seconds of a step, loading included.",
        "decode_seconds": "Seconds of a loader process to read and decode a batch.",
        "render_seconds": "Seconds of a loader process to make the views of a batch.",
        "busy_seconds": "Of both, seconds in which it computed.",
        "queued_seconds": "Of both, seconds in which others had the cores.",
        "transfer_seconds": "Seconds to bring a batch to the device.",
        "wait_fraction": "Share of the time in which the training waited for images; good: near 0.",
        "workers": "Loader processes per training process.",
    },
    "health": {
        "teacher_entropy": "Entropy of a teacher target of a class token; 0 or ln K is collapse.",
        "patch_entropy": "The same of patch tokens.",
        "visible_entropy": "The same of visible patches in a loss.",
        "marginal_entropy": "Entropy of the mean target; good: near ln K, all prototypes used.",
        "patch_marginal_entropy": "The same of patch tokens.",
        "agreement": "Share of images whose two views get the same prototype; good: it rises.",
        "masked_fraction": "Share of patches that are hidden.",
        "effective_rank": "Directions that class tokens use; a fall to 1 is collapse.",
        "feature_std": "Spread of normalised class tokens; near 0 is collapse.",
        "grad_backbone": "Length of the backbone's gradient.",
        "grad_head_mlp": "Length of the gradient of the head's MLP.",
        "grad_last_layer": "Length of the gradient of the prototypes.",
        "cls_prototypes_used": "Prototypes that some class token chose.",
        "cls_prototypes_share": "Their share of all.",
        "patch_prototypes_used": "Prototypes that some patch token chose.",
        "patch_prototypes_share": "Their share of all.",
        "skipped_steps": "Steps without an update: their gradient was not finite.",
    },
}
"""Numbers of metrics.jsonl by group. Those that nobody lists here are of the health."""
EVALUATED = "evaluate"
"""Group of what is measured during a training."""
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def tag_of(name: str) -> tuple[str, str]:
    """Tag and description of a number of metrics.jsonl."""
    group = _GROUP_OF.get(name, "health")
    return f"{group}/{name}", GROUPS[group].get(name, "")
