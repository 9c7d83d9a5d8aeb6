"""What came of a run: the best checkpoint on the test rows, beside the base model, and what it forgot."""

from __future__ import annotations

import numpy as np

from tunesmith.evaluation import retention, showcase
from tunesmith.evaluation.difference import Difference, compare_accuracy, compare_losses, compare_macro_f1
from tunesmith.reports.result import BeforeAfter, RunResult, Stage
from tunesmith.runs import writing
from tunesmith.runs.baseline import Base
from tunesmith.runs.measure import Scores, gauge, question_and_answer, reader, score
from tunesmith.runs.place import Place
from tunesmith.runs.session import Session
from tunesmith.runs.writing import NUM_SHOWN


def measure(session: Session, place: Place, base: Base, result: RunResult) -> None:
    """Fill in stages, examples and retention of the result."""
    data, watch = session.data, session.watch
    num_classes = len(data.labels)
    validation = score(session.forward, data.validation, watch, "measuring the best checkpoint")
    test = score(session.forward, data.test, watch, "measuring on the test rows")
    written = writing.answer(session.model, session.source.tokenizer, data.test, base.rows, watch) if base.answers else []
    tuned = test.metrics(num_classes) | writing.measures(data.test, base.rows, written)
    changes = [*_paired(base, test), *writing.differences(data.test, base.rows, base.answers, written)]
    result.stages = [
        *base.stages,
        Stage(name="best checkpoint", kind="tuned", split="validation", metrics=validation.metrics(num_classes)),
        Stage(name="tuned model", kind="tuned", split="test", metrics=tuned),
        Stage(name="paired difference", kind="difference", split="test", metrics={c.metric: c.measure for c in changes}),
    ]
    result.examples = _examples(session, base, test, written)
    ruler = gauge(session.source, data.task, session.longest)
    model = reader(session.forward, ruler, watch, "measuring what was forgotten")
    kept = ruler.after(model, retention.load_record(place.base_record))
    result.retention, result.forgotten = kept.measures, kept.sentence


def _paired(base: Base, test: Scores) -> list[Difference]:
    """Tuned minus base on the same rows, with intervals."""
    before = np.array(base.losses)
    if test.predicted is None or test.expected is None:
        return [compare_losses(*map(test.by_origin, (before, test.losses, test.counts)))]
    predicted = np.array(base.predicted)
    return [
        compare_accuracy(predicted == test.expected, test.predicted == test.expected),
        compare_macro_f1(predicted, test.predicted, test.expected),
    ]


def _examples(session: Session, base: Base, test: Scores, written: list[str]) -> list[BeforeAfter]:
    """Held-out rows before and after: written answers to rows drawn blindly, or predicted classes."""
    part, labels = session.data.test, session.data.labels
    if written:
        shown = showcase.choose_blindly(len(base.rows), NUM_SHOWN)
        triples = ((base.rows[place], base.answers[place], written[place]) for place in shown)
    elif test.predicted is not None and base.predicted is not None:
        rows = showcase.before_after(base.goodness, test.goodness, num_rows=NUM_SHOWN).rows
        triples = ((row, labels[base.predicted[row]], labels[test.predicted[row]]) for row in rows)
    else:
        rows = showcase.before_after(base.goodness, test.goodness, owners=part.origins, num_rows=NUM_SHOWN).rows
        triples = ((row, _perplexity(base.goodness[row]), _perplexity(test.goodness[row])) for row in rows)
    shown = []
    for row, before, after_text in triples:
        prompt, expected = question_and_answer(part, row, session.source.tokenizer)
        shown.append(BeforeAfter(prompt=prompt, expected=expected, before=before, after=after_text))
    return shown


def _perplexity(goodness: float) -> str:
    return f"perplexity {np.exp(-goodness):.1f}"
