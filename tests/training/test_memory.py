"""What the process holds, and the most it held."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from tunesmith.kernels import pool
from tunesmith.kernels.cpu import compiled
from tunesmith.training import memory

SIZE = 64 * 2**20


def test_a_large_tensor_is_seen():
    memory.give_back()  # else it may be put where something was freed
    before = memory.resident_bytes()
    tensor = torch.ones(SIZE // 4)
    held = memory.resident_bytes()
    assert 0.9 * SIZE < held - before < 1.5 * SIZE
    assert memory.peak_bytes() >= 0.99 * held  # two readings of the kernel's counters
    del tensor


def test_the_peak_does_not_fall():
    tensor = torch.ones(SIZE // 4)
    peak = memory.peak_bytes()
    del tensor
    assert memory.peak_bytes() >= 0.99 * peak
    assert 2**24 < peak < 2**40


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be forgotten on Linux only")
def test_the_peak_is_forgotten_on_demand():
    tensor = torch.ones(SIZE // 4)
    peak = memory.peak_bytes()
    del tensor
    memory.give_back()
    assert memory.forget_peak()
    assert memory.peak_bytes() < peak - SIZE // 2


def test_a_peak_that_cannot_be_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "_REFERENCES", tmp_path / "none" / "clear_refs")
    assert not memory.forget_peak()


@pytest.mark.skipif(not memory._has_glibc(), reason="another C library keeps what it likes")
def test_what_a_run_took_is_given_back():
    @memory.returned()
    def run() -> None:
        memory.keep_freed_memory()
        circle = [torch.ones(SIZE // 64) for _ in range(16)]
        circle.append(circle)  # pyright: ignore[reportArgumentType]
        held.append(memory.resident_bytes())

    held: list[int] = []
    before = memory.resident_bytes()
    run()
    assert held[0] > before + SIZE // 2
    assert memory.resident_bytes() < before + SIZE // 8


def test_without_a_status_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    usual = memory.peak_bytes()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.peak_bytes() == pytest.approx(usual, rel=0.1)
    assert memory.resident_bytes() == memory.peak_bytes()


def test_the_allocator_is_left_alone_where_it_is_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert memory.keep_freed_memory() is False


def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    memory.keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"


@pytest.mark.skipif(not compiled.is_there(), reason="needs a C compiler")
def test_trimming_leaves_the_next_pass_its_pages_and_giving_back_does_not():
    memory.give_back()  # what others left
    dropped = pool.new_empty(torch.empty(0), 64 * 2**20, dtype=torch.uint8).fill_(1)
    held = memory.resident_bytes()
    del dropped
    memory.trim()
    assert held - memory.resident_bytes() < 8 * 2**20
    memory.give_back()
    assert held - memory.resident_bytes() > 56 * 2**20
