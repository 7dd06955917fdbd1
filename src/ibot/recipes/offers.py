"""The published weights as one can have them: what each is, what it reached, where it lies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ibot.config.schema import ModelConfig
from ibot.recipes import recipe
from ibot.recipes.paper import IMAGENET_22K, PUBLISHED
from ibot.weights.published import TERMS, PublishedFile, published_files

SIZES = {384: "S", 768: "B", 1024: "L"}
"""What ViTs of a width are called."""
BYTES = 4
"""Of a parameter in these files: float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Published weights of one model."""

    name: str
    """To be given wherever weights are."""
    called: str
    """The network in a word."""
    network: str
    data: str
    parameters: int
    """Of the backbone, mask token excluded."""
    bytes_calculated: int
    """Of the file with the backbone, from the parameters: nobody publishes the sizes."""
    key: str
    """Which network that file holds."""
    terms: str
    knn: float
    """Published k-NN accuracy on ImageNet-1K, %."""
    address: str
    file: str
    """Where it lies on this machine, or would."""
    is_here: bool

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def offers() -> list[Offer]:
    """One for each model that was published with its weights. Raises UserError without a home."""
    return [_offer(file) for file in published_files()]


def _offer(file: PublishedFile) -> Offer:
    model, network = PUBLISHED[file.recipe], recipe(file.recipe).model
    return Offer(
        name=f"ibot:{file.name}",
        called=_called(network),
        network=str(network),
        data="ImageNet-22K" if model.images == IMAGENET_22K else "ImageNet-1K",
        parameters=model.parameters,
        bytes_calculated=BYTES * model.parameters,
        key=file.key,
        terms=TERMS,
        knn=model.knn or 0.0,
        address=file.address,
        file=str(file.file),
        is_here=file.file.is_file(),
    )


def _called(network: ModelConfig) -> str:
    """As the paper calls it."""
    if network.kind == "swin":
        return f"Swin-T/{network.window}"
    return f"ViT-{SIZES[network.width]}/{network.patch}"
