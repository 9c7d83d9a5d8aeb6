"""Encoder-decoders learn from sources and targets by every method, and are measured by what they write."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging

import pytest

import run_data
import tiny_tokenizer
from tunesmith import registry
from tunesmith.commands import main

METHODS = registry.names("tunesmith.methods")
QUICK = ("t5", "lora")


@pytest.fixture(scope="module")
def translated(bench):
    """A finished run of a model by a method."""
    import tunesmith as ts

    def fit(model, method):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
            return ts.fit(
                bench.translations,
                model=getattr(bench, model),
                method=method,
                task="seq2seq",
                eval=bench.more_translations,
                out=bench.folder / f"translations-{model}-{method}",
                steps=3,
                learning_rate=0.01,
                precision="float32",
                more={"patience": 0},
            )

    return functools.cache(fit)


CASES = [
    pytest.param(model, method, marks=() if (model, method) == QUICK else pytest.mark.slow)
    for model in ("t5", "bart")
    for method in METHODS
]


@pytest.mark.parametrize(("model", "method"), CASES)
def test_every_method_is_measured_by_what_it_writes(translated, model, method):
    result = translated(model, method).result
    assert result.status == "finished"
    assert result.task == "seq2seq"
    stages = {stage.name: stage.metrics for stage in result.stages if stage.split == "test"}
    for name in ("base model", "tuned model"):
        for metric in ("rouge_l", "exact_match"):
            measure = stages[name][metric]
            assert measure.count == result.data.num_test
            assert measure.low is not None
            assert measure.high is not None
            assert 0 <= measure.low <= measure.value <= measure.high <= 1
    for metric in ("rouge_l", "exact_match"):
        change = stages["tuned model"][metric].value - stages["base model"][metric].value
        assert stages["paired difference"][metric].value == pytest.approx(change, abs=1e-9)
    assert stages["tuned model"]["loss"].value != stages["base model"]["loss"].value
    assert len(result.examples) == 6
    assert {example.expected for example in result.examples} <= set(run_data.WORDS)


def test_the_report_and_the_card_show_it(translated):
    folder = translated(*QUICK).folder
    for page in ("report.html", "README.md"):
        text = (folder / page).read_text()
        assert "ROUGE" in text
        assert "exact match" in text.lower()


def test_evaluate_measures_the_same(translated, bench, capsys):
    """On rows that the model has learnt, and on the very rows of the run."""
    run = translated(*QUICK)
    assert main(["evaluate", str(run.folder), str(bench.translations), "--json", "--quiet"]) == 0
    [stage] = json.loads(capsys.readouterr().out)["stages"]
    assert stage["metrics"]["rouge_l"]["count"] == stage["metrics"]["exact_match"]["count"] == 60
    assert stage["metrics"]["loss"]["count"] == 60


def test_what_was_learnt_shows(bench, tmp_path, no_figures):
    """Every target is the same word, which the model writes after some steps and before them never."""
    import tunesmith as ts
    from tunesmith.reports.verdict import judge

    rows = [json.loads(line) | {"target": "red"} for line in bench.translations.read_text().splitlines()]
    path = tmp_path / "red.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"task": "seq2seq", "method": "full", "learning_rate": 0.01, "precision": "float32"}
    run = ts.fit(path, model=bench.t5, eval=path, out=tmp_path / "run", steps=40, **settings)
    stages = {stage.name: stage.metrics for stage in run.result.stages if stage.split == "test"}
    assert stages["base model"]["exact_match"].value == 0
    assert stages["tuned model"]["exact_match"].value == 1
    assert stages["tuned model"]["rouge_l"].value == 1
    verdict = judge(run.result)
    assert (verdict.metric, verdict.difference) == ("rouge_l", "better")
    assert {example.after for example in run.result.examples} == {"red"}


def test_how_many_rows_are_written_is_said(bench, tmp_path, capsys):
    data = [str(bench.translations), "--eval", str(bench.more_translations)]
    words = [*data, "--model", str(bench.bart), "--steps", "1", "--precision", "float32", "--out", str(tmp_path / "run")]
    assert main(["fit", *words]) == 0
    said = capsys.readouterr()
    assert said.err.count("writing answers to 12 of 12 held-out rows, of at most 12 tokens") == 2
    assert "learning to write `target` from `source`" in said.err
    assert "ROUGE-L" in said.out


def test_answers_may_be_as_long_as_their_targets(bench, tmp_path, no_figures, caplog, monkeypatch):
    """A limit below them would make an exact match impossible, and ROUGE-L small, whatever the model has learnt."""
    import tunesmith as ts

    monkeypatch.setattr(logging.getLogger("tunesmith"), "disabled", False)  # import-linter switches off all loggers it finds
    rows = [{"source": f"{word} stone", "target": f"{word} " * 40} for word in run_data.WORDS]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level("INFO", "tunesmith"):
        ts.fit(path, model=bench.t5, eval=path, out=tmp_path / "run", steps=1, precision="float32")
    (limit,) = {int(text.split()[-2]) for text in caplog.messages if "held-out rows, of at most" in text}
    longest = max(len(tiny_tokenizer.build("seq2seq")(row["target"])["input_ids"]) for row in rows)
    assert longest > 128
    assert limit == longest + 64


def test_a_source_as_long_as_the_model_is_answered(bench, tmp_path, no_figures):
    """What an encoder-decoder reads takes no room from what it writes, and what is too long is cut as in training."""
    import tunesmith as ts

    rows = [{"source": "word " * 60 + str(n), "target": "word"} for n in range(40)]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ts.fit(path, model=bench.bart, task="seq2seq", out=tmp_path / "run", steps=1, precision="float32", method="prompt")
    assert run.result.data.max_length == 108  # 128 positions less 20 virtual tokens
    assert len(run.predict([rows[0]["source"]])) == 1


def test_rows_beyond_the_limit_are_drawn(monkeypatch, translated):
    from tunesmith.runs import writing

    monkeypatch.setattr(writing, "NUM_MEASURED", 3)
    result = translated(*QUICK).result
    part = dataclasses.make_dataclass("Part", ["tokens", "examples"])
    tokens = dataclasses.make_dataclass("Tokens", ["target_ids"])
    rows = writing.rows_to_answer("seq2seq", part(tokens([1]), list(range(result.data.num_test))))
    assert len(set(rows)) == 3
