"""Cores are shared so that work is done first, and threads of a forked process never wait for those that did not come along."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from tunesmith import forked
from tunesmith.training import threads


@pytest.mark.parametrize(
    ("num_parts", "num_cores", "most", "expected"),
    [
        (8, 2, 8, 2),
        (8, 8, 8, 8),
        (8, 16, 8, 8),  # two threads each
        (8, 12, 8, 8),  # six would have two rows each
        (8, 4, 3, 2),  # two with two threads, not three with one
        (8, 4, 1, 1),
        (3, 16, 99, 3),
        (0, 4, 4, 1),
    ],
)
def test_processes_that_are_done_first(num_parts: int, num_cores: int, most: int, expected: int):
    assert threads.best_processes(num_parts, num_cores, most) == expected


@pytest.mark.parametrize(("num_parts", "num_cores", "expected"), [(9, 2, 2), (1, 2, 1), (12, 16, 12), (2, 16, 1), (0, 4, 1)])
def test_processes_of_one_thread(num_parts: int, num_cores: int, expected: int):
    assert threads.best_single_threads(num_parts, num_cores) == expected


def test_each_process_has_its_part_of_the_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert [threads.of_each(number) for number in (1, 5, 8, 99)] == [16, 3, 2, 1]


@pytest.mark.skipif(not forked.is_possible(), reason="needs a system that forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("number", [1, 2])
def test_a_forked_process_computes_where_the_parent_had_threads(number: int):
    a = torch.ones(300, 300)
    with threads.limited(2):
        _busy(a)  # its threads are there now, and idle
        pid = os.fork()
        if pid == 0:
            found: list[int] = []
            try:
                threads.in_forked(number, lambda: found.append(_busy(a)))
            finally:
                os._exit(found[0] if found else 99)
        assert _exit_code(pid) == number


def test_what_the_work_raises_is_raised():
    def fail() -> None:
        raise MemoryError("too much")

    for number in (1, 2):
        with threads.limited(2), pytest.raises(MemoryError, match="too much"):
            threads.in_forked(number, fail)


def _busy(a: torch.Tensor) -> int:
    """Let all threads compute; returns how many there are."""
    (a @ a).exp().sum()
    torch.nn.functional.softmax(torch.ones(100, 10_000), 1)
    return torch.get_num_threads()


def _exit_code(pid: int) -> int:
    """Of a process, which is ended if it does not end by itself in ten seconds."""
    for _ in range(1000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the process waits for ever")
