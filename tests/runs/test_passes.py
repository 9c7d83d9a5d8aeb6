"""Passes that measure are shared among processes of one thread each, where that is possible, and give the same."""

from __future__ import annotations

import contextlib
import os
import threading

import numpy as np
import pytest
import torch

import tiny_models
from tiny_runs import Silent
from tunesmith import forked
from tunesmith.errors import WorkerLost
from tunesmith.evaluation.language_gauge import LanguageGauge
from tunesmith.evaluation.retention import general_rows
from tunesmith.model.forward import PackedForward
from tunesmith.runs import passes
from tunesmith.runs.measure import reader

CPU = torch.device("cpu")
needs_fork = pytest.mark.skipif(not forked.is_possible(), reason="this system cannot fork a process that computes")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # what distributes tests has threads of its own


def _found(count: int, work, device: torch.device = CPU) -> list[object]:
    return list(passes.in_turn(range(count), lambda: contextlib.nullcontext(work), device))


@needs_fork
def test_every_process_takes_every_so_manieth_and_has_one_thread(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = _found(5, lambda number: (number, os.getpid(), list(threads)))
    assert [number for number, *_ in found] == [0, 1, 2, 3, 4]
    pids = [pid for _, pid, _ in found]
    assert pids[::2] == [pids[0]] * 3
    assert pids[1::2] == [pids[1]] * 2
    assert len({os.getpid(), *pids}) == 3
    assert all(seen == [1] for *_, seen in found)
    assert threads == []


@pytest.mark.parametrize("why", ["one pass", "one thread", "accelerator", "other threads", "no fork"])
def test_where_nothing_is_to_be_won_or_it_is_not_safe_this_process_does_all(monkeypatch, why):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if why == "one thread" else 2)
    monkeypatch.setattr(passes.forked, "is_possible", lambda: why != "no fork")
    monkeypatch.setattr(threading, "active_count", lambda: 2 if why == "other threads" else 1)
    device = torch.device("cuda" if why == "accelerator" else "cpu")
    assert set(_found(1 if why == "one pass" else 4, lambda _: os.getpid(), device)) == {os.getpid()}


@needs_fork
def test_what_fails_is_said():
    with pytest.raises(WorkerLost, match=r"ZeroDivisionError"):
        _found(4, lambda number: 1 // number)
    with pytest.raises(WorkerLost, match=r"ended from outside.*OMP_NUM_THREADS=1"):
        _found(4, lambda _: os._exit(1))


@needs_fork
def test_a_gauge_finds_the_same(monkeypatch):
    rows = general_rows(lambda text: [8 + byte % 40 for byte in text.encode()], max_tokens=12)
    gauge, forward = LanguageGauge(rows, tokens_per_pass=100), PackedForward(tiny_models.build("llama"))
    pids = []
    received = passes.parallel._received

    def noted(pid, *rest):
        pids.append(pid)
        return received(pid, *rest)

    monkeypatch.setattr(passes.parallel, "_received", noted)
    shared = gauge.before(reader(forward, gauge, Silent(), "shared"))
    assert len(set(pids)) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = gauge.before(reader(forward, gauge, Silent(), "alone"))
    np.testing.assert_allclose(shared["loss_sums"], alone["loss_sums"], rtol=1e-5)
    assert gauge.after(reader(forward, gauge, Silent(), "alone"), alone).measures["kl_to_base"].value == 0.0
