"""Several processes that find the gradients of a step together, each by passes of its own on a core of its own.

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
from torch import Tensor

from tunesmith import forked
from tunesmith.data.pack import even_groups
from tunesmith.errors import WorkerLost
from tunesmith.model.batch import Batch
from tunesmith.training import memory
from tunesmith.training.laps import UNMEASURED, Laps
from tunesmith.training.step import Learner, Pass

STEPS_BETWEEN_LOOKS = 8  # at how much of a worker's memory is shared; then it gives back what is free
_LOST = "Go on from the last checkpoint with `tunesmith resume`; if memory ran out, begin anew with --workers 1."


def are_possible(device: torch.device) -> bool:
    """Whether this system can fork a process that computes."""
    return forked.is_possible() and device.type == "cpu"


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let operations of this process use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Task(NamedTuple):
    """What a worker is asked for: its part in the gradients of one step."""

    passes: list[tuple[dict[str, Any], int]]
    """Contents of each batch, as arrays, and the seed."""
    num_targets: int
    """Of the whole step."""


class _Answer(NamedTuple):
    """What a worker has found; the gradients are in its buffers."""

    loss: float
    own_bytes: int
    """The most memory it held besides what it shares with others."""


@dataclass
class _Worker:
    """A worker as the process that trains knows it."""

    pid: int
    connection: Connection
    gradients: list[Tensor]
    """Where it adds up, one buffer for each group of the optimizer."""
    own_bytes: int = 0

    def ask(self, passes: Sequence[Pass], num_targets: int) -> None:
        """Give it some passes, perhaps none."""
        with self._reached():
            self.connection.send(_Task([(_arrays(batch), seed) for batch, seed in passes], num_targets))

    def answer(self) -> float:
        """Wait until it is done; returns its part in the loss.

        Raises:
            WorkerLost: If it failed or is no more.
        """
        with self._reached():
            answer = self.connection.recv()
        if isinstance(answer, str):
            raise WorkerLost(f"A worker process failed: {answer}. {_LOST}")
        self.own_bytes = answer.own_bytes
        return answer.loss

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


@dataclass
class Crew(Learner):
    """A learner that shares the passes of a step with workers; this process takes part, on one thread."""

    workers: list[_Worker]

    @property
    def num_processes(self) -> int:
        return 1 + len(self.workers)

    @property
    def worker_bytes(self) -> int:
        return sum(worker.own_bytes for worker in self.workers)

    def accumulate(self, passes: Sequence[Pass], laps: Laps = UNMEASURED) -> Tensor:
        own, *others = shares(passes, self.num_processes)
        num_targets = sum(batch.num_targets for batch, _ in passes)
        for worker, share in zip(self.workers, others, strict=True):
            worker.ask(share, num_targets)
        with threads(1):
            loss = self.accumulate_share(own, num_targets, laps)
        for worker in self.workers:
            loss += worker.answer()
            self.optimizer.add_gradients_of(worker.gradients)
        laps.end("rest")
        return loss


def shares(passes: Sequence[Pass], num_processes: int) -> list[list[Pass]]:
    """The passes of each process: longest first, each to whoever has least to do."""
    lengths = [len(batch.input_ids) for batch, _ in passes]
    owners = even_groups(np.array(lengths), num_processes)
    return [[passes[index] for index in group] for group in owners]


@contextlib.contextmanager
def hired(num_processes: int, learner: Learner) -> Iterator[Learner]:
    """The learner with as many processes as asked for, its own included; they end with the block.

    The model must be as it will be trained: what changes besides the values that learn is not seen by the workers.
    """
    if num_processes == 1:
        yield learner
        return
    optimizer = learner.optimizer
    optimizer.keep_values_in(_shared)
    memory.give_back()
    gc.collect()
    gc.freeze()  # or the collector would write to every object, and so copy the pages that hold them
    crew = Crew(learner.forward, optimizer, [])
    try:
        for _ in range(num_processes - 1):
            crew.workers.append(_hire(crew))
        yield crew
    finally:
        for worker in crew.workers:
            worker.end()
        gc.unfreeze()


def _hire(crew: Crew) -> _Worker:
    """Fork a worker."""
    gradients = [_shared(size, torch.float32) for size in crew.optimizer.sizes]
    ours, theirs = Pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with idle threads, which the worker never needs
        pid = os.fork()
    if pid == 0:
        ours.close()
        for other in crew.workers:
            other.connection.close()
        _work(theirs, Learner(crew.forward, crew.optimizer), gradients, parent)
    theirs.close()
    return _Worker(pid, ours, gradients)


def _work(connection: Connection, learner: Learner, gradients: list[Tensor], parent: int) -> NoReturn:
    """The life of a worker: it answers until the process that trains is no more."""
    code = 1
    try:
        forked.obey_only(parent)
        torch.set_num_threads(1)
        learner.optimizer.add_gradients_in(gradients)
        learner.optimizer.forget_moments()  # it never takes a step; else its pages of them stay when the other's move on
        _serve(connection, learner)
    except (EOFError, BrokenPipeError):
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process must hear of it
        with contextlib.suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _serve(connection: Connection, learner: Learner) -> None:
    shared_bytes = 0
    for number in itertools.count():
        task: _Task = connection.recv()
        learner.optimizer.forget()
        loss = learner.accumulate_share([Pass(_batch(a), seed) for a, seed in task.passes], task.num_targets)
        if number % STEPS_BETWEEN_LOOKS == 0:
            shared_bytes = memory.shared_bytes()
        connection.send(_Answer(loss.item(), max(0, memory.peak_bytes() - shared_bytes)))
        if number % STEPS_BETWEEN_LOOKS == 0:
            memory.give_back()


def _shared(num_elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros that forked processes see and change together."""
    return torch.frombuffer(mmap.mmap(-1, max(1, num_elements) * dtype.itemsize), dtype=dtype, count=num_elements)


def _arrays(batch: Batch) -> dict[str, Any]:
    """A batch's contents in a form that is sent as plain bytes; tensors would go through a file each."""
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in vars(batch).items()}


def _batch(arrays: dict[str, Any]) -> Batch:
    """The way back of `_arrays`."""
    contents: dict[str, Any] = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in arrays.items()}
    return Batch(**contents)
