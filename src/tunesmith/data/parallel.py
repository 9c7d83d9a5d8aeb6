"""Work on rows by several processes, block by block: the same blocks, in the same order, whatever the number of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tunesmith import forked, parallel
from tunesmith.parallel import Prepared, Result, Work

ROWS_AT_ONCE = 10_000
"""A block."""
MIN_BLOCKS = 3
"""With fewer, processes cost more than they gain."""
MAX_PROCESSES = 4
"""What they find is put together by one process, which is then the slowest."""
_ADVICE = "It prepared rows: begin anew with fewer of them (--max-rows) or more memory."


def in_blocks(count: int, prepared: Prepared[slice, Result]) -> Iterator[Result]:
    """What the work finds for each block of `count` rows, in order.

    Args:
        count: Number of rows.
        prepared: Gives the work, which takes a block of rows; entered once in every process.

    Raises:
        WorkerLost: If a process is ended from outside; what the work raises is raised here.
    """
    blocks = [slice(start, min(count, start + ROWS_AT_ONCE)) for start in range(0, count, ROWS_AT_ONCE)]
    processes = _num_processes(len(blocks))
    if processes == 1:
        return parallel.in_turn(blocks, 1, prepared, _ADVICE)

    @contextlib.contextmanager
    def alone() -> Iterator[Work[slice, Result]]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's own threads did not come along
        with prepared() as work:
            yield work

    return parallel.in_turn(blocks, processes, alone, _ADVICE)


def _num_processes(num_blocks: int) -> int:
    if num_blocks < MIN_BLOCKS or not forked.is_possible():
        return 1
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES, num_blocks)
