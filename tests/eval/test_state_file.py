"""States of work that is cut off and goes on."""

import pytest
import torch

from ibot.errors import RunError, UserError, WeightsError
from ibot.eval import state_file
from ibot.eval.state_file import StateFile
from ibot.system.processes import Processes

MAIN, OTHER = Processes(0, 2), Processes(1, 2)


def done(state):
    return state["done"]


def test_a_state_is_read_as_it_was_written_and_is_gone_at_the_end(tmp_path):
    state = StateFile(tmp_path / "work.state", Processes())
    assert state.read(done) is None
    state.write(lambda: {"done": 3, "rows": torch.arange(4)})
    found = StateFile(tmp_path / "work.state", Processes()).read(done)
    assert found["done"] == 3 and found["rows"].tolist() == [0, 1, 2, 3] and len(found) == 2
    state.remove()
    state.remove()
    assert not list(tmp_path.iterdir())


def test_only_the_main_process_writes_and_only_it_makes_the_state(tmp_path, monkeypatch):
    monkeypatch.setattr(state_file, "SAVE_SECONDS", 0)
    other = StateFile(tmp_path / "work.state", OTHER)
    other.write(lambda: pytest.fail("made where it is not written"))
    assert not other.due and not list(tmp_path.iterdir())
    main = StateFile(tmp_path / "work.state", MAIN)
    assert main.due
    main.write(lambda: {"done": 1})
    other.remove()
    assert other.read(done) == {"done": 1}


def test_a_state_is_due_again_some_time_after_it_was_saved(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(state_file.time, "monotonic", lambda: now[0])
    state = StateFile(tmp_path / "work.state", Processes())
    for _ in range(2):
        state.write(lambda: {"done": 1})
        for seconds, due in ((0, False), (29, False), (1, True)):
            now[0] += seconds
            assert state.due == due


def test_the_state_of_other_work_or_a_damaged_one_is_refused(tmp_path):
    def state(**identity):
        return StateFile(tmp_path / "work.state", Processes(), identity)

    state(seed=0, cut={"parts": 2}).write(lambda: {"done": 1})
    assert state(cut={"parts": 2}, seed=0).read(done)["done"] == 1
    with pytest.raises(RunError, match="parts was 2, now 3; more was None, now 1"):
        state(seed=0, cut={"parts": 3}, more=1).read(done)
    (tmp_path / "work.state").write_bytes(b"no state")
    with pytest.raises(WeightsError, match="cannot be read"):
        state(seed=0).read(done)


def test_processes_that_would_go_on_from_different_places_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ibot.system.distributed.gather",
        lambda facts: [facts, dict.fromkeys(facts, 2)],
    )
    state = StateFile(tmp_path / "work.state", MAIN)
    with pytest.raises(UserError, match=r"differ in what 'work\.state' says"):
        state.read(done)
    state.write(lambda: {"done": 2})
    assert state.read(done) == {"done": 2}


def test_no_process_deletes_the_state_before_all_have_read_it(tmp_path, monkeypatch):
    there = []
    state = StateFile(tmp_path / "work.state", MAIN)
    state.write(lambda: {"done": 2})
    monkeypatch.setattr(
        state_file, "barrier", lambda: there.append((tmp_path / "work.state").exists())
    )
    state.remove()
    assert there == [True] and not list(tmp_path.iterdir())
