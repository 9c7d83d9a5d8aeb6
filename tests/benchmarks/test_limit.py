"""The limit is the time of the products alone, at the rates that were measured."""

from __future__ import annotations

import pytest
from benchmarks.limit import Rates

from benchmarks import limit

RATES = Rates(
    precision="float32",
    num_processes=2,
    tokens_per_pass=64,
    body_weights=1000,
    head_weights=500,
    body_flop_per_second=4e6,
    head_flop_per_second=1e6,
    products={},
)


def test_frozen_weights_cost_four_operations_a_token_and_the_head_only_labelled_ones():
    assert limit.flop(RATES, num_tokens=10, num_labelled=2) == (40_000, 4_000)
    assert limit.least_seconds(RATES, num_tokens=10, num_labelled=2) == pytest.approx(0.01 + 0.004)
    assert limit.least_seconds(RATES, 10, 2, limit.LEARNS) == pytest.approx(1.5 * 0.014)


def test_the_share_is_one_at_the_limit():
    tokens_per_second = 10 / limit.least_seconds(RATES, 10, 2)
    summary = {"num_real_tokens": 10, "num_labelled_tokens": 2, "tokens_per_second": tokens_per_second}
    assert limit.share(RATES, summary) == pytest.approx(1.0)
    assert limit.share(RATES, {**summary, "tokens_per_second": tokens_per_second / 2}) == pytest.approx(0.5)
