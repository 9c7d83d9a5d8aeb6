"""Sizes, times and counts as people write them: text to number and back, and the range that is accepted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tunesmith.errors import SettingsError

_BYTES = {"": 1, "b": 1}
_BYTES |= {unit + suffix: 1000**power for power, unit in enumerate("kmgt", 1) for suffix in ("", "b")}
_BYTES |= {unit + "ib": 1024**power for power, unit in enumerate("kmgt", 1)}
_SECONDS = {
    "": 1,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """The numbers that a setting accepts."""

    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    among: tuple[int, ...] = ()
    """Where only some are accepted, these."""

    def __str__(self) -> str:
        """The condition in words: 'above 0 and at most 1', '4, 8 or 16'."""
        if self.among:
            return f"{', '.join(map(str, self.among[:-1]))} or {self.among[-1]}"
        named = (("above", self.above), ("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {limit:g}" for word, limit in named if math.isfinite(limit))

    def __contains__(self, number: float) -> bool:
        """Whether the number is accepted."""
        chosen = not self.among or number in self.among
        return chosen and self.above < number and self.at_least <= number <= self.at_most


@dataclass(frozen=True)
class Duration:
    """Marks a setting in seconds that may also be written as text: `10m`, `1h30m`."""


def parse_bytes(text: str) -> int:
    """The bytes that a text like `8GB`, `512 MiB` or `1000` means (`GB` = 10^9, `GiB` = 2^30).

    Raises:
        SettingsError: If the text is not a number with a unit of size.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text.rstrip())
    if match is None or match[2].lower() not in _BYTES:
        raise SettingsError(f"{text!r} is not an amount of memory; write for example 8GB, 512MB or 4GiB.")
    return round(float(match[1]) * _BYTES[match[2].lower()])


def parse_seconds(text: str) -> float:
    """The seconds that a text like `10m`, `1h30m`, `90 seconds`, `00:10:00` or `45` means.

    Raises:
        SettingsError: If the text is not a time.
    """
    clock = re.fullmatch(r"\s*(?:(\d+):)?([0-5]?\d):([0-5]\d)\s*", text)
    if clock:
        return float(int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + int(clock[3]))
    seconds, position, text = 0.0, 0, text.rstrip()
    parts = list(_NUMBER_AND_UNIT.finditer(text))
    for part in parts:
        unit = _singular(part[2].lower())
        if part.start() != position or unit not in _SECONDS or (unit == "" and len(parts) > 1):
            break
        seconds, position = seconds + float(part[1]) * _SECONDS[unit], part.end()
    if not parts or position != len(text):
        raise SettingsError(f"{text!r} is not a time; write for example 45s, 10m or 1h30m.")
    return seconds


def _singular(unit: str) -> str:
    """A unit without the plural s: `seconds` -> `second`, but `s` stays."""
    return unit[:-1] if len(unit) > 1 and unit.endswith("s") else unit


def format_bytes(num_bytes: float) -> str:
    """An amount of memory to read, in powers of 1000: `512 B`, `1.5 GB`, `135 MB`."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{_three_digits(size)} TB"


def format_seconds(seconds: float) -> str:
    """A time to read: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_count(count: float) -> str:
    """A count to read: exact with commas below a million (`10,605`), then `1.23 million`, `135 million`, `7.6 billion`."""
    if abs(count) < 999_500:
        return f"{round(count):,}"
    for size, name in ((1e6, "million"), (1e9, "billion")):
        if abs(count) < 999.5 * size:
            return f"{_three_digits(count / size)} {name}"
    return f"{_three_digits(count / 1e12)} trillion"


def format_percent(share: float, digits: int = 1) -> str:
    """A share (0 to 1) to read as percent: `83.7 %`; small shares keep two significant digits (`0.042 %`)."""
    percent = share * 100
    if percent != 0 and abs(percent) < 10**-digits:
        return f"{percent:.2g} %"
    return f"{percent:.{digits}f} %"


def _three_digits(number: float) -> str:
    """A number below 1000 with three significant digits at most and no zeros at the end behind the point."""
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
