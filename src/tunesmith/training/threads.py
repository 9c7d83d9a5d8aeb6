"""How the cores of a processor are shared: by processes, which wait for each other once a step, and by threads of each.

A process with several threads waits for the slowest of them after every operation, one of several processes holds tensors of
its own. Two threads that share the loops of compiled code are as fast as two processes and hold a tenth less, so each process
has two; more threads have not been timed. A step has no more processes than rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch

from tunesmith.kernels.cpu import compiled

_FEWEST_OF_EACH = 2
"""Threads of a process, where they share the loops of compiled code."""
_GAIN = 0.5
"""What a further thread is taken to add to the speed of a process, in units of one thread.

The second adds 0.97 where threads share the loops of compiled code, 0.2 where not (docs/log.md); more have not been timed.
"""


@contextlib.contextmanager
def limited(number: int) -> Iterator[None]:
    """Let operations of this process use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def of_each(num_processes: int) -> int:
    """Threads of each of several processes that share the cores of this one."""
    return max(1, torch.get_num_threads() // num_processes)


def most_processes(num_cores: int) -> int:
    """How many processes are worth having, however much there is to do."""
    if num_cores < _FEWEST_OF_EACH or not compiled.shares_threads():
        return num_cores
    return num_cores // _FEWEST_OF_EACH


def best_processes(num_parts: int, num_cores: int, most: int) -> int:
    """How many processes, at most `most`, are done first with equal parts of some work, sharing the cores."""

    def duration(num_processes: int) -> float:
        return _duration(num_parts, num_processes, num_cores // num_processes)

    return min(range(1, max(1, min(num_parts, num_cores, most)) + 1), key=lambda number: (duration(number), -number))


def best_single_threads(num_parts: int, num_cores: int) -> int:
    """The same where each of several processes has one thread: as many as there are parts and cores, or one for all cores."""
    many = max(1, min(num_parts, num_cores))
    return many if _duration(num_parts, many, 1) <= _duration(num_parts, 1, num_cores) else 1


def _duration(num_parts: int, num_processes: int, num_threads: int) -> float:
    """Until all parts are done, in units of one part on one thread."""
    return -(-num_parts // num_processes) / (1 + _GAIN * (num_threads - 1))


def in_forked(number: int, work: Callable[[], None]) -> None:
    """Do the work of a process that was forked, its operations on so many threads.

    The threads of the parent do not come along, and GNU OpenMP waits for them for ever in the thread that forked. In one that
    is begun anew it has none yet, and begins its own.

    Raises:
        BaseException: What the work raises.
    """
    torch.set_num_threads(1)  # in this thread
    if number == 1:
        work()
        return
    raised: list[BaseException] = []

    def begin() -> None:
        torch.set_num_threads(number)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            raised.append(error)

    beginner = threading.Thread(target=begin)
    beginner.start()
    beginner.join()
    if raised:
        raise raised[0]
