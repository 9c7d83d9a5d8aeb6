"""Measure a finished run on other rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith import settings
from tunesmith.data.prepare import prepare_for_evaluation
from tunesmith.data.prepared import Part
from tunesmith.model import token_rows
from tunesmith.model.source import Source
from tunesmith.reports.result import RunResult, Stage
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
    num_classes = len(predictor.result.data.labels)
    part = rows_like(predictor.result, predictor.source, data, str(folder))
    token_rows.require(predictor.model, part.tokens.input_ids, predictor.source.tokenizer)
    scores = score(predictor.forward, part, watch, "evaluating")
    rows = writing.rows_to_measure(part)
    written = writing.answer(predictor.model, predictor.source.tokenizer, part, rows, watch) if rows else []
    measures = scores.metrics(num_classes) | writing.measures(part, rows, written)
    return [Stage(name="tuned model", split=", ".join(Path(path).name for path in data), metrics=measures)]


def rows_like(result: RunResult, source: Source, data: Sequence[str], where: str) -> Part:
    """The rows of `data`, read and tokenised as those of a run were; `where` names the run in errors.

    Raises:
        InputError: If they cannot be read or have labels that the model does not know.
    """
    chosen = settings.from_mapping(FitSettings, result.settings, f"{where}/run.json")
    assert chosen.task != "auto"
    return prepare_for_evaluation(
        data,
        source.tokenizer,
        like=chosen.data,
        task=chosen.task,
        labels=tuple(result.data.labels),
        max_length=result.data.max_length,
    )
