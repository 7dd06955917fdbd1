import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from commands import ibot

from ibot.cli.main import main
from ibot.config.override import apply
from ibot.config.resolve import check
from ibot.data.scenes import write_folder
from ibot.recipes import recipe
from ibot.recipes.ablations import ABLATIONS
from ibot.studies import ablation
from ibot.studies.ablation import make_jobs
from ibot.studies.measured import knn_by_step
from ibot.system.jsonl import append_jsonl

SMALL = [
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=16",
    "head.bottleneck_dim=8",
    "train.batch=8",
    "train.length=2 steps",
    "augment.num_local=1",
    "evaluate.match=0",
    "system.workers=0",
    "evaluate.k=3",
]


@pytest.mark.parametrize(
    ("name", "row"), [(n, r) for n, table in ABLATIONS.items() for r in table.rows]
)
def test_every_row_is_a_valid_change_of_the_paper_s_base(name, row):
    check(apply(recipe("ablation_base"), row.settings))


@pytest.mark.parametrize("name", ABLATIONS)
def test_rows_over_a_recipe_of_ours_are_of_the_paper_s_patch_loss(name, tmp_path):
    """`tiny32` adds losses on visible patches, which no row of the paper has, and most refuse."""
    shared = ["method.tokenizer=run"]
    for job in make_jobs(
        ABLATIONS[name], tmp_path, recipe="tiny32", data="x", seeds=[0], shared=shared
    ):
        settings = [word for word in job.command if "." in word.split("=")[0] and "=" in word]
        config = apply(recipe("tiny32"), settings)
        check(config)
        assert config.method.visible_weight == 0 and not config.method.patch_residual
        if "class loss alone" in job.row.name:
            assert config.method.patch_weight == 0


def test_the_published_row_of_a_table_is_the_base_itself():
    base = recipe("ablation_base")
    for name, row in (
        ("tokenizer", 0),
        ("heads", 4),
        ("dense", 3),
        ("center", 5),
        ("loss_ratio", 1),
        ("prototypes", 1),
    ):
        assert apply(base, ABLATIONS[name].rows[row].settings) == base, name


