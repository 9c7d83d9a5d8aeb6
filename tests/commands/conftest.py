"""The commands without an engine: `tunesmith.runs` is replaced by what a test wants it to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest

import tunesmith.runs
from tunesmith.commands import main
from tunesmith.reports.result import DataFacts, Measure, ModelFacts, RunResult, Stage


@dataclass
class Outcome:
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def tunesmith_run(capsys, monkeypatch, tmp_path) -> Callable[..., Outcome]:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        code = main(words)
        seen = capsys.readouterr()
        return Outcome(code, seen.out, seen.err)

    return run


@pytest.fixture
def engine(monkeypatch) -> Callable[..., None]:
    """Put functions in place of a module of `tunesmith.runs`: engine("fit", fit=..., rehearse=...)."""

    def replace(name: str, **functions: Callable[..., object]) -> None:
        module = ModuleType(f"tunesmith.runs.{name}")
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(tunesmith.runs, name, module, raising=False)

    return replace


@pytest.fixture
def result() -> RunResult:
    """A run that never was."""
    return RunResult(
        task="classification",
        method={"name": "lora", "rank": 4},
        command=["tunesmith", "fit"],
        created="2026-01-02T03:04:05+00:00",
        settings={},
        versions={},
        machine={},
        seed=0,
        model=ModelFacts(
            name="m", fingerprint="ab", architecture="Toy", num_parameters=100, num_trainable=4, precision="float32"
        ),
        data=DataFacts(
            name="reviews.csv",
            fingerprint="cd",
            shape="text+label",
            description="read 9 rows",
            num_train=7,
            num_validation=1,
            num_test=1,
            num_skipped=0,
            train_tokens=70,
            labelled_tokens=7,
            max_length=16,
            labels=["bad", "good"],
        ),
        status="finished",
        stages=[
            Stage(
                name="majority class",
                kind="majority",
                split="test",
                metrics={"accuracy": Measure(value=0.5, low=0.4, high=0.6, count=100)},
            ),
            Stage(
                name="tuned model",
                kind="tuned",
                split="test",
                metrics={"accuracy": Measure(value=0.9, low=0.85, high=float("nan"), count=100)},
            ),
        ],
    )


@pytest.fixture
def saved_run(result, tmp_path) -> RunResult:
    """The same, saved as runs/first."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    result.save(folder)
    return result
