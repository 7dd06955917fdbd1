"""How much of the class token is brightness: an evaluation of plain images in three steps."""

import torch

from ibot.eval.context import ImagesContext, plain
from ibot.eval.features.rows import unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.types import ResultRecord
from toy_family.settings import BrightnessSettings


def run(context: ImagesContext, settings: BrightnessSettings) -> list[ResultRecord]:
    """One record: the largest correlation of a feature with the brightness of the images."""
    found = context.feature_sets(context.images, "images")[CLASS_TOKEN]
    levels = [context.images.read(i).mean() ** settings.power for i in found.index.tolist()]
    value = largest_correlation(found.rows, torch.tensor(levels))
    notes = unreadable(found)
    return [context.record("brightness", "brightness_r", value, plain(settings), notes=notes)]


def largest_correlation(rows: torch.Tensor, levels: torch.Tensor) -> float:
    """Over the columns of rows [n, d] with levels [n], without sign."""
    table = torch.cat([rows.double(), levels[:, None].double()], dim=1)
    return torch.corrcoef(table.T)[-1, :-1].abs().max().item()
