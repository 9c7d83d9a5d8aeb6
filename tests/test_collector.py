"""The garbage collector is paused, and afterwards is as it was."""

from __future__ import annotations

import gc

import pytest

from tunesmith import collector


@pytest.fixture(autouse=True)
def _collecting():
    gc.enable()
    yield
    gc.enable()


def test_nothing_is_collected_inside_and_an_error_does_not_leave_it_so():
    @collector.paused()
    def fail() -> None:
        assert not gc.isenabled()
        raise ValueError("as asked")

    with pytest.raises(ValueError, match="as asked"):
        fail()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with collector.paused():
        pass
    assert not gc.isenabled()
