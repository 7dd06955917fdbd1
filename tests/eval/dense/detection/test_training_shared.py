"""A training shared by two processes is that of one: the same losses, weights and detections."""

from dataclasses import replace

import pytest
import torch
from coco_folder import write_coco
from drawn_objects import SMALL, drawn_batch, small_detector
from several import run_forked

from ibot.data.annotated.coco_folders import open_coco
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.target import Batch, Target
from ibot.eval.dense.detection.training import parameter_groups, plan_training, train_detector
from ibot.eval.fit import CHECKPOINT
from ibot.system.distributed import init_processes, shutdown, wrap_student
from ibot.system.processes import Processes

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("one_thread")]
CPU = torch.device("cpu")


def equal_images(numbers):
    """A micro-batch in float64, as for a sum in another order to change the last bits alone."""
    sizes = [(90, 120)] * len(numbers)
    batch = drawn_batch(numbers, [number % 3 for number in numbers], sizes)
    targets = [Target(t.boxes.double(), t.labels, t.masks) for t in batch.targets]
    return replace(batch, images=batch.images.double(), targets=targets)


def followed(processes, steps):
    """Losses of each step and the last weights, the images shared by the processes."""
    settings = replace(SMALL, drop_path=0.0, checkpointing=True, layer_decay=0.8)
    detector = small_detector(settings=settings).double().train()
    network = wrap_student(detector, processes, CPU)
    optimizer = torch.optim.AdamW(parameter_groups(detector, settings), lr=1e-3)
    losses = []
    for step in range(steps):
        numbers = tuple(range(4 * step, 4 * step + 4))[processes.rank :: processes.world_size]
        batch: Batch = equal_images(numbers)
        total = torch.stack(list(network(batch, Draws(0, step)).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses, detector.state_dict()


def compare(tmp_path, steps):
    """Two processes with half of the images each, and one with all."""

    def work(rank):
        processes = init_processes(CPU)
        torch.save(followed(processes, steps), tmp_path / f"{rank}.pt")
        shutdown()

    whole, weights = followed(Processes(), steps)
    codes, errors = run_forked(work, tmp_path, seconds=300)
    assert codes == [0, 0], errors
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert means == pytest.approx(whole, rel=1e-5) and first != pytest.approx(second, rel=1e-3)
    assert whole[-1] != pytest.approx(whole[0], rel=0.01)  # it trains
    for name, tensor in weights.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_for_20_steps(tmp_path):
    compare(tmp_path, steps=20)


def trained(coco, folder, micro_batch, processes):
    """Mean loss and the detections of a training of 4 images per step, of all shapes."""
    settings = replace(
        SMALL,
        **{"short": 64, "long": 107, "drop_path": 0.4, "precision": "float32", "samples": 8},
        **{"batch": 4, "micro_batch": micro_batch, "steps": 2, "checkpoint_steps": 1},
    )
    train, val = open_coco(str(coco))
    detector = small_detector(num_classes=len(train.categories), settings=settings)
    plan = plan_training(train, settings, processes.world_size)
    assert plan.together == 4
    result = train_detector(
        detector, train, val, plan, device=CPU, folder=folder, masks=True, processes=processes
    )
    return result.train_loss, result.found.results


def test_a_set_is_shared_without_changing_what_is_learned(tmp_path):
    coco = write_coco(tmp_path / "coco", train=8, val=2)
    loss, found = trained(coco, tmp_path / "one", 4, Processes())

    def work(rank):
        processes = init_processes(CPU)
        torch.save(trained(coco, tmp_path / "two", 2, processes), tmp_path / f"{rank}.pt")
        shutdown()

    codes, errors = run_forked(work, tmp_path, seconds=300)
    assert codes == [0, 0], errors
    shared, same = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    # Sums in another order. Images of other sizes would be padded otherwise in each process.
    assert shared == same and shared[0] == pytest.approx(loss, rel=1e-6)
    assert len(shared[1]["bbox"]) == len(found["bbox"])
    identities = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["identity"]
        for name in ("one", "two")
    ]
    assert identities[0] == identities[1]  # either goes on with what the other began
