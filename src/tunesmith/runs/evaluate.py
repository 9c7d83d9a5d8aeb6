"""Measure a finished run on other rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith import settings
from tunesmith.data.prepare import prepare_for_evaluation
from tunesmith.reports.result import Stage
from tunesmith.runs import predict, writing
from tunesmith.runs.measure import score
from tunesmith.settings import FitSettings
from tunesmith.watch import Watch


def evaluate(folder: Path, data: Sequence[str], watch: Watch) -> list[Stage]:
    """Metrics of the tuned model on `data`, with 95 % intervals.

    Raises:
        InputError: If the run is not finished, or the rows cannot be read or have labels that the model does not know.
    """
    predictor = predict.load(folder)
    facts = predictor.result.data
    run_settings = settings.from_mapping(FitSettings, predictor.result.settings, f"{folder}/run.json")
    assert run_settings.task != "auto"
    part = prepare_for_evaluation(
        data,
        predictor.source.tokenizer,
        like=run_settings.data,
        task=run_settings.task,
        labels=tuple(facts.labels),
        max_length=facts.max_length,
    )
    scores = score(predictor.forward, part, watch, "evaluating")
    rows = writing.rows_to_measure(part)
    written = writing.answer(predictor.model, predictor.source.tokenizer, part, rows, watch) if rows else []
    measures = scores.metrics(len(facts.labels)) | writing.measures(part, rows, written)
    return [Stage(name="tuned model", split=", ".join(Path(path).name for path in data), metrics=measures)]
