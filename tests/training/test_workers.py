"""Processes that share a step find what one process finds, and never outlive it or hide that one was lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_models
import tiny_runs
from tunesmith.data.pack import pack
from tunesmith.errors import WorkerLost
from tunesmith.method import Method
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward, PackedForward, PaddedForward
from tunesmith.training import threads
from tunesmith.training.gradients import Learner, Pass, shares
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.step import Update, take_step
from tunesmith.training.workers import are_possible, hired

pytestmark = pytest.mark.skipif(not are_possible(torch.device("cpu")), reason="needs a system that forks")


def _passes(num_rows: int = 1) -> list[Pass]:
    table = tiny_runs.language_table()
    starts = range(0, len(table), num_rows)
    return [Pass(pack(table, np.arange(start, start + num_rows)), start) for start in starts]


def _learner(method: Method | None = None, kind: type[Forward] = PackedForward) -> Learner:
    return Learner(*tiny_runs.attached(method or LoRA(rank=2), kind=kind))


def _gradients(learner: Learner) -> Tensor:
    return torch.cat([group.gradients for group in learner.optimizer._groups]).clone()


def _found(num_processes: int, learner: Learner) -> tuple[float, Tensor]:
    with hired(num_processes, learner):
        assert learner.num_processes == num_processes
        learner.accumulate(_passes())  # a second step must not see the gradients of the first
        learner.optimizer.forget()
        return learner.accumulate(_passes()).item(), _gradients(learner)


@pytest.mark.parametrize("num_processes", [2, 3, 11])  # the last has more processes than passes
@pytest.mark.parametrize(
    ("method", "kind"), [(LoRA(rank=2), PackedForward), (Full(), PackedForward), (LoRA(rank=2), PaddedForward)]
)
def test_several_find_what_one_finds(num_processes: int, method: Method, kind: type[Forward]):
    loss, gradients = _found(1, _learner(method, kind))
    loss_of_several, gradients_of_several = _found(num_processes, _learner(method, kind))
    assert loss_of_several == pytest.approx(loss, rel=1e-6)
    assert gradients.norm() > 0
    assert (gradients_of_several - gradients).norm() <= 1e-6 * gradients.norm()


@pytest.mark.parametrize(("num_threads", "of_each"), [(2, 1), (5, 2)])
def test_the_threads_are_shared_out(num_threads: int, of_each: int):
    """Workers with several must not wait for those that their parent had, which compute for the first time before the fork."""
    with threads.limited(num_threads):
        loss, gradients = _found(1, _learner())
        loss_of_both, gradients_of_both = _found(2, _learner())
        learner = _learner()
        learner.accumulate_share = lambda *_: torch.tensor(float(torch.get_num_threads()))
        with hired(2, learner):
            assert learner.accumulate(_passes()).item() == 2 * of_each
        assert torch.get_num_threads() == num_threads
    assert loss_of_both == pytest.approx(loss, rel=1e-6)
    assert (gradients_of_both - gradients).norm() <= 1e-6 * gradients.norm()


def test_dropout_follows_the_seed_of_each_pass():
    found = []
    for _ in range(2):
        learner = _learner(LoRA(rank=2, dropout=0.5))
        learner.forward.model.train()
        found.append(_found(2, learner)[1])
        torch.manual_seed(len(found))
    assert torch.equal(*found)


def test_workers_see_what_has_been_learnt():
    states = []
    for num_processes in (1, 2):
        learner = _learner()
        with hired(num_processes, learner):
            batches = [batch for batch, _ in _passes(2)]
            for _ in range(3):
                take_step(learner, batches, Update(0.05, 1.0, [0] * len(batches)))
        states.append(torch.cat([value.flatten() for value in learner.optimizer.trained().values()]))
    assert (states[0] - states[1]).abs().max() <= 1e-5
    assert (states[0] - torch.cat([v.flatten() for v in _learner().optimizer.trained().values()])).abs().max() > 0.05


def test_what_is_stored_in_fewer_bits_is_shared_too():
    learners = []
    for num_processes in (1, 2):
        model = tiny_models.build("llama", "causal")
        stored = dict.fromkeys((name for name, _ in model.named_parameters()), torch.bfloat16)
        learner = Learner(PackedForward(model), FlatAdamW(model.named_parameters(), 0.0, stored))
        with hired(num_processes, learner):
            batches = [batch for batch, _ in _passes(4)]
            results = [take_step(learner, batches, Update(0.05, 1.0, [0] * len(batches))) for _ in range(3)]
        learners.append(results)
    for one, other in zip(*learners, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-2)
    assert learners[1][2].loss < learners[1][0].loss - 0.1


@pytest.mark.parametrize("num_processes", [2, 3])
def test_a_loop_of_several_is_bitwise_the_same_when_it_goes_on(tmp_path: Path, num_processes: int):
    plan = replace(tiny_runs.PLAN, num_processes=num_processes)
    for name in ("whole", "half", "rest"):
        (tmp_path / name).mkdir()
    whole = tiny_runs.loop(tmp_path / "whole", plan)
    whole.run()
    half = tiny_runs.loop(tmp_path / "half", plan)
    half.should_stop = lambda: "enough" if half.state.step == 3 else None
    half.run()
    rest = tiny_runs.loop(tmp_path / "rest", plan)
    rest.optimizer.load_state({name: tensor.clone() for name, tensor in half.optimizer.state().items()})
    rest.state = half.state
    rest.run()
    assert tiny_runs.same(rest.optimizer.state(), whole.optimizer.state())


@dataclass(frozen=True)
class BadInWorkers(PackedForward):
    """A model whose loss is not a number, or cannot be had, in every process but the first."""

    first: int = 0
    factor: float | None = None

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if os.getpid() == self.first:
            return loss
        if self.factor is None:
            raise MemoryError("not enough memory")
        return loss * self.factor


def _bad(factor: float | None) -> Learner:
    learner = _learner()
    return Learner(BadInWorkers(learner.forward.model, first=os.getpid(), factor=factor), learner.optimizer)


def test_a_bad_number_in_a_worker_never_reaches_the_weights():
    learner = _bad(float("nan"))
    before = {name: value.clone() for name, value in learner.optimizer.trained().items()}
    with hired(2, learner):
        batches = [batch for batch, _ in _passes()]
        result = take_step(learner, batches, Update(0.05, 1.0, [0] * len(batches)))
    assert not result.is_finite
    assert tiny_runs.same(learner.optimizer.trained(), before)
    assert _gradients(learner).abs().max() == 0


def test_the_reason_of_a_worker_that_fails_is_told():
    learner = _bad(None)
    with hired(2, learner), pytest.raises(WorkerLost, match="MemoryError: not enough memory.*--workers 1"):
        learner.accumulate(_passes())


@pytest.mark.parametrize("early", [True, False], ids=["before it is asked", "before it answers"])
def test_a_worker_that_is_killed_is_told_of(early: bool):
    learner = _learner()
    with hired(2, learner):
        pid = _pids(learner)[0]
        if early:
            os.kill(pid, signal.SIGKILL)
            _wait_until_dead(pid)
        else:
            os.kill(pid, signal.SIGSTOP)
            learner.helpers[0].ask(_passes(), 1)
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=f"{pid} was ended from outside.*tunesmith resume"):
            learner.accumulate(_passes())


def _pids(learner: Learner) -> list[int]:
    return [helper.pid for helper in learner.helpers]  # pyright: ignore[reportAttributeAccessIssue]


def test_workers_leave_signals_to_the_process_that_trains():
    learner = _learner()
    with hired(2, learner):
        learner.accumulate(_passes())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(_pids(learner)[0], number)
        assert learner.accumulate(_passes()) > 0


def test_workers_end_with_the_block_even_when_it_fails():
    learner = _learner()
    with contextlib.suppress(KeyError), hired(3, learner):
        pids = _pids(learner)
        raise KeyError
    assert len(pids) == 2
    assert learner.num_processes == 1
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_end_with_the_process_that_trains():
    """Killed without a chance to say goodbye, it leaves nobody behind who would hold its run's lock."""
    with _forked_trainer() as (trainer, worker):
        os.kill(trainer, signal.SIGKILL)
        os.waitpid(trainer, 0)
        _wait_until_dead(worker)


