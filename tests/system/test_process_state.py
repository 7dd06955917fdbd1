"""Silence for warnings leaves the filters of the process alone, whatever else happens to them."""

import threading
import warnings

import pytest

from ibot.system.process_state import ignored_warnings


def test_only_what_is_named_is_ignored_and_only_inside():
    before = list(warnings.filters)
    with pytest.warns(UserWarning) as seen, ignored_warnings(UserWarning, "loud"):
        warnings.warn("Loud and long", stacklevel=1)
        warnings.warn("kept", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["kept"] and warnings.filters == before


def test_overlapping_blocks_of_threads_leave_no_filter_behind():
    before, inside, leave = list(warnings.filters), threading.Event(), threading.Event()

    def other():
        with ignored_warnings():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with ignored_warnings():
        thread.start()
        inside.wait(10)
    leave.set()  # the other leaves last
    thread.join()
    assert warnings.filters == before


def test_a_block_that_ends_inside_or_outside_of_catch_warnings_is_gone_from_both_lists():
    before = list(warnings.filters)
    outer = ignored_warnings()
    outer.__enter__()
    with warnings.catch_warnings():
        outer.__exit__(None, None, None)
        inner = ignored_warnings(UserWarning)
        inner.__enter__()
    assert warnings.filters == before
    inner.__exit__(None, None, None)
    assert warnings.filters == before
