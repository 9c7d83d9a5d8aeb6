"""Numbers as a reader meets them."""

from __future__ import annotations

import pytest

from tunesmith.measure import Measure
from tunesmith.reports.wording import format_measure, format_value, gauge_explanation, metric_wording, title_of


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.8634, "86.3 %"),
        ("perplexity", 4.309, "4.31"),
        ("loss", 1.23456, "1.235"),
        ("loss", float("nan"), "not finite"),
        ("perplexity", float("inf"), "not finite"),
        ("something_new", 0.5, "0.500"),
    ],
)
def test_values(name: str, value: float, text: str):
    assert format_value(name, value) == text


def test_measures():
    assert format_measure("accuracy", Measure(value=0.5, low=0.4, high=0.6)) == "50.0 % (40.0 to 60.0 %)"
    assert format_measure("loss", Measure(value=0.5, low=0.4, high=0.6)) == "0.500 (0.400 to 0.600)"
    assert format_measure("loss", Measure(value=0.5, low=0.4)) == "0.500"


def test_unknown_names_keep_their_name():
    assert metric_wording("brand_new").title == "brand new"
    assert metric_wording("brand_new").higher_is_better is None
    assert title_of("macro_f1") == "Macro-F1"
    assert gauge_explanation("brand_new")
