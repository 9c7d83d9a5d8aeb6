"""Whether a tuned model differs from the base model on the same rows, said in plain words.

Both models answer the same rows, so the difference is taken row by row: what is hard or easy for both cancels, and a gain
that two separate intervals would hide can be seen. "No difference found" is an answer; it does not say that there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tunesmith.evaluation.metrics import macro_f1
from tunesmith.evaluation.statistics import NORMAL_QUANTILE, mcnemar, percentile_interval, ratio, resampled_counts
from tunesmith.measure import Measure

Verdict = Literal["better", "worse", "no difference found"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Tuned minus base, measured on the same rows."""

    metric: str
    before: float
    after: float
    measure: Measure
    """After minus before with its 95 % interval."""
    verdict: Verdict
    p_value: float | None = None
    """Of the exact McNemar test, for accuracy."""

    @property
    def sentence(self) -> str:
        """The finding with its numbers, e.g. 'better: accuracy 0.8120 -> 0.8630, ...'."""
        low, high, count = self.measure.low, self.measure.high, self.measure.count or 0
        change = f"{self.metric.replace('_', ' ')} {self.before:.4f} -> {self.after:.4f}"
        if low is None or high is None:
            return f"{self.verdict}: {change} on {count} rows, too few for an interval"
        interval = f"95 % interval {low:+.4f} to {high:+.4f}, {count:,} rows"
        return f"{self.verdict}: {change}, difference {self.measure.value:+.4f} ({interval})"


def compare_losses(before: ArrayLike, after: ArrayLike, token_counts: ArrayLike, *, seed: int = 0) -> Difference:
    """The change of the loss per token, from the summed loss of each row (rows,) under both models.

    Raises:
        DataError: If no row has a labelled token.
    """
    first, second, counts = (np.asarray(values, dtype=np.float64) for values in (before, after, token_counts))
    measure = ratio(second - first, counts, seed=seed)
    values = ratio(first, counts).value, ratio(second, counts).value
    return _judged("loss", values, measure, higher_is_better=False)


def compare_means(metric: str, before: ArrayLike, after: ArrayLike, *, seed: int = 0) -> Difference:
    """The change of a mean over rows, from the score of each row (rows,) under both models; more is better.

    Raises:
        DataError: If there are no rows.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    values = ratio(first, np.ones(len(first))).value, ratio(second, np.ones(len(second))).value
    measure = ratio(second - first, np.ones(len(first)), seed=seed)
    return _judged(metric, values, measure, higher_is_better=True)


def compare_accuracy(before_correct: ArrayLike, after_correct: ArrayLike, *, metric: str = "accuracy") -> Difference:
    """The change of a share, from which rows (rows,) each model got right: interval of Bonett and Price (2012), McNemar's p.

    The interval stays honest where only a handful of rows changed, where a bootstrap is too narrow.
    """
    first, second = np.asarray(before_correct, dtype=bool), np.asarray(after_correct, dtype=bool)
    num_rows, lost, won = len(first), int((first & ~second).sum()), int((~first & second).sum())
    values = ratio(first, np.ones(num_rows)).value, ratio(second, np.ones(num_rows)).value
    lose, win = (lost + 1) / (num_rows + 2), (won + 1) / (num_rows + 2)
    half = NORMAL_QUANTILE * math.sqrt((lose + win - (win - lose) ** 2) / (num_rows + 2))
    value = (won - lost) / num_rows
    low, high = max(-1.0, min(win - lose - half, value)), min(1.0, max(win - lose + half, value))
    measure = Measure(value=value, low=low, high=high, count=num_rows)
    return _judged(metric, values, measure, higher_is_better=True, p_value=mcnemar(lost, won))


def compare_macro_f1(before: ArrayLike, after: ArrayLike, expected: ArrayLike, *, seed: int = 0) -> Difference:
    """The change of macro-F1, from the class ids (rows,) that each model predicted."""
    answers = np.stack([np.asarray(ids, dtype=np.int64) for ids in (expected, before, after)], axis=1)
    kinds, counts = np.unique(answers, axis=0, return_counts=True)
    truth, first, second = kinds.T
    counts = counts.astype(np.float64)
    values = tuple(float(macro_f1(truth, guess, counts[None])[0]) for guess in (first, second))
    resampled = [macro_f1(truth, second, block) - macro_f1(truth, first, block) for block in resampled_counts(counts, seed)]
    measure = percentile_interval(values[1] - values[0], np.concatenate(resampled), len(answers))
    return _judged("macro_f1", (values[0], values[1]), measure, higher_is_better=True)


def _judged(
    metric: str, values: tuple[float, float], measure: Measure, *, higher_is_better: bool, p_value: float | None = None
) -> Difference:
    """The difference with its verdict: better or worse only if the interval leaves zero out."""
    verdict: Verdict = "no difference found"
    if measure.low is not None and measure.high is not None and (measure.low > 0 or measure.high < 0):
        verdict = "better" if (measure.low > 0) == higher_is_better else "worse"
    return Difference(metric=metric, before=values[0], after=values[1], measure=measure, verdict=verdict, p_value=p_value)