def test_the_list_holds_one_command_per_row_and_seed(capsys):
    assert (
        main(
            [
                "ablate",
                "loss_ratio",
                "--data",
                "photos",
                "--seeds",
                "0,1",
                "--epochs",
                "5",
                "--list",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and len(set(lines)) == 6
    assert lines[0].startswith(
        "ibot pretrain ablation_base --data photos --run runs/ablate-loss_ratio/0.5-s0 --seed 0"
    )
    assert all("--epochs=5" in line and "method.patch_weight=" in line for line in lines)


def test_the_list_without_images_says_where_they_go(capsys):
    assert main(["ablate", "loss_ratio", "--list"]) == 0
    assert all(" --data DIR --run " in line for line in capsys.readouterr().out.splitlines())


def test_names_and_titles_of_the_tables_stand_apart(capsys):
    assert main(["ablate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ABLATIONS)


@pytest.fixture
def here(monkeypatch):
    """Trainings of a table run in this process."""
    monkeypatch.setattr(
        ablation, "_finished", lambda command: (ibot(*command[3:]).returncode, False)
    )


def test_a_table_is_run_resumed_and_printed(here, tmp_path):
    write_folder(tmp_path / "data", train=40, val=20, seed=0, size=32)
    command = [
        "ablate",
        "loss_ratio",
        "--data",
        str(tmp_path / "data"),
        "--recipe",
        "tiny32",
        "--run",
        str(tmp_path / "runs"),
        *SMALL,
    ]
    assert main(command) == 0
    table = (tmp_path / "runs" / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["0.5", "1", "2"]
    assert [row.split("|")[2].strip() for row in rows[1:]] == ["68.7", "69.1", "69.4"]
    assert (
        all(float(row.split("|")[5].split()[0]) >= 0 for row in rows[1:])
        and "Random network" in table
    )
    assert main(command) == 0 and (tmp_path / "runs" / "table.md").read_text() == table
    events = (tmp_path / "runs" / "1-s0" / "events.jsonl").read_text()
    assert events.count('"start"') == 2 and events.count('"end"') == 1, (
        "a finished row is not trained again"
    )


@pytest.mark.parametrize(
    "option", ["--steps=0", "--steps=-3", "--epochs=0", "--epochs=nan", "--seeds=0,-1"]
)
def test_a_number_that_makes_no_run_is_refused(option, capsys):
    assert main(["ablate", "heads", "--data", "photos", "--list", option]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith(
        f"ibot: error: {option.partition('=')[0]}: expected a "
    )


def test_an_unknown_table_and_a_failing_row_are_user_errors(here, tmp_path, capsys):
    assert main(["ablate", "tokeniser", "--data", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "heads" in printed.out and "did you mean tokenizer?" in printed.err
    assert main(["ablate", "heads"]) == 2
    assert (
        main(["ablate", "heads", "--data", str(tmp_path / "absent"), "--run", str(tmp_path / "r")])
        == 2
    )


@pytest.mark.parametrize(
    ("ended", "heard", "code", "words"),
    [
        (75, True, 75, "stopped by a signal"),  # it saved and ended
        (0, True, 75, "stopped by a signal"),  # it was done
        (130, True, 130, ""),  # it said so
        (-signal.SIGTERM, True, 143, ""),  # before it could decide
        (-signal.SIGKILL, False, 4, "'0.5', seed 0 was killed"),
        (-signal.SIGSEGV, False, 1, "'0.5', seed 0 was ended by SIGSEGV"),
        (3, False, 3, "'0.5', seed 0 failed"),
    ],
)
def test_a_row_that_does_not_reach_its_end_ends_the_table(
    tmp_path, monkeypatch, capsys, ended, heard, code, words
):
    monkeypatch.setattr(ablation, "_finished", lambda command: (ended, heard))
    assert (
        main(["ablate", "loss_ratio", "--data", str(tmp_path), "--run", str(tmp_path / "runs")])
        == code
    )
    printed = capsys.readouterr()
    assert words in printed.out + printed.err and "[2/3]" not in printed.out
    assert not (tmp_path / "runs" / "table.md").exists()


def test_a_row_that_was_stopped_by_a_signal_of_its_own_is_not_finished(
    tmp_path, monkeypatch, capsys
):
    def stopped(command):
        folder = Path(command[command.index("--run") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        append_jsonl(folder / "events.jsonl", {"event": "stopped by signal"})
        return 75, False

    monkeypatch.setattr(ablation, "_finished", stopped)
    for _ in range(2):
        assert (
            main(["ablate", "loss_ratio", "--data", str(tmp_path), "--run", str(tmp_path / "runs")])
            == 75
        )
        assert (
            "stopped by a signal" in capsys.readouterr().out
            and not (tmp_path / "runs" / "table.md").exists()
        )


def test_a_signal_to_the_command_alone_reaches_its_training(tmp_path):
    def stop_when_it_runs():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_it_runs, daemon=True).start()
    training = f"trap 'exit 7' TERM; touch '{tmp_path}/ready'; while true; do sleep 0.05; done"
    assert ablation._finished(["sh", "-c", training]) == (7, True)
    assert ablation._finished(["sh", "-c", "kill -KILL $$"]) == (-9, False)


def test_a_line_torn_by_a_crash_does_not_hide_the_results_before_it(tmp_path):
    row = {"protocol": "knn", "metric": "knn_top1", "value": 1.0, "settings": {}}
    row["extra"] = {"step": 0, "effective_rank": 2.0}  # as older versions left it
    (tmp_path / "results.jsonl").write_text(f'{json.dumps(row)}\n{{"metric": "knn_t')
    assert knn_by_step(tmp_path) == [(0, 1.0, 2.0)] and knn_by_step(tmp_path / "absent") == []
