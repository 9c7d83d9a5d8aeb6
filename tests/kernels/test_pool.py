"""Tensors of a pass lie apart: nothing is handed out twice at a time, what is free becomes one piece, pages go back."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tunesmith import forked
from tunesmith.kernels import pool
from tunesmith.kernels.cpu import compiled
from tunesmith.training import memory

pytestmark = pytest.mark.skipif(not compiled.is_there(), reason="needs a C compiler")
FLOATS = torch.empty(0)
MB = 2**20
HUGE = 256 * MB
"""Larger than any hole that other tests left; nothing is written to it."""


def _bytes(number: int) -> Tensor:
    return pool.new_empty(FLOATS, number, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (700, 130), (2, 300, 4, 64)])
def test_a_tensor_is_as_torchs(shape: tuple[int, ...], dtype: torch.dtype):
    found = pool.new_empty(FLOATS, *shape, dtype=dtype)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, dtype, True)
    assert found.data_ptr() % 64 == 0
    found.fill_(3)
    assert (found == 3).all()


@pytest.mark.parametrize(
    "like",
    [
        lambda: torch.empty(1, 300, 9, 64).transpose(1, 2),
        lambda: torch.empty(300, 1, 64),
        lambda: torch.empty(600, 128)[::2],
        lambda: torch.empty(1, 64).expand(300, 64),
        lambda: torch.empty(300, 200).bfloat16()[:, :130],
    ],
    ids=["other order", "an axis of one", "gaps", "one row again and again", "part of each row"],
)
def test_one_like_another(like: Callable[[], Tensor]):
    """As torch orders it, but for axes of one element, whose stride says nothing."""
    model = like()
    found, expected = pool.empty_like(model), torch.empty_like(model)
    steps = [(a, b) for a, b, size in zip(found.stride(), expected.stride(), model.shape, strict=True) if size > 1]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert all(a == b for a, b in steps)


def test_what_is_freed_becomes_one_piece():
    first, second, third, last = (_bytes(HUGE) for _ in range(4))
    place = first.data_ptr()
    assert [t.data_ptr() - place for t in (second, third, last)] == [HUGE, 2 * HUGE, 3 * HUGE]
    del second, first, third  # in the middle, before it, behind it
    assert _bytes(3 * HUGE).data_ptr() == place


def test_a_view_keeps_the_memory():
    whole = _bytes(HUGE)
    part, place = whole[17:].view(-1), whole.data_ptr()
    del whole
    assert _bytes(HUGE).data_ptr() != place
    del part
    assert _bytes(HUGE).data_ptr() == place


def _take_and_drop(seed: int, wrong: list[str]) -> None:
    """Fill many tensors with numbers of their own; each is still there when it is dropped."""
    chance, held = random.Random(seed), {}
    for number in range(300):
        tensor = _bytes(chance.randrange(pool.SMALLEST_BYTES, 8 * pool.SMALLEST_BYTES))
        held[number] = tensor.fill_(number % 251)
        while len(held) > 20:
            key = chance.choice(list(held))
            if not (held.pop(key) == key % 251).all():
                wrong.append(f"{seed}: {key}")


def test_nothing_is_handed_out_twice_whoever_asks():
    wrong: list[str] = []
    threads = [threading.Thread(target=_take_and_drop, args=(seed, wrong)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_tensors_than_the_code_counts_are_torchs():
    held = [_bytes(pool.SMALLEST_BYTES) for _ in range(9000)]
    assert len({t.data_ptr() for t in held}) == len(held)


def test_where_there_is_no_memory_torch_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_take", lambda: lambda *_: None)
    assert _bytes(MB).fill_(1).sum() == MB


@pytest.mark.parametrize("why", ["limited", "counted"])
def test_where_addresses_are_scarce_none_are_set_apart(why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "overcommit").write_text("2\n" if why == "counted" else "0\n")
    limit = 2**35 if why == "limited" else resource.RLIM_INFINITY
    monkeypatch.setattr(pool, "_OVERCOMMIT", tmp_path / "overcommit")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert pool._reserved_bytes.__wrapped__() == 0
    monkeypatch.setattr(pool, "_OVERCOMMIT", tmp_path / "missing")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert pool._reserved_bytes.__wrapped__() > MB


def test_tensors_elsewhere_are_torchs():
    assert pool.new_empty(torch.empty(0, device="meta"), 1000, 1000).device.type == "meta"


def test_pages_go_back():
    kept, dropped = _bytes(MB).fill_(5), _bytes(64 * MB).fill_(7)
    before = memory.resident_bytes()
    del dropped
    pool.give_back()
    assert before - memory.resident_bytes() > 60 * MB
    assert (kept == 5).all()


@pytest.mark.skipif(not forked.is_possible(), reason="needs a system that forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_memory_of_its_own():
    tensor = _bytes(MB).fill_(1)
    pid = os.fork()
    if pid == 0:
        place = tensor.fill_(2).data_ptr()
        del tensor
        os._exit(0 if _bytes(MB).fill_(3).data_ptr() == place else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tensor == 1).all()


@pytest.mark.skipif(not forked.is_possible(), reason="needs a system that forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_that_is_forked_while_another_thread_asks_does_not_wait_for_it():
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            _bytes(pool.SMALLEST_BYTES)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                signal.alarm(5)  # ends it, should it wait
                _bytes(MB)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        done.set()
        thread.join()
