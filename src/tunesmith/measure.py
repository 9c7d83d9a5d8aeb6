"""A measured number with its interval: what evaluation computes, a run stores and a report shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that was measured, with its 95 % interval where one can be given."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    """Rows (or tokens, or documents) that it was measured on."""
