"""Work on rows by several processes, block by block: the same blocks, in the same order, whatever the number of processes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

from tunesmith import forked
from tunesmith.errors import TunesmithError, WorkerLost

ROWS_AT_ONCE = 10_000
"""A block."""
MIN_BLOCKS = 3
"""With fewer, processes cost more than they gain."""
MAX_PROCESSES = 4
"""What they find is put together by one process, which is then the slowest."""

Result = TypeVar("Result")
Work = Callable[[slice], Result]


def in_blocks(count: int, prepared: Callable[[], AbstractContextManager[Work[Result]]]) -> Iterator[Result]:
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
        with prepared() as work:
            yield from map(work, blocks)
        return
    gc.freeze()  # or the collector would write to every object, and so copy the pages that hold them
    hired: list[tuple[int, Connection]] = []
    try:
        for number in range(processes):
            hired.append(_hire(prepared, blocks[number::processes], [connection for _, connection in hired]))
        for number in range(len(blocks)):
            yield _received(*hired[number % processes])
    finally:
        for pid, connection in hired:
            connection.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        gc.unfreeze()


def _num_processes(num_blocks: int) -> int:
    if num_blocks < MIN_BLOCKS or not forked.is_possible():
        return 1
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES, num_blocks)


def _hire(
    prepared: Callable[[], AbstractContextManager[Work[Result]]], blocks: list[slice], others: list[Connection]
) -> tuple[int, Connection]:
    """Fork a process for some of the blocks."""
    ours, theirs = Pipe(duplex=False)
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with idle threads, which the process never needs
        pid = os.fork()
    if pid == 0:
        for connection in (ours, *others):
            connection.close()
        _work(theirs, prepared, blocks, parent)
    theirs.close()
    return pid, ours


def _work(
    connection: Connection, prepared: Callable[[], AbstractContextManager[Work[Result]]], blocks: list[slice], parent: int
) -> NoReturn:
    """The life of a forked process."""
    try:
        forked.obey_only(parent)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's own threads did not come along
        with prepared() as work:
            for block in blocks:
                connection.send((work(block), None))
    except BrokenPipeError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process must hear of it
        with contextlib.suppress(OSError):
            known = isinstance(error, TunesmithError)
            fault = (type(error), str(error)) if known else (WorkerLost, f"A process failed: {type(error).__name__}: {error}.")
            connection.send((None, fault))
    finally:
        os._exit(0)


def _received(pid: int, connection: Connection) -> Any:
    """The next block of a process."""
    try:
        result, fault = connection.recv()
    except (EOFError, OSError):
        raise WorkerLost(
            f"Process {pid}, which prepared rows, was ended from outside (out of memory?). Begin anew with fewer rows "
            "(--max-rows) or more memory."
        ) from None
    if fault is not None:
        kind, message = fault
        raise kind(message)
    return result
