from __future__ import annotations

import pytest

from tunesmith import quantity
from tunesmith.errors import SettingsError
from tunesmith.quantity import Range


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1000", 1000),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("512MB", 512 * 10**6),
        ("4k", 4000),
        ("7 B", 7),
    ],
)
def test_bytes(text, num_bytes):
    assert quantity.parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 GBs", "8 light years", "1e9", "8GB 2MB"])
def test_not_bytes(text):
    with pytest.raises(SettingsError, match="is not an amount of memory"):
        quantity.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45", 45),
        ("45s", 45),
        ("10m", 600),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("90 seconds", 90),
        ("0.5h", 1800),
        ("2 days", 172_800),
        ("10:30", 630),
        ("01:00:05", 3605),
    ],
)
def test_seconds(text, seconds):
    assert quantity.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "ten minutes", "-5m", "5 parsecs", "1h30", "10m!", "1:99", "s"])
def test_not_seconds(text):
    with pytest.raises(SettingsError, match="is not a time"):
        quantity.parse_seconds(text)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (135_000_000, "135 MB"),
        (1_500_000_000, "1.5 GB"),
        (999_999, "1 MB"),
        (8.25e12, "8.25 TB"),
    ],
)
def test_bytes_to_read(num_bytes, text):
    assert quantity.format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (273_600, "3 d 4 h"),
        (float("nan"), "unknown"),
    ],
)
def test_seconds_to_read(seconds, text):
    assert quantity.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (10_605, "10,605"),
        (999_499, "999,499"),
        (999_500, "1 million"),
        (134_515_008, "135 million"),
        (7.6e9, "7.6 billion"),
        (2e12, "2 trillion"),
    ],
)
def test_count_to_read(count, text):
    assert quantity.format_count(count) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.837, "83.7 %"), (0, "0.0 %"), (0.00042, "0.042 %"), (1, "100.0 %"), (-0.012, "-1.2 %")]
)
def test_percent_to_read(share, text):
    assert quantity.format_percent(share) == text


def test_range():
    limits = Range(above=0, at_most=1)
    assert str(limits) == "above 0 and at most 1"
    assert [number in limits for number in (0, 0.1, 1, 1.1)] == [False, True, True, False]
