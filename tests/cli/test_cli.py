"""The command as a person runs it; where the process is the point, in one of its own."""

import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ibot, ibot_apart, start_ibot, start_script
from pages import Page
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two classes that any network tells apart."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 6)):
        for name, level in (("dark", 40), ("light", 200)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = (level + rng.normal(0, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


SMALL = [
    "train.batch=8",
    "model.depth=1",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "log.every=2",
    "system.workers=0",
]


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = ibot_apart(
        "pretrain",
        "tiny32",
        "--data",
        labelled,
        "--run",
        folder,
        "--steps",
        4,
        "--device",
        "cpu",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_pretrain_says_what_it_does_and_where_the_results_are(run):
    folder, output = run
    assert (
        "40 images" in output
        and "peak learning rate" in output
        and "batch 8 = 1 process x 8" in output
    )
    assert "beyond the paper" in output and "KoLeo" in output and "Sinkhorn" in output
    assert "step 0: knn_top1" in output and "step 4/4" in output and "next: ibot eval knn" in output
    assert json.loads((folder / "config.json").read_text())["train"]["max_steps"] == 4
    assert len(Page(folder / "report.html").images()) == 4 * 4, "what it makes of four images"


def test_knn_on_the_run_prints_every_k_and_keeps_a_record(run, labelled):
    folder, _ = run
    done = ibot("eval", "knn", folder, "--data", labelled, "--device", "cpu")
    assert (
        done.returncode == 0
        and "k = 10" in done.stdout
        and "k is at most the 40 training images" in done.stdout
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("k = ")]
    assert [line[2] for line in lines] == ["10", "20", "40"] and float(lines[0][3]) == 100.0
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert {row["settings"]["k"] for row in rows if row["weights"]} == {10, 20, 40}


def test_a_killed_loader_process_is_a_lack_of_resources_not_a_bug(labelled, tmp_path):
    """In a process of its own: torch raises wherever the main thread is when a worker dies."""
    code = f"""
import multiprocessing, sys
from ibot.cli.main import main
from ibot.engine import transfer
plain = transfer.to_device
def kill_then_move(batch, *where):
    for child in multiprocessing.active_children():
        child.kill()
    return plain(batch, *where)
transfer.to_device = kill_then_move
sys.exit(main(["pretrain", "tiny32", "--data", {str(labelled)!r}, "--device", "cpu",
               "--run", {str(tmp_path / "run")!r}, *{SMALL!r},
               "system.workers=2", "train.length=400 steps"]))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = start_script(script).ended()
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    assert "loader process was killed" in done.stderr and "system.workers" in done.stderr


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_features_are_written_with_names(run, labelled, tmp_path, suffix):
    folder, _ = run
    out = tmp_path / "new" / "folder" / f"f.{suffix}"
    done = ibot(
        "features", folder, "--data", labelled / "val", "--out", out, "--patches", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    if suffix == "npz":
        stored = np.load(out, allow_pickle=False)
        assert stored["cls"].shape == (12, 128) and stored["patches"].shape == (12, 16, 128)
        assert stored["names"][0] == "dark/0.png" and stored["labels"].tolist() == [0] * 6 + [1] * 6
    else:
        from safetensors import safe_open

        with safe_open(out, "np") as stored:
            assert json.loads(stored.metadata()["names"])[-1] == "light/5.png"


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["pretrain", "tiny32", "--data", "missing"], "there is no folder 'missing'", "--data"),
        (["pretrain", "tiny32", "--data", "empty"], "no images found under 'empty'", "extensions"),
        (["pretrain", "tiny32"], "no data folder given", "--data DIR"),
        (["pretrain", "tiny23", "--data", "x"], "unknown recipe 'tiny23'", "did you mean tiny32"),
        (
            ["pretrain", "tiny32", "--data", "x", "train.batsch=3"],
            "unknown setting 'train.batsch'",
            "train.batch",
        ),
        (
            ["pretrain", "tiny32", "--data", "x", "train.batch=three"],
            "wrong type",
            "train.batch=64",
        ),
        (
            ["pretrain", "tiny32", "--data", "x", "model.heads=7"],
            "not a multiple of model.heads",
            "change",
        ),
        (
            ["pretrain", "tiny32", "--data", "{data}", "--device", "cuda:99", "train.batch=8"],
            "device 'cuda:99' is not there",
            "cpu",
        ),
        (
            ["pretrain", "tiny32", "--data", "{data}", "train.batch=64"],
            "larger than the data set of 40",
            "train.batch=32",
        ),
        (["eval", "knn", "missing", "--data", "{data}"], "no file or folder 'missing'", "path"),
        (["pretrain", "adapt", "--data", "{data}"], "goes on from weights", "--init"),
        (
            ["eval", "knn", "{run}", "--data", "empty"],
            "no images found under 'empty'",
            "extensions",
        ),
        (
            ["features", "{run}", "--data", "{data}", "--out", "x.txt"],
            "cannot write features as '.txt'",
            ".npz",
        ),
        (["recipes", "show", "vit_s61"], "unknown recipe", "vit_s16"),
        (["pretrain"], "required: RECIPE, or --run", "ibot pretrain auto --data DIR"),
        (
            ["pretrain", "tiny32", "--data", "{data}", "train.seed=-1"],
            "train.seed=-1 must not be negative",
            "change",
        ),
        (["doctor", "k=3"], "unrecognized arguments: k=3", "ibot doctor --help"),
        (
            ["pretrain", "tiny32", "--data", "x", "--batch", "4"],
            "arguments: --batch 4",
            "write train.batch=4\n",
        ),
        (
            ["pretrain", "tiny32", "--data", "x", "--batch=4"],
            "arguments: --batch=4",
            "write train.batch=4\n",
        ),
        (
            ["plan", "auto", "--train.batch", "4", "--data", "x"],
            "--train.batch 4",
            "write train.batch=4\n",
        ),
        (["pretrain", "tiny32", "--out-dim"], "--out-dim", "write head.out_dim=VALUE\n"),
        (["pretrain", "tiny32", "--nothing", "4"], "--nothing 4", "ibot pretrain --help"),
        (
            ["eval", "linear", "{run}", "--data", "x", "--epochs", "4"],
            "--epochs 4",
            "write epochs=4\n",
        ),
        (["eval", "knn", "{run}", "--data", "x", "--k", "5"], "--k 5", "write k=5\n"),
        (
            ["eval", "linear", "{run}", "--data", "x", "--clip", "4"],
            "--clip 4",
            "ibot eval linear --help",
        ),
        (
            ["eval", "knn", "{run}", "--data", "x", "--again"],
            "arguments: --again",
            "belongs to ibot eval all",
        ),
        (["evl", "knn"], "invalid choice: 'evl'", "did you mean eval?   ibot --help"),
        (["eval", "kn", "{run}"], "invalid choice: 'kn'", "did you mean knn?   ibot eval --help"),
        (
            ["weights", "export", "{run}", "--to", "tim", "--out", "x"],
            "choice: 'tim'",
            "did you mean timm? ",
        ),
    ],
)
def test_mistakes_get_a_cause_and_a_remedy_and_change_nothing(
    run, labelled, tmp_path, arguments, message, remedy
):
    (tmp_path / "empty").mkdir()
    filled = [a.replace("{data}", str(labelled)).replace("{run}", str(run[0])) for a in arguments]
    done = ibot(*filled, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and remedy in done.stderr
    assert done.stderr.startswith("ibot: error:")
    left = {
        p.relative_to(tmp_path).as_posix()
        for p in tmp_path.rglob("*")
        if p.is_file() and p.name != "lock"
    }
    assert left <= {p for p in left if p.startswith("runs/") and "checkpoints" not in p}


def test_a_run_folder_of_other_settings_is_refused_and_kept(run, labelled):
    folder, _ = run
    before = {
        p: p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in (".json", ".safetensors")
    }
    done = ibot(
        "pretrain",
        "tiny32",
        "--data",
        labelled,
        "--run",
        folder,
        *SMALL,
        "optim.lr=1",
        "--device",
        "cpu",
    )
    assert (
        done.returncode == 2
        and "other settings" in done.stderr
        and "optim.lr: 0.006 -> 1" in done.stderr
    )
    assert all(p.read_bytes() == content for p, content in before.items())


def test_labels_that_do_not_fit_are_no_reason_not_to_train(labelled, tmp_path):
    data = tmp_path / "data"
    for name in ("dark", "other"):
        (data / "test" / name).mkdir(parents=True)
        (data / "test" / name / "1.png").write_bytes(
            (labelled / "val" / "dark" / "1.png").read_bytes()
        )
    (data / "train").symlink_to(labelled / "train")
    done = ibot(
        "pretrain",
        "tiny32",
        "--data",
        data,
        "--run",
        tmp_path / "r",
        "--steps",
        1,
        "--device",
        "cpu",
        *SMALL,
    )
    assert done.returncode == 0 and "note   no k-NN during training" in done.stdout
    done = ibot(
        "pretrain",
        "tiny32",
        "--data",
        data,
        "--val-data",
        data / "test",
        "--run",
        tmp_path / "s",
        *SMALL,
    )
    assert done.returncode == 2 and "different classes" in done.stderr


def test_default_warm_ups_are_clipped_in_a_short_run_and_it_says_so(labelled, tmp_path):
    short = [
        "--epochs",
        3,
        "--steps",
        1,
        "model.width=32",
        "model.heads=2",
        "model.depth=1",
        "head.hidden_dim=32",
        "augment.num_local=1",
    ]
    done = ibot(
        "pretrain",
        "vit_s16",
        "--data",
        labelled,
        "--run",
        tmp_path / "r",
        *short,
        *SMALL,
        "--device",
        "cpu",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("clipped to") == 2 and "optim.warmup = 10 epochs" in done.stdout


def test_ctrl_c_saves_and_ends_with_130_and_no_traceback(labelled, tmp_path):
    run = tmp_path / "run"
    command = ["pretrain", "tiny32", "--data", labelled, "--run", run, "--device", "cpu", *SMALL]
    process = start_ibot(*command, "train.length=100000 steps")
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").is_file():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    done = process.ended(60)
    assert done.stderr == "interrupted\n" and done.returncode == 130
    assert (run / "checkpoints" / "last").is_file(), "the step was saved"


@pytest.mark.parametrize("command", ["pretrain", "plan"])
@pytest.mark.parametrize("steps", [0, -3])
def test_a_limit_below_one_step_is_refused(labelled, tmp_path, command, steps):
    done = ibot(
        command, "tiny32", "--data", labelled, "--run", tmp_path / "r", f"--steps={steps}", *SMALL
    )
    assert (
        done.returncode == 2
        and f"--steps: expected a whole number of at least 1, not '{steps}'" in done.stderr
    )
    assert not (tmp_path / "r").exists()


def logged(folder):
    """The lines of a run's log, without their times."""
    return [line.partition("  ")[2] for line in (folder / "log.txt").read_text().splitlines()]


def test_a_run_stopped_by_steps_says_what_is_left_and_goes_on_without(labelled, tmp_path):
    folder = tmp_path / "run"
    command = [
        "pretrain",
        "tiny32",
        "--data",
        labelled,
        "--run",
        folder,
        "--device",
        "cpu",
        *SMALL,
        "train.length=6 steps",
    ]
    done = ibot(*command, "--steps", 4)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == "2 of 6 steps of the schedule are left: the same command without --steps goes on"
    assert f"Weights: {folder}\n" in done.stdout
    assert f"\ndevice 1 x CPU on {socket.gethostname()}\n" in done.stdout
    assert logged(folder) == done.stdout.splitlines()
    for steps in (3, 4):
        again = ibot(*command, "--steps", steps)
        assert (
            again.returncode == 0
            and f"already at step 4: nothing to do (--steps {steps})" in again.stdout
        )
        assert "done:" not in again.stdout and again.stdout.splitlines()[-1] == last
        assert logged(folder)[-len(again.stdout.splitlines()) :] == again.stdout.splitlines()
    named = ibot(*command, "train.max_steps=3")
    assert (
        "nothing to do (train.max_steps 3)" in named.stdout
        and "without train.max_steps goes on" in named.stdout
    )
    other = ibot(*command, "--steps", 4, "optim.lr=1")
    assert other.returncode == 2 and "other settings" in other.stderr
    # The run's own config.json holds the limit of the first call; it is no part of the recipe.
    own = ibot("pretrain", folder / "config.json", "--data", labelled, "--run", folder)
    assert own.returncode == 0 and "done: 6 steps" in own.stdout and "are left" not in own.stdout
    assert "already at step 6: nothing to do (the schedule has 6 steps)" in ibot(*command).stdout
