"""Data sets of the hub, by a stand-in for the `datasets` library that serves what a test gives it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from tunesmith.data import hub
from tunesmith.data.prepare import prepare
from tunesmith.data.read import read
from tunesmith.errors import DataError, Offline
from tunesmith.settings import DataSettings


@dataclass
class ClassLabel:
    names: list[str]


@dataclass
class Split:
    columns: dict[str, list[Any]]
    features: dict[str, object] = field(default_factory=dict)

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        count = len(next(iter(self.columns.values())))
        for start in range(0, count, batch_size):
            yield {name: values[start : start + batch_size] for name, values in self.columns.items()}


LABELLED = Split(
    {"text": [f"a text of number {i}" for i in range(40)], "label": [i % 2 for i in range(40)]},
    {"text": "string", "label": ClassLabel(["bad", "good"])},
)
Serve = Callable[..., list[tuple[str, dict[str, object]]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let the library serve these splits, or fail; gives the list of what is asked of it."""

    def start(splits: dict[str, Split] | Exception, version: str = "4.5.0") -> list[tuple[str, dict[str, object]]]:
        asked: list[tuple[str, dict[str, object]]] = []

        def load_dataset(name: str, **settings: object) -> dict[str, Split]:
            asked.append((name, settings))
            if isinstance(splits, Exception):
                raise splits
            return splits

        module = ModuleType("datasets")
        vars(module).update(load_dataset=load_dataset, disable_progress_bars=lambda: None)
        vars(module).update(ClassLabel=ClassLabel, __version__=version)
        monkeypatch.setitem(sys.modules, "datasets", module)
        return asked

    return start


def test_rows_with_named_classes(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "ROWS_AT_ONCE", 7)
    asked = serve({"train": LABELLED, "test": Split({"text": ["no"]})})
    table = read(["owner/reviews"])
    assert asked == [("owner/reviews", {"streaming": False})], "nothing that could allow code to run"
    assert table.values["label"][:3] == ["bad", "good", "bad"]
    assert table.values["text"] == LABELLED.columns["text"]
    assert table.numbers.tolist() == list(range(1, 41))
    assert (table.name, len(table.fingerprint)) == ("owner/reviews", 64)


def test_the_fingerprint_is_that_of_the_rows(serve: Serve):
    prints = []
    for columns in ({"text": ["a", "b"]}, {"text": ["a", "b"]}, {"text": ["a", "c"]}, {"texts": ["a", "b"]}):
        serve({"train": Split(columns)})
        prints.append(read(["owner/x"]).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("splits", "name", "expected"), [("train test", "a/b", "train"), ("train test", "a/b:test", "test"), ("all", "a/b", "all")]
)
def test_which_split(serve: Serve, splits: str, name: str, expected: str):
    serve({split: Split({"text": [split]}) for split in splits.split()})
    assert read([name]).values["text"] == [expected]


def test_an_unknown_split_names_those_there_are(serve: Serve):
    serve({"dev": LABELLED, "test": LABELLED})
    with pytest.raises(DataError, match="has no split 'train'. Name one of these: a/b:dev, a/b:test."):
        read(["a/b"])


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (ConnectionError("no route"), Offline, r"The hub cannot be reached.*\(no route\)"),
        (FileNotFoundError("Dataset 'a/b' doesn't exist"), DataError, "doesn't exist"),
        (ValueError("Config name is missing.\nPick one"), DataError, r"Config name is missing\.$"),
        (RuntimeError("Dataset scripts are no longer supported"), DataError, "no longer supported"),
    ],
)
def test_what_goes_wrong_is_told(serve: Serve, failure: Exception, kind: type[Exception], message: str):
    serve(failure)
    with pytest.raises(kind, match=message):
        read(["a/b"])


def test_a_version_that_may_run_code_is_refused(serve: Serve):
    asked = serve({"train": LABELLED}, "3.6.0")
    with pytest.raises(DataError, match=r"datasets 3\.6\.0 may run code.*pip install 'tunesmith\[hub\]'"):
        read(["a/b"])
    assert not asked


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tunesmith\[hub\]'.*hf download --repo-type dataset a/b --local-dir"):
        read(["a/b:test"])


@pytest.mark.parametrize(
    "name", ["data/rows.jsonl", "rows.csv", "alpaca", "/data/x", "a/b/c", "here/x", "here/rows.cvs", "../x/y"]
)
def test_a_path_is_not_looked_for_on_the_hub(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert not hub.is_id(name)


def test_from_the_hub_to_tokens(serve: Serve, tiny_tokenizer):
    serve({"train": LABELLED})
    data = prepare(DataSettings(data=("a/b",)), tiny_tokenizer("encoder"), task="auto", model_max_length=64, kind="encoder")
    assert (data.task, data.labels, data.name) == ("classification", ("bad", "good"), "a/b")
    assert len(data.train) + len(data.validation) + len(data.test) == 40
