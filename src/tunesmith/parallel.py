"""Work on several items by forked processes: the same items, in the same order, whatever the number of processes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

from tunesmith import forked
from tunesmith.errors import TunesmithError, WorkerLost

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]
Prepared = Callable[[], AbstractContextManager[Work[Item, Result]]]
"""Gives the work, which takes an item; entered once in every process."""


def in_turn(items: Sequence[Item], num_processes: int, prepared: Prepared[Item, Result], advice: str) -> Iterator[Result]:
    """What the work finds for each item, in order; of several processes each takes every so-manieth.

    Raises:
        WorkerLost: If a process is ended from outside, with `advice` on what to do; what the work raises is raised here.
    """
    if num_processes == 1:
        with prepared() as work:
            yield from map(work, items)
        return
    hired: list[tuple[int, Connection]] = []
    with _frozen():
        try:
            for number in range(num_processes):
                hired.append(_hire(prepared, items[number::num_processes], [connection for _, connection in hired]))
            for number in range(len(items)):
                yield _received(*hired[number % num_processes], advice)
        finally:
            for pid, connection in hired:
                connection.close()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keep the collector from writing to every object, which would copy the pages that hold them."""
    if gc.get_freeze_count():  # somebody else does already
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _hire(prepared: Prepared[Item, Result], items: Sequence[Item], others: list[Connection]) -> tuple[int, Connection]:
    """Fork a process for some of the items."""
    ours, theirs = Pipe(duplex=False)
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with idle threads, which the process never needs
        pid = os.fork()
    if pid == 0:
        for connection in (ours, *others):
            connection.close()
        _work(theirs, prepared, items, parent)
    theirs.close()
    return pid, ours


def _work(connection: Connection, prepared: Prepared[Item, Result], items: Sequence[Item], parent: int) -> NoReturn:
    """The life of a forked process."""
    try:
        forked.obey_only(parent)
        with prepared() as work:
            for item in items:
                connection.send((work(item), None))
    except BrokenPipeError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process must hear of it
        with contextlib.suppress(OSError):
            known = isinstance(error, TunesmithError)
            fault = (type(error), str(error)) if known else (WorkerLost, f"A process failed: {type(error).__name__}: {error}.")
            connection.send((None, fault))
    finally:
        os._exit(0)


def _received(pid: int, connection: Connection, advice: str) -> Any:
    """What a process found for its next item."""
    try:
        result, fault = connection.recv()
    except (EOFError, OSError):
        raise WorkerLost(f"Process {pid} was ended from outside (out of memory?). {advice}") from None
    if fault is not None:
        kind, message = fault
        raise kind(message)
    return result
