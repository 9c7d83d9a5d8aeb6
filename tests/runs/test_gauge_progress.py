"""The retention gauge takes seconds on a small model and minutes on a large one, so it says how far it is."""

from __future__ import annotations

import pytest

import tiny_models
from tiny_runs import Silent
from tunesmith.evaluation.encoder_gauge import EncoderGauge
from tunesmith.evaluation.language_gauge import LanguageGauge
from tunesmith.evaluation.retention import general_rows
from tunesmith.model.forward import PackedForward
from tunesmith.runs.measure import reader


@pytest.mark.parametrize(
    ("kind", "name", "task"), [(LanguageGauge, "llama", "causal"), (EncoderGauge, "bert", "classification")]
)
def test_the_gauge_says_how_far_it_is(kind, name, task):
    rows = general_rows(lambda text: [8 + byte % 40 for byte in text.encode()], max_tokens=12)
    ruler, watch = kind(rows, tokens_per_pass=100), Silent()
    forward = PackedForward(tiny_models.build(name, task))
    record = ruler.before(reader(forward, ruler, watch, "first"))
    ruler.after(reader(forward, ruler, watch, "second"), record)
    for phase in ("first", "second"):
        done = [progress.done for progress in watch.steps if progress.phase == phase]
        assert done == sorted(set(done))
        assert (done[0], done[-1]) == (0, len(rows))
        assert len(done) > 5
    assert {progress.total for progress in watch.steps} == {len(rows)}
