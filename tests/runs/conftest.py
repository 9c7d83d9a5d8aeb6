"""Tiny models and data, made once, and finished runs of every kind, each made when the first test asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import run_data
from forking import Server


@dataclass(frozen=True)
class Bench:
    """A folder with models and data files."""

    folder: Path
    bert: Path
    llama: Path
    t5: Path
    bart: Path
    reviews: Path
    pairs: Path
    chats: Path
    more_chats: Path
    translations: Path
    more_translations: Path
    documents: Path


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench(
        folder,
        run_data.save_model(folder / "bert", "bert"),
        run_data.save_model(folder / "llama", "llama"),
        run_data.save_model(folder / "t5", "t5"),
        run_data.save_model(folder / "bart", "bart"),
        run_data.write_reviews(folder / "reviews.csv"),
        run_data.write_pairs(folder / "pairs.jsonl"),
        run_data.write_chats(folder / "chats.jsonl"),
        run_data.write_chats(folder / "more-chats.jsonl", num_rows=12, seed=7),
        run_data.write_translations(folder / "translations.jsonl"),
        run_data.write_translations(folder / "more-translations.jsonl", num_rows=12, seed=8),
        run_data.write_documents(folder / "documents"),
    )


@pytest.fixture(scope="session")
def finished(bench: Bench):
    """A finished run by kind ('reviews', 'pairs', 'chats', 'documents') and method."""
    import tunesmith as ts

    @functools.cache
    def make(kind: str, method: str) -> ts.Run:
        with pytest.MonkeyPatch.context() as patch:
            if (kind, method) != ("reviews", "lora"):  # drawing takes longer than a tiny run
                patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
            return fit(kind, method)

    def fit(kind: str, method: str) -> ts.Run:
        model = bench.bert if kind in ("reviews", "pairs") else bench.llama
        return ts.fit(
            getattr(bench, kind),
            model=model,
            method=method,
            task="text" if kind == "documents" else "auto",
            out=bench.folder / f"{kind}-{method}",
            steps=4,
            learning_rate=0.01,
            precision="float32",
            max_length=64,
            eval=bench.more_chats if kind == "chats" else None,
            more={"patience": 0},
        )

    return lambda kind, method="lora": make(kind, method)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts command lines in processes of their own."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def fit_words(bench: Bench) -> Callable[..., list[str]]:
    """The command line of a short run that saves after every step."""

    def words(out: Path | str, *more: str, method: str = "lora") -> list[str]:
        steps = ["--epochs", "2", "--rows-per-step", "8", "--checkpoint-every-steps", "1", "--patience", "0"]
        settings = ["--method.dropout", "0.1", "--method.rank", "4"] if method == "lora" else []
        model = ["--model", str(bench.bert), "--method", method, *settings, "--learning-rate", "0.01"]
        return ["fit", str(bench.reviews), *model, *steps, "--precision", "float32", "--out", str(out), "--quiet", *more]

    return words


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, whose drawing takes longer than a tiny run."""
    monkeypatch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
