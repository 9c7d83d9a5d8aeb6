"""Blocks come back in order, by one process or several, and what fails in a process is said by the one that asked."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pytest

import tiny_tokenizer
from data_sentences import sentences
from tunesmith.data import parallel
from tunesmith.data.columns import ExampleBuilder
from tunesmith.data.examples import Chat, Message
from tunesmith.data.parallel import in_blocks
from tunesmith.data.tokenise import tokenise, tokenise_apart, tokenising
from tunesmith.errors import ModelError, WorkerLost


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr("tunesmith.data.tokenise.ROWS_AT_ONCE", 7)


def found(work, count: int = 30) -> list[object]:
    return list(in_blocks(count, lambda: contextlib.nullcontext(work)))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_in_order(monkeypatch, processes):
    monkeypatch.setattr(parallel, "_num_processes", lambda _: processes)
    seen = found(lambda block: (block.start, block.stop, os.getpid()))
    assert [borders for *borders, _ in seen] == [[0, 7], [7, 14], [14, 21], [21, 28], [28, 30]]
    assert len({pid for *_, pid in seen}) == processes
    assert (os.getpid() in {pid for *_, pid in seen}) == (processes == 1)


def test_as_many_as_there_are_cores_but_one_for_little(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert [parallel._num_processes(count) for count in (1, 2, 3, 100)] == [1, 1, 3, 4]
    monkeypatch.setattr(parallel.forked, "is_possible", lambda: False)
    assert parallel._num_processes(100) == 1


def test_what_fails_is_said(monkeypatch):
    monkeypatch.setattr(parallel, "_num_processes", lambda _: 2)

    def fail(error: Exception):
        raise error

    with pytest.raises(ModelError, match="^the template$"):
        found(lambda _: fail(ModelError("the template")))
    with pytest.raises(WorkerLost, match=r"ZeroDivisionError: by 0"):
        found(lambda _: fail(ZeroDivisionError("by 0")))
    with pytest.raises(WorkerLost, match=r"ended from outside"):
        found(lambda _: os.kill(os.getpid(), signal.SIGKILL))


def test_no_process_is_left(monkeypatch):
    monkeypatch.setattr(parallel, "_num_processes", lambda _: 2)
    pids = {pid for pid in found(lambda _: os.getpid()) if isinstance(pid, int)}
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_are_the_rows_of_the_whole(monkeypatch, processes):
    monkeypatch.setattr(parallel, "_num_processes", lambda _: processes)
    chats = [Chat((Message("user", text), Message("assistant", text[::-1]))) for text in sentences(40, seed=1, words=5)]
    chats[9] = Chat((Message("user", "a" * 90), Message("assistant", "b")))
    builder = ExampleBuilder("chat")
    for chat in chats:
        builder.add(chat)
    tokenizer, part_of = tiny_tokenizer.build("chat"), np.arange(40, dtype=np.int8) % 3
    whole = tokenise(chats, tokenizer, task="chat", max_length=80)
    parts, lost = tokenise_apart(builder.build(), part_of, lambda: tokenising(tokenizer, task="chat", max_length=80))
    for code, (table, kept) in enumerate(parts):
        rows = np.flatnonzero(part_of[whole.kept] == code)
        expected = whole.table.select(rows)
        assert kept.tolist() == whole.kept[rows].tolist()
        assert np.array_equal(table.input_ids, expected.input_ids)
        assert np.array_equal(table.token_labels, expected.token_labels)
        assert table.offsets.tolist() == expected.offsets.tolist()
    assert list(lost.refused) == [9]
    for name in ("refused", "notes", "num_cut_texts", "num_cut_answers", "wanted_length", "template"):
        assert getattr(lost, name) == getattr(whole, name), name
