"""Intervals that say how far a measured number can be trusted: all 95 %, all reproducible from a seed.

A proportion has Wilson's score interval. A mean over rows, or a ratio of two sums over rows (loss per token), has a
percentile bootstrap that draws whole rows, because the tokens of one row are not independent. Its percentiles are those of
Hesterberg (2015, "What Teachers Should Know About the Bootstrap"), a little wider than 2.5 % and 97.5 %, so that few rows are
covered as by Student's t. A statistic of a table of counts (macro-F1) draws the table from a multinomial distribution,
which is the same as drawing rows and costs nothing more for many rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import ArrayLike, NDArray

from tunesmith.errors import DataError
from tunesmith.measure import Measure

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
MIN_ROWS_FOR_INTERVAL = 5
"""Fewer rows show too little of the spread between rows for any interval to be honest."""
MAX_RESAMPLED_ROWS = 4000
"""More rows than this are summed in groups first; means of that many groups are as good as normal."""
_BLOCK = 2_000_000
"""Numbers held at once while resampling."""
NORMAL_QUANTILE = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def wilson(successes: int, count: int) -> Measure:
    """A share of rows with Wilson's score interval (Wilson 1927), sound also for 0, few and all successes.

    Raises:
        DataError: If there are no rows.
    """
    _require_rows(count)
    if not 0 <= successes <= count:
        raise ValueError(f"successes must lie between 0 and {count}, got {successes}.")
    share, spread = successes / count, NORMAL_QUANTILE**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # The exact limits at both ends, which rounding would miss by 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Measure(value=share, low=low, high=high, count=count)


def mean(values: ArrayLike, *, seed: int = 0) -> Measure:
    """The mean over rows (rows,) with its bootstrap interval."""
    totals = np.asarray(values, dtype=np.float64)
    return ratio(totals, np.ones(len(totals)), seed=seed)


def ratio(totals: ArrayLike, weights: ArrayLike, *, seed: int = 0) -> Measure:
    """The ratio of two sums over rows, e.g. loss per token, with an interval that draws whole rows.

    Args:
        totals: What is summed above the line, e.g. the summed loss of each row (rows,).
        weights: What is summed below it, e.g. the tokens of each row (rows,); rows with none do not count.
        seed: Of the resampling; the same rows and seed give the same interval.

    Returns:
        The ratio; without an interval if fewer than five rows count or a total is not finite.

    Raises:
        DataError: If no row has a weight.
    """
    columns = np.stack([np.asarray(totals, dtype=np.float64), np.asarray(weights, dtype=np.float64)], axis=1)
    columns = columns[columns[:, 1] > 0]
    num_rows = len(columns)
    _require_rows(num_rows)
    value = float(columns[:, 0].sum() / columns[:, 1].sum())
    if num_rows < MIN_ROWS_FOR_INTERVAL or not np.isfinite(columns).all():
        return Measure(value=value, count=num_rows)
    sums = np.concatenate(list(_resampled_sums(_grouped(columns, seed), seed)))
    return percentile_interval(value, sums[:, 0] / sums[:, 1], num_rows)


def percentile_interval(value: float, resampled: NDArray[np.float64], num_rows: int) -> Measure:
    """A value with the interval that its bootstrap replicates (resamples,) give; it always contains the value."""
    if num_rows < MIN_ROWS_FOR_INTERVAL:
        return Measure(value=value, count=num_rows)
    tail = _tail(num_rows)
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Measure(value=value, low=min(float(low), value), high=max(float(high), value), count=num_rows)


def resampled_counts(counts: NDArray[np.float64], seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Tables of counts (resamples, kinds) as if rows were drawn with replacement, in blocks of bounded size.

    Args:
        counts: Rows of each kind (kinds,); they may be fractions, the number drawn is their rounded sum.
        seed: Of the drawing.
    """
    generator = Generator(Philox(seed))
    shares, num_rows = counts / counts.sum(), round(float(counts.sum()))
    block = max(1, _BLOCK // len(counts))
    for start in range(0, NUM_RESAMPLES, block):
        yield generator.multinomial(num_rows, shares, size=min(block, NUM_RESAMPLES - start)).astype(np.float64)


def mcnemar(only_before: int, only_after: int) -> float:
    """The exact two-sided p-value that rows right in only one of two models fall evenly on both (McNemar 1947)."""
    num_changed, fewer = only_before + only_after, min(only_before, only_after)
    if num_changed == 0:
        return 1.0
    chosen = np.arange(fewer)
    # log of the binomial coefficients 1, n, n(n-1)/2, ... by their ratios, as thousands of changed rows overflow otherwise
    logs = np.concatenate([[0.0], np.cumsum(np.log((num_changed - chosen) / (chosen + 1)))]) - num_changed * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _resampled_sums(columns: NDArray[np.float64], seed: int) -> Iterator[NDArray[np.float64]]:
    """Column sums (resamples, columns) of rows drawn with replacement, in blocks of bounded size."""
    generator = Generator(Philox(seed))
    num_rows = len(columns)
    block = max(1, _BLOCK // num_rows)
    for start in range(0, NUM_RESAMPLES, block):
        drawn = generator.integers(0, num_rows, size=(min(block, NUM_RESAMPLES - start), num_rows))
        yield np.stack([column[drawn].sum(axis=1) for column in columns.T], axis=1)


def _grouped(columns: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The rows themselves, or, if there are very many, sums of rows put together at random."""
    num_rows = len(columns)
    if num_rows <= MAX_RESAMPLED_ROWS:
        return columns
    order = Generator(Philox(seed + 1)).permutation(num_rows)
    starts = np.linspace(0, num_rows, MAX_RESAMPLED_ROWS, endpoint=False).astype(np.int64)
    return np.add.reduceat(columns[order], starts, axis=0)


def _tail(num_rows: int) -> float:
    """The share of replicates to leave out on each side, so that few rows get the width of Student's t."""
    degrees = num_rows - 1
    return NormalDist().cdf(-_student_quantile(degrees) * math.sqrt(num_rows / degrees))


def _student_quantile(degrees: int) -> float:
    """The upper limit of Student's t for the confidence (Abramowitz and Stegun 26.7.5), to 1e-3 from 4 degrees on."""
    z, n = NORMAL_QUANTILE, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def _require_rows(count: int) -> None:
    """Refuse to measure nothing."""
    if count < 1:
        raise DataError("Nothing can be measured on 0 rows. Give more held-out data, or a larger test share.")
