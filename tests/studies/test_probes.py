"""What is evaluated during a training, by its data and settings."""

import numpy as np
import pytest
import torch
from PIL import Image
from several import run_forked

from ibot.config.override import apply
from ibot.config.resolve import check
from ibot.data.scenes import write_folder
from ibot.data.sets.open import open_images
from ibot.errors import ConfigError, DataError, TrainingStopped, UserError
from ibot.eval.probes import during_training
from ibot.method.model import StudentTeacher
from ibot.recipes import recipe
from ibot.studies.probes import Evaluated, probes
from ibot.system.distributed import joined

CPU = torch.device("cpu")
SMALL = [
    *("model.width=24", "model.depth=1", "model.heads=3", "model.patch=4"),
    *("head.out_dim=16", "head.patch_out_dim=16", "head.hidden_dim=16", "head.bottleneck_dim=8"),
    *("evaluate.match=12", "train.batch=8"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Labelled scenes, some of them without labels, and two bands of colour with label maps."""
    folder = tmp_path_factory.mktemp("world")
    write_folder(folder / "scenes", train=20, val=20, size=32)
    (folder / "flat").mkdir()
    for i, file in enumerate(sorted((folder / "scenes").glob("train/*/*.png"))):
        (folder / "flat" / f"{i}.png").write_bytes(file.read_bytes())
    for part in ("train", "val"):
        for place in (part, f"{part}annot"):
            (folder / "maps" / place).mkdir(parents=True)
        for i in range(3):
            labels = np.zeros((24, 40), np.uint8)
            labels[:, 8 * i + 8 :] = 1
            pixels = np.where(labels[..., None] == 0, (220, 30, 30), (20, 90, 200))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "maps" / part / f"{i}.png")
            Image.fromarray(labels).save(folder / "maps" / f"{part}annot" / f"{i}.png")
    return folder


def made(world, data, *settings):
    """The evaluation for a folder of the world, its teacher's backbone, and what was said."""
    said = []
    config = apply(recipe("tiny32"), [f"data.path={world / data}", *SMALL, *settings])
    torch.manual_seed(0)
    backbone = StudentTeacher(config).teacher.backbone
    evaluated = Evaluated.of(config, open_images(str(world / data)), said.append)
    return probes(config, evaluated, CPU, said.append), backbone, said


def test_patches_are_evaluated_without_labels_and_k_nn_with_them(world):
    evaluate, backbone, _ = made(world, "flat")
    (alone,) = evaluate(backbone, 3)
    assert (alone.metric, alone.step, alone.settings["images"]) == ("match_r1", 3, 12)
    assert alone.data["root"] == str(world / "flat") and 0 < alone.value <= 100
    assert alone.interval[0] <= alone.value <= alone.interval[1] and alone.extra["chance"] > 0
    evaluate, backbone, _ = made(world, "scenes", f"evaluate.dense_data={world / 'maps'}")
    records = {record.metric: record for record in evaluate(backbone, 0)}
    assert list(records) == ["knn_top1", "match_r1", "dense_knn_miou"]
    assert records["match_r1"].data["root"] == str(world / "scenes" / "val")
    dense = records["dense_knn_miou"]
    assert dense.value > 70 and (dense.num_train, dense.num_val) == (3, 3)
    assert dense.extra["compared_at"] == "24 x 40"
    assert made(world, "flat", "evaluate.match=0")[0] is None


def test_an_evaluation_repeats_itself_and_leaves_the_network_and_random_numbers_alone(world):
    evaluate, backbone, _ = made(world, "scenes", f"evaluate.dense_data={world / 'maps'}")
    backbone.train()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = evaluate(backbone, 1)
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert [record.value for record in first] == [r.value for r in evaluate(backbone, 1)]


def test_label_maps_that_cannot_be_used_stop_a_training_before_it_begins(world):
    with pytest.raises(DataError, match="no folder of images with label maps"):
        made(world, "flat", f"evaluate.dense_data={world / 'flat'}")
    with pytest.raises(ConfigError, match=r"evaluate\.match=-1"):
        check(apply(recipe("tiny32"), ["evaluate.match=-1"]))


def test_images_of_which_nothing_can_be_matched_are_no_reason_not_to_train(tmp_path, caplog):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(b"no image")
    evaluate, backbone, _ = made(tmp_path, "flat")
    assert evaluate(backbone, 0) == [] and "match is not measured" in caplog.text


def test_outputs_that_are_not_finite_stop_the_training(world):
    evaluate, backbone, _ = made(world, "flat")
    with torch.no_grad():
        backbone.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingStopped, match="not finite at step 5"):
        evaluate(backbone, 5)


def test_two_processes_find_what_one_finds_and_must_evaluate_the_same(world, tmp_path):
    given = made(world, "scenes", f"evaluate.dense_data={world / 'maps'}")
    want = [record.value for record in given[0](given[1], 0)]

    def work(rank):
        torch.set_num_threads(1)  # those of the parent do not survive the fork
        with joined(CPU):
            evaluate, backbone, _ = made(world, "scenes", f"evaluate.dense_data={world / 'maps'}")
            if [record.value for record in evaluate(backbone, 0)] != pytest.approx(want, abs=1e-4):
                return 3
            other = during_training.in_turn({"a" if rank else "b": lambda backbone, step: []})
            try:
                other(backbone, 0)
            except UserError as error:
                return 0 if "what is evaluated" in error.what else 4
        return 5

    codes, said = run_forked(work, tmp_path)
    assert codes == [0, 0], said
