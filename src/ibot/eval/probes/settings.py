"""Settings of the evaluations of frozen features (spec_evaluation 8.1 to 8.6, 9.1), `key=value` on
their command lines.

The defaults are the paper's where a field names no other. One flat, frozen dataclass for each;
units and sources stand with the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SWEEP = tuple(float(f"{n}e{e}") for e in range(-4, 1) for n in range(1, 10))
"""The 45 base rates of the published linear probe: 1e-4 ... 9."""


@dataclass(frozen=True, slots=True)
class KnnSettings:
    """Weighted k-NN (8.1)."""

    k: tuple[int, ...] = (10, 20, 100, 200)
    """Neighbours; those above the number of training images become that number."""
    temperature: float = 0.07
    """T of the vote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSettings:
    """Linear probe on frozen features (8.2)."""

    rates: tuple[float, ...] = SWEEP
    """Base learning rates, for a batch of 256; all are trained in one pass."""
    epochs: int = 100
    batch: int = 1024
    """Images per step over all processes; at most the training set."""
    features: tuple[str, ...] = ("auto",)
    """Features, each with its own classifiers: n4m0 = last 4 blocks, mode 0; auto: the paper's
    for the network."""
    augment: Literal["crop", "none"] = "crop"
    """New random crops in every epoch (published), or the features of the plain images (far
    cheaper; not the published protocol)."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    weight_decay: float = 0.0
    holdout: float = 0.05
    """Share of the training images on which the rate is chosen in clean mode."""


@dataclass(frozen=True, slots=True)
class LogisticSettings:
    """Logistic regression on frozen features (8.3)."""

    penalties: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Strengths; each is divided by the number of training images."""
    folds: int = 5
    """Parts of the cross-validation that chooses among them in clean mode."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Unsupervised classification (8.6)."""

    by: Literal["auto", "prototypes", "kmeans"] = "auto"
    """Clusters are the prototypes of the projection head, or k-means of the features; auto:
    prototypes if the head has as many as there are classes."""
    k: int = 0
    """Clusters of k-means; 0: the number of classes."""


@dataclass(frozen=True, slots=True)
class SemiSettings:
    """Few labels (8.5): the frozen protocols on a part of the training images."""

    share: tuple[float, ...] = (0.01, 0.1)
    """Shares of the training images that keep their label; at least one image of each class."""
    lists: tuple[str, ...] = ()
    """Files of image names in place of shares."""
    probes: tuple[str, ...] = ("knn", "linear", "logistic")
    """Which protocols: knn, linear, logistic, and finetune (end to end from the first layer of
    the projection head)."""
    subsets: int = 1
    """Stratified draws of each share, with following seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartLinearSettings:
    """Linear probe on the most attended patches (9.1)."""

    shares: tuple[float, ...] = (0.0, 0.0357, 0.0714, 0.2857, 0.5714, 1.0)
    """Shares of the patches, at least one patch each: 1, 7, 14, 56, 112 and 196 of the published
    14 x 14."""
    smallest: bool = False
    """Take the least attended patches."""
    probe: Literal["auto", "logistic", "sweep"] = "auto"
    """Logistic regression on plain images (fast), or the published sweep over rates on random
    crops; auto: the sweep in published mode."""
    rates: tuple[float, ...] = SWEEP
    """Of the sweep, as those below: base learning rates for a batch of 256."""
    epochs: int = 100
    batch: int = 1024
    """Images per step over all processes; at most the training set."""
    holdout: float = 0.05
    """Share of the training images on which the rate is chosen in clean mode."""


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """Patches found again in another view of their image (10.3)."""

    images: int = 500
    """At most so many, evenly spaced."""
    features: Literal["network", "pixels"] = "network"
    """Of a patch: its token, or its pixels, which is what a network must beat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseKnnSettings:
    """Segmentation with nothing trained: labels of the most similar labelled patches."""

    k: int = 30
    """Neighbours of a patch."""
    temperature: float = 0.02
    """T of their softmax weights, for cosines."""
    bank: int = 100_000
    """At most so many labelled patches, as many of each training image."""
    features: Literal["network", "pixels"] = "network"
    """Of a patch: its token, or its pixels, which is what a network must beat."""
    classes: str = ""
    """A file that names the classes; empty: the one beside the images, else they are counted."""
    ignore: tuple[int, ...] = ()
    """Label values to leave out of bank and score; empty: what the file of classes says, or 255."""
