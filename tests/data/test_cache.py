"""Prepared rows are kept: the same again at once, anew whenever anything differs, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny_tokenizer
from data_sentences import sentences
from tunesmith.data import cache, prepare
from tunesmith.data.prepared import PreparedData
from tunesmith.data.table import TokenTable
from tunesmith.settings import DataSettings

TEXTS = sentences(120, seed=5, words=8)
KINDS = {"encoder": "encoder", "seq2seq": "encoder-decoder"}
FROM_CACHE = ["took the prepared rows from the cache (--cache off makes them anew)"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def chats(path: Path, count: int = 60, empty: int = 3) -> str:
    rows = [{"prompt": text, "completion": "" if i < empty else text[::-1]} for i, text in enumerate(TEXTS[:count])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reviews(path: Path, rows: slice = slice(60)) -> str:
    labelled = [{"text": text, "label": ["bad", "good"][i % 2]} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in labelled[rows]))
    return str(path)


def run(
    path: str, *, kind: str = "chat", task: str = "auto", length: int = 512, known: tuple[str, ...] = (), **more
) -> PreparedData:
    tokenizer = tiny_tokenizer.build(kind)  # type: ignore[arg-type]
    settings = DataSettings(data=(path,), **more)
    return prepare.prepare(
        settings, tokenizer, task=task, model_max_length=length, kind=KINDS.get(kind, "decoder"), known_labels=known
    )


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def assert_same(one: PreparedData, other: PreparedData) -> None:
    for field in dataclasses.fields(PreparedData):
        if field.name not in ("train", "validation", "test", "notes"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert list(mine.examples) == list(theirs.examples)
        assert mine.origins.tolist() == theirs.origins.tolist()
        for column in dataclasses.fields(TokenTable):
            first, second = (getattr(part.tokens, column.name) for part in (mine, theirs))
            if isinstance(first, np.ndarray):
                assert first.dtype == second.dtype
                assert first.tobytes() == second.tobytes(), column.name
            else:
                assert first == second


CASES: dict[str, Callable[[Path], PreparedData]] = {
    "conversations": lambda p: run(chats(p / "a.jsonl")),
    "a class per row": lambda p: run(reviews(p / "a.jsonl"), kind="encoder"),
    "no test rows": lambda p: run(reviews(p / "a.jsonl"), kind="encoder", test_share=0.0),
    "rows of --eval": lambda p: run(reviews(p / "a.jsonl"), kind="encoder", eval=reviews(p / "b.jsonl", slice(50, 90))),
    "texts": lambda p: run(chats(p / "a.jsonl"), kind="plain", task="text", text_column="prompt", length=32),
    "targets": lambda p: run(chats(p / "a.jsonl"), kind="seq2seq", task="seq2seq"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_second_time_is_the_same_and_reads_no_row(tmp_path, monkeypatch, name):
    first = CASES[name](tmp_path)
    monkeypatch.setattr(prepare, "load", lambda *_: pytest.fail("it was prepared anew"))
    again = CASES[name](tmp_path)
    assert (first.notes, again.notes) == ([], FROM_CACHE)
    assert_same(first, again)


def test_nothing_is_kept_when_it_is_off(tmp_path, folder):
    assert [run(chats(tmp_path / "a.jsonl"), cache="off").notes for _ in range(2)] == [[], []]
    assert not folder.exists()


def _other_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_tokenizer, "CHAT_TEMPLATE", tiny_tokenizer.CHAT_TEMPLATE + "{# #}")


MISSES: dict[str, Callable[[Path, pytest.MonkeyPatch], PreparedData]] = {
    "other bytes": lambda p, _: run(chats(p / "a.jsonl", 59)),
    "another name": lambda p, _: run(chats(p / "b.jsonl")),
    "a tokenizer of another kind": lambda p, _: run(chats(p / "a.jsonl"), kind="plain"),
    "another template": lambda p, m: (_other_template(m), run(chats(p / "a.jsonl")))[1],
    "what the model takes": lambda p, _: run(chats(p / "a.jsonl"), length=511),
    "the task": lambda p, _: run(chats(p / "a.jsonl"), task="chat"),
    "the code": lambda p, m: (m.setattr(cache, "_facts_of_code", dict), run(chats(p / "a.jsonl")))[1],
    "--eval": lambda p, _: run(chats(p / "a.jsonl"), eval=chats(p / "c.jsonl", 20)),
} | {
    f"--{name}": lambda p, _, name=name, value=value: run(chats(p / "a.jsonl"), **{name: value})
    for name, value in {
        "max_rows": 50, "max_length": 200, "shape": "prompt/completion", "prompt_column": "prompt",
        "answer_column": "completion", "validation_share": 0.2, "test_share": 0.2, "split_seed": 1,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("name", MISSES)
def test_whatever_differs_is_prepared_anew(tmp_path, monkeypatch, folder, name):
    run(chats(tmp_path / "a.jsonl"))
    assert MISSES[name](tmp_path, monkeypatch).notes == []
    assert len(entries(folder)) == 2


def test_every_setting_of_the_data_is_part_of_the_key():
    """A setting that is new shows up here: the key takes all but these."""
    names = {field.name for field in dataclasses.fields(DataSettings)} - {"data", "eval", "cache"}
    tried = {name.removeprefix("--") for name in MISSES} | {"text_column", "pair_column", "label_column"}
    assert names <= tried


def test_classes_that_the_model_knows_are_part_of_the_key(tmp_path, folder):
    path = reviews(tmp_path / "a.jsonl")
    assert run(path, kind="encoder").labels == ("bad", "good")
    assert run(path, kind="encoder", known=("good", "bad")).labels == ("good", "bad")
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("file", ["rows.safetensors", "prepared.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "empty"])
def test_damage_is_said_and_made_good(tmp_path, folder, file, damage):
    first = run(chats(tmp_path / "a.jsonl"))
    (entry,) = entries(folder)
    content = bytearray((entry / file).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / file).write_bytes({"flipped": content, "cut": content[:99]}.get(damage, b""))
    if damage == "gone":
        (entry / file).unlink()
    again = run(chats(tmp_path / "a.jsonl"))
    assert len(again.notes) == 1
    assert "damaged" in again.notes[0]
    assert_same(first, again)
    assert run(chats(tmp_path / "a.jsonl")).notes == FROM_CACHE


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, folder):
    folder.parent.write_text("a file where a folder should be")
    data = run(chats(tmp_path / "a.jsonl"))
    assert len(data.notes) == 1
    assert "not kept in the cache" in data.notes[0]
    assert len(data.train) > 0


def test_those_not_used_for_longest_go_first(tmp_path, folder, monkeypatch):
    paths = [chats(tmp_path / f"{number}.jsonl", 60 + number) for number in range(3)]
    run(paths[0])
    size = sum(file.stat().st_size for file in entries(folder)[0].iterdir())
    os.utime(entries(folder)[0], (1, 1))
    run(paths[1])
    assert run(paths[0]).notes == FROM_CACHE  # so that the other one is the older
    os.utime(next(e for e in entries(folder) if e.stat().st_mtime == min(x.stat().st_mtime for x in entries(folder))), (2, 2))
    monkeypatch.setattr(cache, "MAX_BYTES", int(2.5 * size) + 10_000)
    run(paths[2])
    assert len(entries(folder)) == 2
    assert run(paths[0]).notes == FROM_CACHE
    assert run(paths[1]).notes == []


def test_rows_too_many_for_the_cache_are_not_kept(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 1000)
    assert "the cache holds" in run(chats(tmp_path / "a.jsonl")).notes[0]
    assert not folder.exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, folder, monkeypatch):
    path, load = chats(tmp_path / "a.jsonl"), prepare.load
    monkeypatch.setattr(prepare, "load", lambda *rest: (chats(tmp_path / "a.jsonl", 50), load(*rest))[1])
    run(path)
    assert not folder.exists()


def _prepare_in_a_process(path: str, barrier, results) -> None:
    barrier.wait()
    results.put((run(path).train.tokens.input_ids.tobytes(), os.getpid()))


def test_two_processes_at_once(tmp_path, folder):
    path, context = chats(tmp_path / "a.jsonl"), multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_prepare_in_a_process, args=(path, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=100)[0] for _ in processes}
    for process in processes:
        process.join()
    assert found == {run(path).train.tokens.input_ids.tobytes()}
    assert len(entries(folder)) == 1
    assert run(path).notes == FROM_CACHE
