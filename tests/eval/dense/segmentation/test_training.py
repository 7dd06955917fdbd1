"""Trainings are over-fitted, go on bit by bit where they were cut off, and may be shared."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from several import run_forked

from ibot.data.annotated.label_maps import open_label_maps
from ibot.errors import RunError
from ibot.eval.dense.segmentation.network import Segmenter
from ibot.eval.dense.segmentation.settings import SegmentationSettings
from ibot.eval.dense.segmentation.training import train_segmenter
from ibot.eval.dense.segmentation.validation import PREDICTIONS, compared
from ibot.eval.dense.segmentation.windows import SlidingTest
from ibot.eval.fit import CHECKPOINT
from ibot.eval.label_scores import LabelScores
from ibot.models.backbone import build_backbone
from ibot.system.distributed import init_processes, shutdown
from ibot.system.processes import Processes

from .conftest import CONFIGS

CPU = torch.device("cpu")


def settings(head="upernet", **changes):
    given = {
        "iterations": 6,
        "validations": 2,
        "batch": 4,
        "crop": 32,
        "stride": 21,
        "lr": (3e-3,),
        "warmup": 2,
        "layer_decay": 0.9 if head == "upernet" else 1.0,
        "drop_path": 0.2,
        "channels": 8,
        "checkpoint_steps": 2,
        "precision": "float32",
    }
    return SegmentationSettings(head=head, **{**given, **changes})


def trained(data, folder, made, kind="vit", processes=Processes(), **more):  # noqa: B008
    torch.manual_seed(0)
    backbone = build_backbone(CONFIGS[kind], (32, 32)).eval()
    model = Segmenter(
        backbone,
        made.head,
        3,
        rates=len(made.lr),
        channels=made.channels,
        drop_path=made.drop_path,
    )
    train, val = open_label_maps(str(data))
    val = val.taken([0, 2, 4])
    result = train_segmenter(
        model, train, val, made, device=CPU, folder=folder, processes=processes, **more
    )
    return model, result


UNSEEN = {
    *("pyramid.steps.0.0.bias", "pyramid.steps.0.3.bias", "pyramid.steps.1.bias"),
    *("pyramid.steps.0.1.running_mean",),
    *("head.lateral.0.1.running_mean", "head.lateral.1.1.running_mean"),
}
"""Biases that a batch norm takes off again, and the means that they shift: their gradients are
rounding alone, which Adam enlarges, and no output depends on them."""


class StopError(Exception):
    """Cuts a training off."""


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise StopError

    return progress


@pytest.mark.parametrize("head", ["linear", pytest.param("upernet", marks=pytest.mark.slow)])
def test_one_that_was_cut_off_goes_on_bit_by_bit(stripes, tmp_path, head):
    whole, result = trained(stripes, tmp_path / "whole", settings(head))
    for step, saved in ((3, 3), (5, 4)):  # the end of an epoch; inside of one
        with pytest.raises(StopError):
            trained(stripes, tmp_path / "cut", settings(head), progress=stop_at(step))
        assert torch.load(tmp_path / "cut" / CHECKPOINT)["step"] == saved
    again, resumed = trained(stripes, tmp_path / "cut", settings(head))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert result.scores == resumed.scores and torch.equal(result.areas, resumed.areas)
    buffers = [name for name in whole.state_dict() if name.endswith("running_mean")]
    assert bool(buffers) == (head == "upernet")
    with pytest.raises(RunError):
        trained(stripes, tmp_path / "cut", settings(head, lr=(1e-3,)))


def miou_on(maps, model):
    test = SlidingTest(crop=32, stride=21, statistics=model.backbone.statistics)

    def find(_, pixels):
        return test.classes(lambda images: model(images)[0], pixels, CPU)

    with torch.no_grad():
        return LabelScores.of(compared(maps, find, bad=set())[1][:, 0].sum(dim=0)).miou


def test_each_of_several_rates_is_trained_as_if_alone(stripes, tmp_path):
    rates, judge = (1e-5, 1e-1, 1e-2), open_label_maps(str(stripes))[0].taken([1, 5])
    made = settings("linear", validations=1, lr=rates)
    model, result = trained(stripes, tmp_path / "all", made, judge=judge)
    alone = {
        rate: trained(stripes, tmp_path / str(rate), replace(made, lr=(rate,))) for rate in rates
    }
    for head, (one, _) in zip(model.head.classify, alone.values(), strict=True):
        assert torch.equal(head.weight, one.head.classify[0].weight)
        assert torch.equal(head.bias, one.head.classify[0].bias)
    losses = [one.scores[0]["train_loss"] for _, one in alone.values()]
    assert result.scores[0]["train_loss"] == pytest.approx(sum(losses) / 3, abs=1e-6)
    # The rate is chosen on the images that were held out, and the reported ones are its own.
    for rate in rates:
        assert result.rate_mious[rate] == pytest.approx(miou_on(judge, alone[rate][0]))
    best = max(rates, key=lambda rate: result.rate_mious[rate])
    assert len(set(result.rate_mious.values())) > 1 and result.scores[0]["lr"] == best
    assert torch.equal(result.areas, alone[best][1].areas)
    _, published = trained(stripes, tmp_path / "published", made)
    assert published.scores[0]["miou"] == max(published.rate_mious.values())


def test_micro_batches_are_one_batch(stripes, tmp_path):
    made = settings("linear", validations=1, micro_batch=3)  # 4 images: two times 2
    model, result = trained(stripes, tmp_path / "parts", made)
    whole, expected = trained(stripes, tmp_path / "whole", replace(made, micro_batch=0))
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[name], atol=1e-6), name
    losses = [one.scores[0]["train_loss"] for one in (result, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_frozen_network_stays_and_a_trained_one_moves(stripes, tmp_path):
    for head in ("linear", "upernet"):
        torch.manual_seed(0)
        fresh = build_backbone(CONFIGS["vit"], (32, 32)).state_dict()
        model, _ = trained(stripes, tmp_path / head, settings(head, iterations=2, validations=1))
        moved = [
            name
            for name, tensor in model.backbone.state_dict().items()
            if not torch.equal(tensor, fresh[name])
        ]
        assert bool(moved) == (head == "upernet")
        assert "pos_embed" in moved or head == "linear"


@pytest.mark.parametrize("kind", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_stripes_are_learned(stripes, tmp_path, kind):
    made = settings(iterations=30, lr=(1e-2,), validations=1, ratio=(1.0, 1.5), drop_path=0.0)
    _, result = trained(stripes, tmp_path / kind, made, kind)
    assert result.scores[-1]["miou"] > 70
    about = json.loads((tmp_path / kind / PREDICTIONS / "predictions.json").read_text())
    assert len(about["images"]) == len(result.index) == 3
    assert (tmp_path / kind / PREDICTIONS / about["images"][2]["found"]).is_file()


def two(rank, data, folder, made, kind):
    torch.set_num_threads(1)
    processes = init_processes(CPU)
    model, result = trained(data, folder / "two", made, kind, processes)
    if rank == 0:
        torch.save([model.state_dict(), result.areas, result.scores], folder / "two.pt")
    shutdown()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("linear", "vit"),
        pytest.param("linear", "swin", marks=pytest.mark.slow),
        pytest.param("upernet", "vit", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(stripes, tmp_path, one_thread, head, kind):
    made = settings(head, iterations=20, validations=1, lr=(1e-3,))
    model, result = trained(stripes, tmp_path / "one", made, kind)
    codes, errors = run_forked(
        partial(two, data=stripes, folder=tmp_path, made=made, kind=kind), tmp_path
    )
    assert codes == [0, 0], errors
    state, areas, scores = torch.load(tmp_path / "two.pt")
    apart = {k: (v.double() - state[k]).abs().max().item() for k, v in model.state_dict().items()}
    assert not {name: d for name, d in apart.items() if d > 1e-5 and name not in UNSEEN}
    assert scores[0]["train_loss"] == pytest.approx(result.scores[0]["train_loss"], abs=1e-5)
    assert (areas - result.areas).abs().sum() <= 0.001 * areas.sum()


def test_half_precision_trains(stripes, tmp_path):
    made = settings(iterations=2, validations=1, precision="bfloat16")
    _, result = trained(stripes, tmp_path, made)
    assert 0 < result.scores[0]["train_loss"] < 3
