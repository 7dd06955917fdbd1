"""Rates of 8.11, and which image comes when."""

from itertools import chain, islice

import pytest

from ibot.eval.dense.segmentation.schedule import StepImages, poly_rate
from ibot.system.processes import Processes


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 8.0e-11),
        (1, 5.3413e-8),
        (750, 3.9813e-5),
        (1499, 7.9198e-5),
        (1500, 7.9250e-5),
        (80_000, 4.0e-5),
        (159_999, 5.0e-10),
    ],
)
def test_the_published_rates(step, rate):
    assert poly_rate(step, 8e-5, 160_000, 1500) == pytest.approx(rate, rel=1e-4)


def test_every_pass_holds_every_image_and_processes_deal_them():
    def steps(rank=0, world=1, start=0):
        processes = Processes(rank=rank, world_size=world)
        return list(StepImages(7, 4, 14, 3, processes, start))

    whole = steps()
    flat = [sample.index for sample in chain(*whole)]
    passes = [flat[i : i + 7] for i in range(0, 56, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes) and passes[0] != passes[1]
    assert [(s.step, s.place) for s in islice(chain(*whole), 5)] == [
        *((0, i) for i in range(4)),
        (1, 0),
    ]
    assert steps(start=5) == whole[5:]
    parts = [steps(rank, 2) for rank in (0, 1)]
    assert all(whole[i][0::2] == parts[0][i] and whole[i][1::2] == parts[1][i] for i in range(14))
    micro = StepImages(7, 4, 14, 3, Processes(rank=1, world_size=2), micro_batches=2)
    # Part 1 and part 3 of four: the places that stochastic depth draws for.
    assert list(micro) == [step[part::4] for step in whole for part in (1, 3)]
