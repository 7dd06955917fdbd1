"""Fine-tuning on smaller sets without layer-wise rates (paper table 7; spec_evaluation 8.7)."""

from __future__ import annotations

from ibot.errors import ConfigError
from ibot.eval.labelled import LabelledContext
from ibot.eval.tune.finetune import nearest_architecture, tune
from ibot.eval.tune.settings import (
    TRANSFER_SETS,
    FinetuneSettings,
    sane_settings,
    transfer_settings,
)
from ibot.types import ResultRecord

PUBLISHED = {"flowers102": "flowers", "inat2018": "inat18", "inat2019": "inat19"}
"""Names of sets that differ between the command line and the published table."""


def defaults(context: LabelledContext) -> FinetuneSettings:
    """The published row of the set that `--data` names, nearly flat; in clean mode a sane one.

    Raises ConfigError in published mode for images that no row is about.
    """
    architecture = nearest_architecture(context.loaded.backbone.embed_dim)
    if context.mode == "clean":
        return sane_settings(architecture, len(context.train))
    name = context.data.partition(":")[0].lower()
    name = PUBLISHED.get(name, name)
    if name not in TRANSFER_SETS:
        raise ConfigError(
            f"no transfer to '{context.data}' was published",
            why=f"published: {', '.join(TRANSFER_SETS)}",
            fix="give the set by name, as in --data cifar10:DIR, or use --mode clean",
        )
    return transfer_settings(name, architecture)


def run(context: LabelledContext, settings: FinetuneSettings) -> list[ResultRecord]:
    """One record: accuracy after the last epoch, in published mode after the best one."""
    return [tune(context, settings, "transfer")]
