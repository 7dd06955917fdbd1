import json

import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.eval.tune.layer_decay import (
    does_decay,
    layer_of,
    layer_scales,
    parameter_groups,
)
from ibot.eval.tune.network import Classifier
from ibot.eval.tune.settings import FinetuneSettings
from ibot.models.backbone import build_backbone

PRINTED = {
    (
        12,
        0.65,
    ): "0.0037 0.00569 0.00875 0.01346 0.02071 0.03186 0.04902 0.07542 0.11603 0.17851 0.27463 "
    "0.4225 0.65 1",
    (
        12,
        0.75,
    ): "0.02376 0.03168 0.04224 0.05631 0.07508 0.10011 0.13348 0.17798 0.2373 0.31641 0.42188 "
    "0.5625 0.75 1",
}


@pytest.fixture
def cases(golden):
    return json.loads((golden / "layer_decay.json").read_text())


def dimensions(name: str) -> int:
    """Dimensions of a parameter, which the golden file does not tell."""
    is_vector = name.endswith(".bias") or "gamma_" in name or "norm" in name
    return 1 if is_vector else 3 if name in ("cls_token", "pos_embed") else 2


def test_every_golden_parameter_has_its_rate_and_decay(cases):
    seen = set()
    for case in cases:
        depths = case.get("depths") or (case["depth"],)
        scales = layer_scales(sum(depths), case["layer_decay"])
        assert sum(depths) == case["num_layers"]
        for name, (scale, decay) in case["parameters"].items():
            assert scales[layer_of(name, depths)] == scale, name
            assert (
                case["weight_decay"] if does_decay(name, dimensions(name), False) else 0.0
            ) == decay, name
            seen.add(case["model"])
    assert seen == {"vit", "swin"}


def test_networks_of_the_golden_sizes_give_the_golden_groups(cases):
    vit = ModelConfig(width=16, depth=cases[0]["depth"], heads=2, patch=8)
    swin = ModelConfig(
        kind="swin", width=8, depths=tuple(cases[2]["depths"]), stage_heads=(1, 1, 2, 2), patch=4
    )
    for config, size, case in ((vit, 32, cases[0]), (swin, 64, cases[2])):
        settings = FinetuneSettings(
            layer_decay=case["layer_decay"], weight_decay=case["weight_decay"]
        )
        got = rates(Classifier(build_backbone(config, (size, size)), 5, settings), settings)
        assert got == {name: tuple(values) for name, values in case["parameters"].items()}


def rates(classifier: Classifier, settings: FinetuneSettings) -> dict[str, tuple[float, float]]:
    """Factor of the rate and weight decay of each parameter, as the optimizer gets them."""
    names = {id(p): name.removeprefix("backbone.") for name, p in classifier.named_parameters()}
    groups = parameter_groups(
        [(names[id(p)], p) for p in classifier.parameters()],
        classifier.backbone.depths,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
        decay_tokens=settings.decay_tokens,
    )
    members = [(p, group) for group in groups for p in group["params"]]
    assert len(members) == len({id(p) for p, _ in members})
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for p, group in members}


@pytest.mark.parametrize("case", PRINTED)
def test_scales_are_the_printed_ones(case):
    assert layer_scales(*case) == pytest.approx(
        [float(word) for word in PRINTED[case].split()], abs=5.1e-6
    )


def test_scales_of_24_layers():
    scales = layer_scales(24, 0.75)
    assert len(scales) == 26 and scales[24] == 0.75 and scales[25] == 1.0
    assert scales[0] == pytest.approx(0.00075, abs=5e-6)


def test_swin_blocks_are_counted_over_stages_and_merging_belongs_to_the_last_block():
    depths = (2, 2, 6, 2)
    assert [layer_of(f"layers.{k}.blocks.0.mlp.fc1.weight", depths) for k in range(4)] == [
        1,
        3,
        5,
        11,
    ]
    assert [layer_of(f"layers.{k}.downsample.reduction.weight", depths) for k in range(3)] == [
        2,
        4,
        10,
    ]
    assert layer_of("norm.weight", depths) == layer_of("head.weight", depths) == 13


def test_tokens_decay_only_in_the_recipes_that_let_them():
    network = build_backbone(
        ModelConfig(width=16, depth=2, heads=2, patch=8, registers=2), (16, 16)
    )
    tokens = ("cls_token", "pos_embed", "register_tokens")
    for decay_tokens in (False, True):
        settings = FinetuneSettings(decay_tokens=decay_tokens)
        got = rates(Classifier(network, 3, settings), settings)
        assert [got[name] for name in tokens] == [(0.75**3, 0.05 * decay_tokens)] * 3
        assert got["blocks.0.mlp.fc1.weight"][1] == 0.05 and got["blocks.0.mlp.fc1.bias"][1] == 0


def test_without_layer_decay_there_are_two_groups():
    network = build_backbone(ModelConfig(width=16, depth=2, heads=2, patch=8), (16, 16))
    groups = parameter_groups(
        network.named_parameters(), (2,), layer_decay=1.0, weight_decay=0.05, decay_tokens=True
    )
    assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.05),
        (1.0, 0.0),
    ]


def test_layers_of_the_projection_head_move_at_the_full_rate():
    assert layer_of("projection.0.weight", (12,)) == 13


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no parameter is named as one of layer 0 of 1"):
        parameter_groups(
            torch.nn.Linear(2, 2).named_parameters(),
            (1,),
            layer_decay=0.5,
            weight_decay=0.05,
            decay_tokens=False,
        )
