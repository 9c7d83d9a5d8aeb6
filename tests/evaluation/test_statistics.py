"""Intervals against closed forms, and against how often they cover the truth in simulated data."""

import math

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evaluation import statistics
from tunesmith.evaluation.statistics import mcnemar, mean, percentile_interval, ratio, resampled_counts, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe (1998), table I: the same intervals to four digits.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, count, low, high):
    measure = wilson(successes, count)
    assert measure.value == successes / count
    assert (round(measure.low, 4), round(measure.high, 4), measure.count) == (low, high, count)


@pytest.mark.parametrize("count", [1, 3, 17, 1000])
def test_wilson_ends_exactly_at_zero_and_one_and_mirrors(count):
    assert wilson(0, count).low == 0.0
    assert wilson(count, count).high == 1.0
    assert wilson(1, count + 1).low == pytest.approx(1 - wilson(count, count + 1).high)


def test_wilson_solves_its_equation():
    measure = wilson(37, 50)
    for limit in (measure.low, measure.high):
        assert abs(measure.value - limit) == pytest.approx(1.959963984540054 * math.sqrt(limit * (1 - limit) / 50))


def test_nothing_is_measured_on_no_rows():
    with pytest.raises(DataError, match="0 rows"):
        wilson(0, 0)
    with pytest.raises(DataError, match="0 rows"):
        ratio([1.0, 2.0], [0, 0])
    with pytest.raises(ValueError, match="between 0 and 5"):
        wilson(6, 5)


def test_ratio_weighs_every_token_the_same():
    measure = ratio([10.0, 0.0, 7.0, 5.0, 2.0, 9.0], [10, 0, 1, 5, 2, 2])
    assert measure.value == pytest.approx(33 / 20)
    assert measure.count == 5, "the row without tokens does not count"


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly_the_same():
    values = np.random.default_rng(0).normal(size=200)
    assert mean(values, seed=3) == mean(values, seed=3)
    assert mean(values, seed=3) != mean(values, seed=4)
    assert mean(values, seed=3).low == pytest.approx(mean(values, seed=4).low, abs=0.02)


def test_the_interval_of_a_mean_is_that_of_student():
    values = np.random.default_rng(1).normal(size=30)
    half = 2.045229642 * values.std(ddof=1) / math.sqrt(30)
    measure = mean(values)
    assert measure.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert measure.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_of_a_ratio_is_that_of_the_delta_method():
    random = np.random.default_rng(2)
    tokens = random.integers(1, 100, size=400)
    totals = tokens * random.gamma(4.0, 0.5, size=400)
    value = totals.sum() / tokens.sum()
    half = 1.96 * np.std(totals - value * tokens, ddof=1) / (tokens.mean() * math.sqrt(400))
    measure = ratio(totals, tokens)
    assert measure.high - measure.low == pytest.approx(2 * half, rel=0.08)


def test_very_many_rows_are_grouped_without_changing_the_interval(monkeypatch):
    values = np.random.default_rng(3).exponential(size=5000) + np.linspace(0, 3, 5000)
    grouped = mean(values)
    monkeypatch.setattr(statistics, "MAX_RESAMPLED_ROWS", 10_000)
    whole = mean(values)
    assert grouped.value == whole.value
    assert grouped.count == 5000
    assert grouped.high - grouped.low == pytest.approx(whole.high - whole.low, rel=0.08)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [1.0] * 9 + [math.nan], [1.0] * 9 + [math.inf]])
def test_no_interval_where_none_is_honest(values):
    measure = mean(values)
    assert (measure.low, measure.high) == (None, None)
    assert measure.count == len(values)


def test_rows_that_agree_have_an_interval_of_no_width():
    measure = mean([0.25] * 8)
    assert (measure.low, measure.value, measure.high) == (0.25, 0.25, 0.25)


def test_an_interval_always_contains_its_value():
    measure = percentile_interval(1.0, np.linspace(0.2, 0.4, 100), 50)
    assert measure.high == 1.0


@pytest.mark.parametrize(("degrees", "quantile"), [(4, 2.776445), (9, 2.262157), (29, 2.045230), (1000, 1.962339)])
def test_student_quantiles_are_those_of_the_tables(degrees, quantile):
    assert statistics._student_quantile(degrees) == pytest.approx(quantile, abs=1e-3)


def test_resampled_counts_are_multinomial():
    counts = np.array([60.0, 30.0, 10.0])
    tables = np.concatenate(list(resampled_counts(counts)))
    assert tables.shape == (statistics.NUM_RESAMPLES, 3)
    assert (tables.sum(axis=1) == 100).all()
    np.testing.assert_allclose(tables.mean(axis=0), counts, rtol=0.03)
    np.testing.assert_allclose(tables.var(axis=0), counts * (1 - counts / 100), rtol=0.1)


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 2 * 11 / 1024), (7, 7, 1.0), (0, 12, 2 / 4096)],
)
def test_mcnemar_is_the_exact_binomial_test(lost, won, p_value):
    assert mcnemar(lost, won) == pytest.approx(p_value)


def test_mcnemar_agrees_with_the_normal_approximation_for_thousands_of_rows():
    # Continuity-corrected z of 5,000 against 5,200.
    z = (200 - 1) / math.sqrt(10_200)
    assert mcnemar(5000, 5200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)


@pytest.mark.parametrize("num_rows", [10, 40])
def test_the_interval_of_a_loss_covers_the_truth_in_95_of_100_data_sets(monkeypatch, num_rows):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 400)
    random, covered, num_sets = np.random.default_rng(4), 0, 600
    for number in range(num_sets):
        tokens = random.integers(20, 60, size=num_rows)
        # A row effect makes the tokens of a row alike; the truth is 2.
        totals = tokens * random.normal(2.0, 0.5, size=num_rows) + np.sqrt(tokens) * random.normal(size=num_rows)
        measure = ratio(totals, tokens, seed=number)
        covered += measure.low <= 2.0 <= measure.high
    assert 0.92 <= covered / num_sets <= 0.98


def test_wilson_covers_the_truth_on_average():
    random = np.random.default_rng(5)
    for share in (0.05, 0.5, 0.87):
        found = [wilson(int(k), 100) for k in random.binomial(100, share, size=2000)]
        assert 0.92 <= np.mean([m.low <= share <= m.high for m in found]) <= 0.98
