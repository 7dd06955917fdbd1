"""Which fast paths run, and what a run says of it."""

import threading

import pytest
import torch

from ibot.errors import UserError
from ibot.kernels import library
from ibot.kernels.choice import chosen, using


def test_a_path_runs_where_nothing_is_lacking_and_the_log_says_how_and_why_not():
    with using("auto") as choices:
        assert chosen("losses", "Triton") and chosen("packing")
        assert not chosen("attention", lacks="no compiler") and not chosen("compile", unfit="short")
        assert not chosen("losses", unfit="one view")  # of one call: others took it
    assert choices.text() == (
        "kernels: losses (Triton), packing; not attention, no compiler; not compile, short"
    )
    with using("auto") as choices:
        assert choices.text() == "kernels: none"


def test_the_log_has_the_same_line_whichever_path_ran_first():
    """A resumed run makes no evaluation before its first step."""
    said = []
    for names in (("blocks", "losses", "packing"), ("losses", "packing", "blocks")):
        with using("auto") as choices:
            assert all(chosen(name) for name in names)
            for name in reversed(names):
                chosen(f"other {name}", unfit="short")
        said.append(choices.text())
    assert said[0] == said[1] and said[0].startswith(
        "kernels: blocks, losses, packing; not other b"
    )


def test_reference_takes_the_plain_forms_alone():
    with using("reference") as choices:
        assert not chosen("losses", "Triton")
    assert choices.text() == "kernels: the plain forms alone (system.kernels=reference)"


def test_require_refuses_what_the_machine_lacks_but_not_what_does_not_fit():
    with using("require"):
        assert chosen("losses") and not chosen("losses", unfit="hard labels", lacks="no GPU")
        with pytest.raises(UserError, match="fast losses cannot run here") as error:
            chosen("losses", "Triton", lacks="Triton is not installed")
    assert error.value.why == "Triton is not installed"


def test_without_a_mode_the_answer_is_that_of_auto_and_modes_end_with_their_context():
    assert chosen("losses") and not chosen("losses", lacks="no GPU")
    with pytest.raises(KeyError), using("reference"):
        with using("auto"):
            assert chosen("losses")
        assert not chosen("losses")
        raise KeyError
    assert chosen("losses")


def test_threads_of_the_backward_pass_are_told_the_same():
    answers = []
    with using("reference"):
        thread = threading.Thread(target=lambda: answers.append(chosen("losses")))
        thread.start()
        thread.join()
    assert answers == [False]


def test_triton_lacks_what_it_compiles_its_launchers_with(monkeypatch, tmp_path):
    lacks = library.triton_lacks.__wrapped__
    monkeypatch.setattr(library, "find_spec", lambda name: name)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert "no C compiler" in lacks()
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(library.sysconfig, "get_path", lambda *_: str(tmp_path))
    assert "no Python.h" in lacks()
    (tmp_path / "Python.h").touch()
    assert lacks() == ""
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert lacks() == "Triton is not installed"


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_no_fast_path_is_written_into_an_exported_network():
    class Net(torch.nn.Module):
        def forward(self, x):
            return x + 1 if chosen("losses") else x * 3

    x = torch.ones(2)
    assert torch.export.export(Net(), (x,), strict=False).module()(x)[0] == 3
    assert torch.jit.trace(Net(), x, check_trace=False)(x)[0] == 3
    assert Net()(x)[0] == 2
