"""Several processes that find the gradients of a step together, each by passes of its own on cores of its own.

A process with many threads waits for the slowest of them at the end of every operation; processes wait for each other
once a step. They are forked from the one that trains: the frozen weights are in memory once, and what learns, with the
gradients of each process, lies in memory that all share. Which pass is whose, and the order in which gradients are added,
depend on the passes alone, so the same number of processes gives bitwise the same run.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith import forked
from tunesmith.errors import WorkerLost
from tunesmith.training import memory, threads
from tunesmith.training.gradients import Finder
from tunesmith.training.optimizer import FlatAdamW

STEPS_BETWEEN_LOOKS = 8  # at how much of a worker's memory is shared; then it gives back what is free
_LOST = "Go on from the last checkpoint with `tunesmith resume`; if memory ran out, begin anew with --workers 1."


def are_possible(device: torch.device) -> bool:
    """Whether this system can fork a process that computes."""
    return forked.is_possible() and device.type == "cpu"


class _Task(NamedTuple):
    """What a worker is asked for: its part in the gradients of one step."""

    passes: Sequence[Any]
    num_targets: Any
    """Of the whole step."""


class _Answer(NamedTuple):
    """What a worker has found; the gradients are in its buffers."""

    loss: NDArray[np.float64]
    own_bytes: int
    """The most memory it held besides what it shares with others."""


@dataclass
class _Worker:
    """A worker as the process that trains knows it."""

    pid: int
    connection: Connection
    optimizers: Sequence[FlatAdamW]
    """Of the process that trains."""
    gradients: list[list[Tensor]]
    """Where it adds up: for each optimizer, one buffer for each of its groups."""
    own_bytes: int = 0

    def ask(self, passes: Sequence[object], num_targets: object) -> None:
        """Give it some passes, perhaps none."""
        with self._reached():
            self.connection.send(_Task(passes, num_targets))

    def answer(self) -> Tensor:
        """Wait until it is done, and add its gradients to those of this process; returns its part in the loss.

        Raises:
            WorkerLost: If it failed or is no more.
        """
        with self._reached():
            answer = self.connection.recv()
        if isinstance(answer, str):
            raise WorkerLost(f"A worker process failed: {answer}. {_LOST}")
        self.own_bytes = answer.own_bytes
        for optimizer, buffers in zip(self.optimizers, self.gradients, strict=True):
            optimizer.add_gradients_of(buffers)
        return torch.from_numpy(answer.loss)

    def end(self) -> None:
        """End it; it has nothing to save."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise WorkerLost(f"Worker process {self.pid} was ended from outside. {_LOST}") from None


@contextlib.contextmanager
def hired(num_processes: int, finder: Finder[Any, Any]) -> Iterator[None]:
    """Let as many processes as asked for, this one included, find the gradients; they end with the block.

    The model must be as it will be trained: what changes besides the values that learn is not seen by the others.
    """
    if num_processes == 1:
        yield
        return
    for optimizer in finder.optimizers:
        optimizer.keep_values_in(_shared)
    memory.give_back()
    gc.collect()
    gc.freeze()  # or the collector would write to every object, and so copy the pages that hold them
    hands: list[_Worker] = []
    try:
        for _ in range(num_processes - 1):
            hands.append(_hire(finder, hands, threads.of_each(num_processes)))
        finder.helpers += hands
        yield
    finally:
        finder.helpers.clear()
        for worker in hands:
            worker.end()
        gc.unfreeze()


def _hire(finder: Finder[Any, Any], others: Sequence[_Worker], num_threads: int) -> _Worker:
    """Fork a worker that computes on so many threads."""
    gradients = [[_shared(size, torch.float32) for size in optimizer.sizes] for optimizer in finder.optimizers]
    ours, theirs = Pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with idle threads, which the worker never needs
        pid = os.fork()
    if pid == 0:
        ours.close()
        for other in others:
            other.connection.close()
        _work(theirs, finder, gradients, parent, num_threads)
    theirs.close()
    return _Worker(pid, ours, finder.optimizers, gradients)


def _work(
    connection: Connection, finder: Finder[Any, Any], gradients: list[list[Tensor]], parent: int, num_threads: int
) -> NoReturn:
    """The life of a worker: it answers until the process that trains is no more."""
    code = 1
    try:
        forked.obey_only(parent)
        threads.in_forked(num_threads, lambda: _serve(connection, finder, gradients))
    except (EOFError, BrokenPipeError):
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process must hear of it
        with contextlib.suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _serve(connection: Connection, finder: Finder[Any, Any], gradients: list[list[Tensor]]) -> None:
    for optimizer, buffers in zip(finder.optimizers, gradients, strict=True):
        optimizer.add_gradients_in(buffers)
        optimizer.forget_moments()  # it never takes a step; else its pages of them stay when the other's move on
    shared_bytes = 0
    for number in itertools.count():
        task: _Task = connection.recv()
        for optimizer in finder.optimizers:
            optimizer.forget()
        loss = finder.accumulate_share(task.passes, task.num_targets)
        if number % STEPS_BETWEEN_LOOKS == 0:
            shared_bytes = memory.shared_bytes()
        connection.send(_Answer(loss.numpy(), max(0, memory.peak_bytes() - shared_bytes)))
        if number % STEPS_BETWEEN_LOOKS == 0:
            memory.trim()


def _shared(num_elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros that forked processes see and change together."""
    return torch.frombuffer(mmap.mmap(-1, max(1, num_elements) * dtype.itemsize), dtype=dtype, count=num_elements)
