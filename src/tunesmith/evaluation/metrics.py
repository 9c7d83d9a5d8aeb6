"""What is measured on held-out rows: accuracy and macro-F1 of a classifier, loss and perplexity of a language model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.evaluation.statistics import percentile_interval, ratio, resampled_counts, wilson
from tunesmith.measure import Measure

ByClass = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def classification(predicted: ArrayLike, expected: ArrayLike, num_classes: int, *, seed: int = 0) -> dict[str, Measure]:
    """`accuracy` (Wilson interval) and `macro_f1` (bootstrap interval) of predicted class ids (rows,).

    Macro-F1 is the mean F1 over the classes that occur among the expected or the predicted ones, as in scikit-learn.

    Raises:
        DataError: If there are no rows.
        ValueError: If the lengths differ or an id is not below `num_classes`.
    """
    guesses, truth = _class_ids(predicted, num_classes), _class_ids(expected, num_classes)
    if len(guesses) != len(truth):
        raise ValueError(f"{len(guesses)} predictions for {len(truth)} rows.")
    accuracy = wilson(int((guesses == truth).sum()), len(truth))
    kinds, counts = np.unique(truth * num_classes + guesses, return_counts=True)
    wanted, given = kinds // num_classes, kinds % num_classes
    value = float(macro_f1(wanted, given, counts[None].astype(np.float64))[0])
    wanted, given, smoothed = _with_possible_errors(wanted, given, counts.astype(np.float64), num_classes)
    resampled = np.concatenate([macro_f1(wanted, given, block) for block in resampled_counts(smoothed, seed)])
    return {"accuracy": accuracy, "macro_f1": percentile_interval(value, resampled, len(truth))}


def macro_f1(expected: NDArray[np.int64], predicted: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macro-F1 (tables,) of tables of counts.

    Args:
        expected: The true class of each kind of row (kinds,).
        predicted: The predicted class of each kind of row (kinds,).
        counts: Rows of each kind in each table (tables, kinds).
    """
    num_classes = int(max(expected.max(), predicted.max())) + 1
    hits = _summed_by(expected, num_classes)(counts * (expected == predicted))
    occurring = _summed_by(expected, num_classes)(counts) + _summed_by(predicted, num_classes)(counts)
    present = occurring > 0
    scores = np.divide(2 * hits, occurring, out=np.zeros_like(hits), where=present)
    return scores.sum(axis=1) / present.sum(axis=1)


def majority_class(labels: ArrayLike) -> int:
    """The most frequent class id among training labels (rows,); the smallest id among equals."""
    return int(np.bincount(np.asarray(labels, dtype=np.int64)).argmax())


def majority_baseline(train_labels: ArrayLike, expected: ArrayLike, num_classes: int) -> dict[str, Measure]:
    """The metrics of always answering with the most frequent class of the training rows."""
    truth = np.asarray(expected, dtype=np.int64)
    return classification(np.full(len(truth), majority_class(train_labels)), truth, num_classes)


def language(loss_sums: ArrayLike, token_counts: ArrayLike, *, seed: int = 0) -> dict[str, Measure]:
    """`loss` (nats per labelled token) and `perplexity` (its exponential), every token counting the same.

    Args:
        loss_sums: The summed loss of each row (rows,), in nats.
        token_counts: The labelled tokens of each row (rows,).
        seed: Of the resampling behind the intervals, which draw whole rows.

    Raises:
        DataError: If no row has a labelled token.
    """
    loss = ratio(loss_sums, token_counts, seed=seed)
    return {"loss": loss, "perplexity": exponential(loss)}


def exponential(measure: Measure) -> Measure:
    """The exponential of a measure and its interval."""
    low, high = (None if limit is None else _exp(limit) for limit in (measure.low, measure.high))
    return Measure(value=_exp(measure.value), low=low, high=high, count=measure.count)


def _exp(number: float) -> float:
    """Exponential of the number, infinite where a float ends."""
    return math.exp(number) if not number > 709 else math.inf


def _class_ids(ids: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Class ids (rows,), checked."""
    checked = np.asarray(ids, dtype=np.int64)
    if len(checked) and not (checked.min() >= 0 and checked.max() < num_classes):
        raise ValueError(f"class ids must lie in 0..{num_classes - 1}, got {checked.min()}..{checked.max()}.")
    return checked


def _summed_by(classes: NDArray[np.int64], num_classes: int) -> ByClass:
    """A function that sums columns (tables, kinds) by the class of each kind, to (tables, classes)."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)

    def add_up(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        totals = np.zeros((len(counts), num_classes))
        totals[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
        return totals

    return add_up


def _with_possible_errors(
    wanted: NDArray[np.int64], given: NDArray[np.int64], counts: NDArray[np.float64], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The kinds of rows to draw from, with half a wrong row per class if not one was wrong.

    Drawing from rows that are all right would claim certainty; half a row makes the limit that of the rule of three.
    """
    if num_classes < 2 or (wanted != given).any():
        return wanted, given, counts
    wrong = (wanted + 1) % num_classes
    return np.tile(wanted, 2), np.concatenate([given, wrong]), np.concatenate([counts - 0.5, np.full(len(counts), 0.5)])