@contextlib.contextmanager
def _forked_trainer() -> Iterator[tuple[int, int]]:
    """A process with a worker that waits for ever; their numbers."""
    reading, writing = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        learner = _learner()
        with hired(2, learner):
            learner.accumulate(_passes())
            os.write(writing, f"{_pids(learner)[0]}".encode())
            time.sleep(60)
        os._exit(0)
    try:
        yield trainer, int(os.read(reading, 100))
    finally:
        os.close(reading)
        os.close(writing)


def _wait_until_dead(pid: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.005)
    pytest.fail(f"process {pid} is still there")


def test_a_worker_drops_the_moments_that_a_checkpoint_brought(monkeypatch: pytest.MonkeyPatch):
    """Else its pages of them stay with it when the process that trains writes to its own."""
    learner = _learner()
    batches = [batch for batch, _ in _passes()]
    take_step(learner, batches, Update(0.1, 1.0, range(len(batches))))
    accumulate = Learner.accumulate_share

    def count(self: Learner, *inputs: object) -> Tensor:
        moments = len(self.optimizer._adamw.state)
        return accumulate(self, *inputs) * 0 + moments  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Learner, "accumulate_share", count)
    with hired(2, learner):
        assert learner.accumulate(_passes()).item() == len(learner.optimizer.sizes), "of this process alone"


def test_shares_are_even_and_complete():
    batches = [
        Batch(input_ids=torch.zeros(n, dtype=torch.long), lengths=[n], targets=torch.zeros(1)) for n in (9, 1, 5, 4, 2, 8)
    ]
    found = shares([Pass(batch, 0) for batch in batches], [len(batch.input_ids) for batch in batches], 2)
    lengths = [[len(batch.input_ids) for batch, _ in share] for share in found]
    assert sorted(n for share in lengths for n in share) == [1, 2, 4, 5, 8, 9]
    assert abs(sum(lengths[0]) - sum(lengths[1])) <= 1
