"""Measure a finished run on other rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunesmith import settings
from tunesmith.data.prepare import prepare_for_evaluation
from tunesmith.data.prepared import OtherRows
from tunesmith.model import token_rows
from tunesmith.model.source import Source
from tunesmith.reports.result import RunResult, Stage
from tunesmith.runs import predict, writing
from tunesmith.runs.measure import score
from tunesmith.runs.session import with_starters
from tunesmith.settings import FitSettings
from tunesmith.watch import Watch


class Evaluation(NamedTuple):
    """How a finished run does on other rows."""

    stages: list[Stage]
    description: list[str]
    """How the rows were read."""
    warnings: list[str]
    """Why the numbers may not be those of the whole data."""


def evaluate(folder: Path, data: Sequence[str], watch: Watch) -> Evaluation:
    """Metrics of the tuned model on `data`, with 95 % intervals.

    Raises:
        InputError: If the run is not finished, or the rows cannot be read or have labels that the model does not know.
    """
    predictor = predict.load(folder, watch)
    num_classes = len(predictor.result.data.labels)
    found = rows_like(predictor.result, predictor.source, data, str(folder), watch)
    for sentence in found.description:
        watch.say(sentence)
    for sentence in found.warnings:
        watch.warn(sentence)
    part = found.part
    token_rows.require(predictor.model, part.tokens.input_ids, predictor.source.tokenizer)
    scores = score(predictor.forward, part, watch, "evaluating")
    rows = writing.rows_to_measure(part)
    written = writing.answer(predictor.model, predictor.source.tokenizer, part, rows, watch) if rows else []
    measures = scores.metrics(num_classes) | writing.measures(part, rows, written)
    stage = Stage(name="tuned model", kind="tuned", split=", ".join(Path(path).name for path in data), metrics=measures)
    return Evaluation([stage], found.description, found.warnings)


def rows_like(result: RunResult, source: Source, data: Sequence[str], where: str, watch: Watch) -> OtherRows:
    """The rows of `data`, read and tokenised as those of a run were; `where` names the run in errors.

    Raises:
        InputError: If they cannot be read or have labels that the model does not know.
    """
    chosen = settings.from_mapping(FitSettings, result.settings, f"{where}/run.json")
    assert chosen.task != "auto"
    return prepare_for_evaluation(
        with_starters(data, watch),
        source.tokenizer,
        like=chosen.data,
        task=chosen.task,
        labels=tuple(result.data.labels),
        max_length=result.data.max_length,
    )
