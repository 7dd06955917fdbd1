"""Job scripts as `ibot launch slurm` makes them; tests/system/test_cluster.py runs them."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ibot.cli.launch import words_of
from ibot.cli.main import build_parser, main
from ibot.cli.parser import check_words
from ibot.config.override import to_plain
from ibot.recipes import recipe
from ibot.system.slurm import seconds_of

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
RUN = ["vit_b16", "--data", "photos", "--run", "runs/vit_b16"]


def read(*words):
    options, extra = build_parser().parse_known_args(words)
    check_words(options, extra)
    return options


def launched(capsys, *words):
    assert main(["launch", "slurm", *words]) == 0
    return capsys.readouterr().out


def test_the_scripts_of_the_page_are_what_the_command_prints(capsys):
    scripts = re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M)
    (command,) = re.findall(r"^ibot launch slurm (.*) > job.sh$", PAGE, re.M)
    words = shlex.split(command)
    assert launched(capsys, *words) == scripts[0]
    assert launched(capsys, *words, "--nodes", "2") == scripts[1]


def test_options_of_the_job_go_to_slurm_and_the_others_to_the_training(capsys):
    more = ["--nodes", "3", "--gpus-per-node", "4", "--time", "2-12", "--cpus-per-task", "6"]
    more += ["--sbatch", "partition=long", "--sbatch=--qos=high", "train.batch=96", "--epochs", "3"]
    run = ["vit_s16", "--data", "my photos", "--run", "runs/a b", "--init", "ibot:vit_s16"]
    lines = launched(capsys, *run, *more, "--seed", "3", "--accept-images").splitlines()
    wanted = ["nodes=3", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=6", "time=2-12"]
    for option in (*wanted, "partition=long", "qos=high", "job-name='a b'"):
        assert f"#SBATCH --{option}" in lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    inside = read(*shlex.split(srun)[2:])
    outside = read("launch", "slurm", *run, *more, "--seed", "3", "--accept-images")
    assert "--epochs 3 " in srun  # as it was written
    assert inside.command == "ibot pretrain" and inside.data == "my photos" and inside.seed == 3
    assert inside.settings == ["train.batch=96"] and inside.accept_images and inside.run_folder
    assert words_of(inside) == words_of(outside)


def test_every_script_gives_tasks_the_cores_of_the_job(capsys):
    """Since SLURM 22.05 srun does not take them from the job."""
    for more in ([], ["--nodes", "2"], ["--gpus-per-node", "0"], ["--cpus-per-task", "3"]):
        lines = launched(capsys, *RUN, *more).splitlines()
        at = lines.index('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"')
        assert lines[at + 1].startswith("srun ibot pretrain ")
        assert any(line.startswith("#SBATCH --cpus-per-task=") for line in lines)


def test_what_is_assumed_of_a_node_is_said_beside_the_script(capsys):
    said = "note   8 GPUs a node: --gpus-per-node N for others\n"
    for more, noted in (([], said), (["--gpus-per-node", "8"], ""), (["--quiet"], "")):
        assert main(["launch", "slurm", *RUN, *more]) == 0
        assert capsys.readouterr().err == noted


def test_a_quiet_job_trains_quietly(capsys):
    assert "srun ibot pretrain vit_b16 --data photos --run runs/vit_b16 --quiet\n" in launched(
        capsys, *RUN, "--quiet"
    )


def test_without_gpus_there_is_a_process_for_each_node(capsys):
    script = launched(capsys, *RUN, "--gpus-per-node", "0", "--nodes", "4")
    assert "#SBATCH --ntasks-per-node=1\n" in script and "gpus" not in script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vit_b16", "--data", "photos"], "needs the folder of its run"),
        (["vit_b16", "--run", "runs/new"], "a new run needs images"),
        ([*RUN, "--nodes", "3"], "train.batch=1024 cannot be shared equally"),
        ([*RUN, "--time", "soon"], "--time soon is no time of SLURM"),
        ([*RUN, "--time", "6"], "--time 6 leaves no time to train"),
        (["vit_b17", *RUN[1:]], "unknown recipe 'vit_b17'"),
        (["auto", *RUN[1:], "model.depht=3"], "model.depht"),
        ([*RUN, "model.depths=3"], "model.depths"),
        ([*RUN, "model.depht=3"], "model.depth"),
        ([*RUN, "--gpus", "two"], "two"),
    ],
)
def test_what_would_fail_when_its_turn_comes_is_refused_at_once(capsys, words, said):
    if "model.depths=3" in words:
        words = [*words, "model.kind=swin"]
    assert main(["launch", "slurm", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("6", 360), ("6:1", 361), ("0:6:0", 360), ("1-0", 86_400), ("1-2:3:4", 93_784), ("0", 0)],
)
def test_times_are_read_as_slurm_reads_them(capsys, time, seconds):
    assert seconds_of(time) == seconds
    at_once = 0 < seconds <= 360
    assert main(["launch", "slurm", *RUN, "--time", time]) == (2 if at_once else 0)
    assert f"--time={time}\n" in launched(
        capsys, *RUN, "--time", time, "--sbatch", "signal=USR1@60"
    )


def test_a_run_that_exists_is_checked_by_its_own_settings(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "vit_b16"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_plain(recipe("vit_b16"))))
    assert "srun ibot pretrain --run runs/vit_b16\n" in launched(capsys, *RUN[3:])
    assert main(["launch", "slurm", *RUN[3:], "--nodes", "3", "--gpus-per-node", "1"]) == 2
    said = capsys.readouterr().err
    assert "train.batch=1024 cannot be shared equally" in said
    assert "the run keeps its batch: start 2 or 4 processes" in said and "make train" not in said


@pytest.mark.parametrize("text", [b"", b'{"train": ', b"[]", b"\xff\xfe"])
def test_a_run_whose_settings_cannot_be_read_is_refused_in_words(capsys, tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    assert main(["launch", "slurm", "--run", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_submit_hands_the_script_to_sbatch(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "slurm", *RUN, "--submit"]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err
    sbatch = tmp_path / "sbatch"
    code = "import sys; open('taken', 'w').write(sys.stdin.read()); print('Submitted 7')"
    sbatch.write_text(f"#!{sys.executable} -IS\n{code}\n")
    sbatch.chmod(0o755)
    assert launched(capsys, *RUN, "--submit") == "Submitted 7\n"
    script = (tmp_path / "taken").read_text()
    assert script == launched(capsys, *RUN)
    assert subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=False).returncode == 0
    sbatch.write_text(f"#!{sys.executable} -IS\nimport sys; sys.exit('no such partition')\n")
    assert main(["launch", "slurm", *RUN, "--submit"]) == 4
    assert "no such partition" in capsys.readouterr().err
