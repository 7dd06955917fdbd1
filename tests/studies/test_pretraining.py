"""What a training says at its end."""

from pathlib import Path

import pytest
import torch
from blobs import blobs, save

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.data.sets.open import open_images
from ibot.recipes import recipe
from ibot.studies.pretraining import devices, say_next


@pytest.mark.parametrize(("classes", "measure"), [((), "match"), (("a", "b"), "knn")])
def test_what_needs_labels_is_proposed_where_there_are_some(tmp_path, classes, measure):
    for i, place in enumerate(classes or ("", "")):
        save(tmp_path / place / f"{i}.png", blobs(i, 40, 36))
    source = open_images(str(tmp_path))
    derived = derive(apply(recipe("tiny64"), ["train.max_steps=3"]), 1280)
    said = []
    say_next(Path("my run"), source, 3, derived, "--steps", said.append)
    assert said[0].startswith(f"next: ibot eval {measure} 'my run' --data DIR")
    assert said[1].endswith("the same command without --steps goes on")


def test_devices_are_said_with_their_machines_of_many_the_first():
    cpu = torch.device("cpu")
    assert devices(cpu, 2, ["vm"]) == "2 x CPU on vm"
    nodes = [f"node{i}" for i in range(1, 7)]
    assert devices(cpu, 48, nodes) == "48 x CPU on node1, node2, node3, node4 and 2 more"
