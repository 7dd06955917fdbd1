"""What needs no images and no run: help, recipes, the machine, what `import ibot` offers."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import ibot

from ibot.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("group", [[], ["recipes"], ["weights"], ["eval"]])
def test_without_a_command_s_name_the_help_is_shown(group, capsys):
    with pytest.raises(SystemExit) as ended:
        main(group)
    shown = capsys.readouterr()
    assert ended.value.code == 2 and not shown.out
    assert (
        shown.err.startswith(f"usage: {' '.join(['ibot', *group])} ") and "error" not in shown.err
    )


def test_help_and_import_do_not_load_heavy_packages():
    code = (
        "import sys, ibot; from ibot.cli.main import build_parser; build_parser().format_help()\n"
        "print([n for n in ('torch', 'torchvision', 'numpy', 'PIL', 'rich', 'matplotlib') if n in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_can_be_listed_shown_and_compared():
    assert "vit_l16_rand" in ibot("recipes", "list").stdout
    shown = ibot("recipes", "show", "vit_b16").stdout
    assert any(line.split() == ["optim.clip=0.3", "T"] for line in shown.splitlines())
    compared = ibot("recipes", "diff", "vit_b16", "vit_b16_rand").stdout
    assert "mask.shape" in compared and "model.width" not in compared


def test_own_recipes_too_say_where_their_values_come_from():
    """What they took from a publication has its mark, what is theirs another one."""
    lines = [line.split() for line in ibot("recipes", "show", "one_gpu").stdout.splitlines()]
    assert ["augment.num_local=10", "R,P"] in lines and ["method.momentum=0.992", "o"] in lines


def test_doctor_names_the_machine():
    done = ibot("doctor")
    assert done.returncode == 0 and "torch" in done.stdout and "device" in done.stdout


def test_the_first_command_for_own_images_is_the_same_everywhere():
    for text in (ibot("--help").stdout, ibot("doctor").stdout, (ROOT / "README.md").read_text()):
        assert "ibot pretrain auto --data" in text and "ibot pretrain tiny32" not in text


def test_the_lazy_interface_offers_the_main_functions():
    import ibot as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018
