"""Metrics against hand-made tables, brute force and simulated coverage."""

import math

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evaluation import statistics
from tunesmith.evaluation.metrics import classification, exponential, language, majority_baseline, majority_class
from tunesmith.measure import Measure


def _macro_f1(predicted, expected):
    """F1 of each class by its definition, averaged over the classes that occur."""
    scores = []
    for label in sorted(set(predicted) | set(expected)):
        hits = sum(p == e == label for p, e in zip(predicted, expected, strict=True))
        scores.append(2 * hits / (list(predicted).count(label) + list(expected).count(label)))
    return sum(scores) / len(scores)


def test_accuracy_and_macro_f1_of_a_table_made_by_hand():
    metrics = classification([0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0], 2)
    assert metrics["accuracy"].value == pytest.approx(4 / 6)
    # class 0: 3 hits, 4 given, 4 wanted; class 1: 1 hit, 2 given, 2 wanted
    assert metrics["macro_f1"].value == pytest.approx((0.75 + 0.5) / 2)
    assert metrics["accuracy"].count == metrics["macro_f1"].count == 6


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_its_definition_also_with_classes_that_never_occur(seed):
    random = np.random.default_rng(seed)
    expected, predicted = random.choice([0, 2, 5], size=40), random.choice([0, 2, 6], size=40)
    metrics = classification(predicted, expected, 9)
    assert metrics["macro_f1"].value == pytest.approx(_macro_f1(predicted.tolist(), expected.tolist()))
    assert metrics["macro_f1"].low < metrics["macro_f1"].value < metrics["macro_f1"].high


def test_the_interval_of_macro_f1_is_that_of_drawing_rows():
    random = np.random.default_rng(0)
    expected = random.choice(3, size=150, p=[0.6, 0.3, 0.1])
    predicted = np.where(random.random(150) < 0.7, expected, random.integers(0, 3, size=150))
    draws = random.integers(0, 150, size=(800, 150))
    brute = [_macro_f1(predicted[rows].tolist(), expected[rows].tolist()) for rows in draws]
    measure = classification(predicted, expected, 3)["macro_f1"]
    assert (measure.low, measure.high) == pytest.approx(tuple(np.quantile(brute, [0.025, 0.975])), abs=0.02)


def test_the_interval_of_macro_f1_covers_the_truth(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 400)
    random, covered = np.random.default_rng(1), 0
    # Two classes of equal size, each right with 0.8: both F1 are 0.8.
    for number in range(600):
        expected = random.integers(0, 2, size=120)
        predicted = np.where(random.random(120) < 0.8, expected, 1 - expected)
        measure = classification(predicted, expected, 2, seed=number)["macro_f1"]
        covered += measure.low <= 0.8 <= measure.high
    assert 0.92 <= covered / 600 <= 0.98


def test_all_right_is_not_claimed_to_be_certain():
    metrics = classification([0, 1] * 50, [0, 1] * 50, 2)
    assert metrics["macro_f1"].value == metrics["macro_f1"].high == 1.0
    assert metrics["macro_f1"].low == pytest.approx(metrics["accuracy"].low, abs=0.02)


def test_a_single_class_is_measured_too():
    assert classification([0] * 6, [0] * 6, 1)["macro_f1"].value == 1.0


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="2 predictions for 3 rows"):
        classification([0, 1], [0, 1, 1], 2)
    with pytest.raises(ValueError, match=r"0\.\.1, got 0\.\.2"):
        classification([0, 2], [0, 1], 2)
    with pytest.raises(DataError, match="0 rows"):
        classification([], [], 2)


def test_the_majority_is_that_of_the_training_rows():
    assert majority_class([2, 1, 2, 0]) == 2
    assert majority_class([1, 0]) == 0
    metrics = majority_baseline([1, 1, 0], [0, 0, 0, 1], 2)
    assert metrics["accuracy"].value == 0.25
    assert metrics["macro_f1"].value == pytest.approx(0.4 / 2)


def test_perplexity_is_the_exponential_of_the_loss_per_token():
    metrics = language([2.0, 30.0, 6.0, 4.0, 8.0], [1, 10, 3, 2, 4])
    assert metrics["loss"].value == pytest.approx(2.5)
    for name in ("value", "low", "high"):
        assert getattr(metrics["perplexity"], name) == math.exp(getattr(metrics["loss"], name))


def test_a_loss_that_is_not_finite_stays_visible():
    assert math.isnan(language([1.0, math.nan], [1, 1])["perplexity"].value)
    assert exponential(Measure(value=1e6)).value == math.inf
