"""Differences between two models on the same rows: the verdict, its numbers, and how often it is wrong."""

import numpy as np
import pytest

from tunesmith.evaluation import statistics
from tunesmith.evaluation.difference import compare_accuracy, compare_losses, compare_macro_f1


def _correct(lost, won, both, neither=0):
    before = [1] * lost + [0] * won + [1] * both + [0] * neither
    after = [0] * lost + [1] * won + [1] * both + [0] * neither
    return before, after


@pytest.mark.parametrize(
    ("lost", "won", "verdict"),
    [
        (0, 0, "no difference found"),
        (5, 0, "no difference found"),
        (9, 10, "no difference found"),
        (0, 9, "better"),
        (30, 8, "worse"),
    ],
)
def test_the_verdict_on_accuracy_agrees_with_mcnemar(lost, won, verdict):
    found = compare_accuracy(*_correct(lost, won, both=200))
    assert found.verdict == verdict
    assert (found.p_value < 0.05) == (verdict != "no difference found")
    assert found.measure.value == pytest.approx(found.after - found.before)
    assert found.measure.low <= found.measure.value <= found.measure.high


def test_the_interval_of_bonett_and_price_as_computed_by_hand():
    found = compare_accuracy(*_correct(lost=4, won=14, both=20, neither=60))
    # p12 = 15/100, p21 = 5/100: 0.1 +- 1.96 sqrt((0.2 - 0.01) / 100)
    assert found.measure.low == pytest.approx(0.1 - 1.959964 * 0.19**0.5 / 10)
    assert found.measure.high == pytest.approx(0.1 + 1.959964 * 0.19**0.5 / 10)
    assert found.sentence.startswith("better: accuracy 0.2449 -> 0.3469, difference +0.1020 (95 % interval +0.01")


def test_a_small_gain_shows_only_because_the_rows_are_the_same():
    random = np.random.default_rng(0)
    tokens = random.integers(10, 50, size=100)
    before = tokens * random.normal(3.0, 1.0, size=100)
    after = before - tokens * random.normal(0.05, 0.05, size=100)
    found = compare_losses(before, after, tokens)
    assert found.verdict == "better"
    assert found.measure.high < 0
    shuffled = compare_losses(before, random.permutation(after / tokens) * tokens, tokens)
    assert shuffled.verdict == "no difference found"


def test_a_loss_that_rose_is_worse_and_an_equal_one_is_no_difference():
    tokens = np.full(20, 10)
    before = np.random.default_rng(1).gamma(5.0, 4.0, size=20)
    assert compare_losses(before, before + 3, tokens).verdict == "worse"
    same = compare_losses(before, before, tokens)
    assert (same.verdict, same.measure.value, same.measure.low, same.measure.high) == ("no difference found", 0, 0, 0)


def test_too_few_rows_are_no_proof():
    found = compare_losses([5.0, 5.0, 5.0], [1.0, 1.0, 1.0], [1, 1, 1])
    assert found.verdict == "no difference found"
    assert found.sentence.endswith("on 3 rows, too few for an interval")


def test_macro_f1_can_rise_where_accuracy_does_not():
    # The base model always says 0; the tuned one trades 20 of the frequent rows for 20 of the rare ones.
    expected = np.array([0] * 160 + [1] * 40)
    before = np.zeros(200, dtype=int)
    after = np.array([0] * 140 + [1] * 20 + [1] * 20 + [0] * 20)
    assert compare_accuracy(before == expected, after == expected).verdict == "no difference found"
    found = compare_macro_f1(before, after, expected)
    assert found.verdict == "better"
    assert found.before == pytest.approx((320 / 360) / 2)
    assert found.after == pytest.approx((0.875 + 0.5) / 2)


def test_equal_models_are_called_different_in_about_5_of_100_data_sets(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 400)
    random, alarms = np.random.default_rng(2), {"accuracy": 0, "loss": 0, "macro_f1": 0}
    for number in range(250):
        expected = random.integers(0, 2, size=80)
        before, after = (np.where(random.random(80) < 0.8, expected, 1 - expected) for _ in range(2))
        losses = random.gamma(4.0, 1.0, size=(2, 80)) + expected
        alarms["accuracy"] += compare_accuracy(before == expected, after == expected).verdict != "no difference found"
        alarms["macro_f1"] += compare_macro_f1(before, after, expected, seed=number).verdict != "no difference found"
        alarms["loss"] += compare_losses(*losses, np.ones(80), seed=number).verdict != "no difference found"
    assert all(0.02 <= count / 250 <= 0.08 for count in alarms.values()), alarms
