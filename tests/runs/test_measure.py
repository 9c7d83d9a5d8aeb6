"""Intervals rest on what is independent: rows of the data, however many windows a long text is read in."""

from __future__ import annotations

import json

import numpy as np
import pytest

import run_data
import tiny_runs
from tiny_runs import Silent
from tunesmith.data.columns import ChosenExamples
from tunesmith.data.prepared import Part
from tunesmith.methods.lora import LoRA
from tunesmith.model.trial import sharing
from tunesmith.runs.measure import Scores, score


def test_windows_of_one_text_are_one_row():
    losses, counts = np.arange(300.0), np.full(300, 10)
    few = Scores(losses, counts, origins=np.repeat([4, 9], 150)).metrics(0)["loss"]
    assert (few.count, few.low, few.high) == (2, None, None), "two texts show nothing of the spread between texts"
    assert few.value == pytest.approx(losses.sum() / counts.sum())
    many = Scores(losses, counts, origins=np.repeat(np.arange(30), 10)).metrics(0)["loss"]
    assert many.count == 30
    alone = Scores(losses, counts, origins=np.arange(300)).metrics(0)["loss"]
    assert many.low < alone.low < alone.value < alone.high < many.high


def test_a_run_on_long_texts_counts_texts(no_figures, bench, tmp_path):
    import tunesmith as ts

    texts = run_data.write_documents(tmp_path / "texts", num_documents=20)
    run = ts.fit(texts, model=bench.llama, task="text", out=tmp_path / "run", max_length=16, steps=1, more={"test_share": 0.3})
    assert (run.result.data.num_train, run.result.data.num_test) == (13, 6)
    for stage in run.result.stages:
        if stage.split == "test":
            assert stage.metrics["loss"].count == 6, stage.name
    assert json.loads((run.folder / "run.json").read_text())["data"]["num_validation"] == 1
    (again,) = run.evaluate(bench.documents)
    assert again.metrics["loss"].count == 12


def test_what_all_rows_begin_with_is_computed_once():
    table = tiny_runs.table_that_begins_alike(num_rows=30)
    forward, _ = tiny_runs.attached(LoRA(rank=2))
    part, passes = Part(examples=ChosenExamples([], np.arange(30)), tokens=table, origins=np.arange(30)), []
    forward.model.get_submodule("model.layers.0").register_forward_hook(lambda _, inputs, __: passes.append(inputs[0].shape[1]))
    plain = score(forward, part, Silent(), "evaluating")
    computed = sum(passes)
    forward = sharing(forward)
    passes.clear()
    shared = score(forward, part, Silent(), "evaluating")
    assert forward.shares
    assert len(passes) == 1
    assert computed - passes[0] == 29 * table.num_common
    assert shared.losses == pytest.approx(plain.losses, rel=1e-5)
    assert shared.counts.tolist() == plain.counts.tolist()


@pytest.mark.parametrize("shares", [False, True])
def test_no_rows_have_no_scores(shares: bool):
    forward, table = tiny_runs.attached(LoRA(rank=2))[0], tiny_runs.language_table().select([])
    part = Part(examples=ChosenExamples([], np.arange(0)), tokens=table, origins=np.arange(0))
    assert len(score(sharing(forward) if shares else forward, part, Silent(), "evaluating").losses) == 0
