"""Passes without gradients on a processor: by several processes of one thread each, which wait for each other at the end only.

A process with several threads waits for the slowest of them after every operation.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch

from tunesmith import forked, parallel
from tunesmith.parallel import Item, Prepared, Result, Work
from tunesmith.training import memory, threads

TOKENS_AT_ONCE = 1024
"""In one pass of one process."""
_ADVICE = "It measured the model. If memory ran out, one process takes less: set OMP_NUM_THREADS=1 in the environment."


def in_turn(passes: Sequence[Item], prepared: Prepared[Item, Result], device: torch.device) -> Iterator[Result]:
    """What the work finds for each pass, in order.

    Args:
        passes: What is given to the work.
        prepared: Gives the work; entered once in every process.
        device: Where the model is.

    Raises:
        WorkerLost: If a process is ended from outside; what the work raises is raised here.
    """

    @contextlib.contextmanager
    def alone() -> Iterator[Work[Item, Result]]:
        torch.set_num_threads(1)
        with prepared() as work:
            yield work

    num_processes = _num_processes(len(passes), device)
    if num_processes > 1:
        memory.give_back()  # what is free here would be copied where it is written to there
    return parallel.in_turn(passes, num_processes, prepared if num_processes == 1 else alone, _ADVICE)


def _num_processes(num_passes: int, device: torch.device) -> int:
    """As many as there are threads, or passes; one with all threads where that is faster, or where forking is not safe."""
    if device.type != "cpu" or not forked.is_possible() or threading.active_count() > 1:
        return 1
    return threads.best_single_threads(num_passes, torch.get_num_threads())
