"""The base model, measured before anything is attached: what every result is compared with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith import durable
from tunesmith.errors import RunError
from tunesmith.evaluation import metrics, retention
from tunesmith.reports.result import Stage, read_stage
from tunesmith.runs import writing
from tunesmith.runs.measure import gauge, reader, score
from tunesmith.runs.place import Place
from tunesmith.runs.session import Session


@dataclass
class Base:
    """What the base model did on the held-out rows; kept in the run folder, so that a resumed run need not measure it again."""

    stages: list[Stage]
    goodness: list[float]
    """How well each test row was answered, as `Scores.goodness`."""
    losses: list[float]
    """Summed loss of each test row, nats."""
    predicted: list[int] | None
    """Class ids, for classification."""
    rows: list[int]
    """Test rows that the model writes answers to, drawn before any result was known."""
    answers: list[str]
    """The base model's written answers to `rows`; none where the task is not to write."""

    def save(self, path: Path) -> None:
        """Write to a JSON file, whole or not at all."""
        durable.write_file(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Base:
        """Read what `save` wrote.

        Raises:
            RunError: If the file is damaged.
        """
        try:
            raw = json.loads(path.read_text())
            return cls(stages=[read_stage(stage) for stage in raw.pop("stages")], **raw)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}).") from None


def hand_on(base: Base, place: Place, to: Place) -> None:
    """Give the run at `to` what was measured for the one at `place`."""
    retention.save_record(to.base_record, retention.load_record(place.base_record))
    base.save(to.base_answers)


def measure(session: Session, place: Place) -> Base:
    """Measure the base model, or read what was measured before the run was interrupted."""
    data, watch = session.data, session.watch
    if place.base_answers.exists() and place.base_record.exists():
        try:
            retention.load_record(place.base_record)
            return Base.load(place.base_answers)
        except RunError as error:
            watch.warn(f"{error} The base model is measured again.")
    ruler = gauge(session.source, data.task, session.longest)
    model = reader(session.forward, ruler, watch, "reading general text with the base model")
    retention.save_record(place.base_record, ruler.before(model))
    scores = score(session.forward, data.test, watch, "measuring the base model")
    stages = []
    if scores.predicted is not None and scores.expected is not None:
        majority = metrics.majority_baseline(data.train.tokens.labels, scores.expected, len(data.labels))
        stages.append(Stage(name="majority class", kind="majority", split="test", metrics=majority))
    name = "base model, untrained head" if session.source.lacks_head(data.labels) else "base model"
    rows = writing.rows_to_answer(data.task, data.test)
    written = writing.answer(session.model, session.source.tokenizer, data.test, rows, watch) if rows else []
    measures = scores.metrics(len(data.labels)) | writing.measures(data.test, rows, written)
    stages.append(Stage(name=name, kind="base", split="test", metrics=measures))
    predicted = None if scores.predicted is None else scores.predicted.tolist()
    base = Base(stages, scores.goodness.tolist(), scores.losses.tolist(), predicted, rows, written)
    base.save(place.base_answers)
    return base
