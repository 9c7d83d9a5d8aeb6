"""The curves of a run, read from `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "metrics.jsonl"
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps (points,) and values (points,), both finite, steps rising."""


@dataclass(frozen=True)
class Curves:
    """What was written down during training, by name of the quantity."""

    steps: dict[str, Curve] = field(default_factory=dict)
    """Of training steps: 'loss', 'learning_rate', 'gradient_norm', 'memory_bytes', 'tokens_per_second'."""
    evaluations: dict[str, Curve] = field(default_factory=dict)
    """Of the validation rows, by metric."""


def read_curves(folder: Path) -> Curves:
    """The curves in a run folder; empty if nothing was written down.

    A line torn by a crash is left out. Steps done twice, because a run was resumed, count as they came out last.
    """
    steps: dict[str, dict[int, float]] = {}
    evaluations: dict[str, dict[int, float]] = {}
    for record in _records(folder / FILE_NAME):
        step = record.get("step")
        if not isinstance(step, int):
            continue
        measured = record.get("metrics") if record.get("kind") == "evaluation" else record
        target = evaluations if record.get("kind") == "evaluation" else steps
        if record.get("kind") not in ("step", "evaluation") or not isinstance(measured, dict):
            continue
        for name, value in measured.items():
            if name not in ("step", "kind", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                target.setdefault(name, {})[step] = float(value)
    curves = {name: _curve(points) for name, points in steps.items() if name not in ("tokens", "seconds")}
    if "tokens" in steps and "seconds" in steps:
        curves["tokens_per_second"] = _rate(steps["tokens"], steps["seconds"])
    return Curves(curves, {name: _curve(points) for name, points in evaluations.items()})


def thin(curve: Curve, max_points: int = 400) -> Curve:
    """The curve as means over at most `max_points` buckets of neighbouring steps."""
    steps, values = curve
    if len(steps) <= max_points:
        return curve
    parts = [np.array_split(array, max_points) for array in (steps, values)]
    return np.array([part.mean() for part in parts[0]]), np.array([part.mean() for part in parts[1]])


def smooth(values: NDArray[np.float64], share: float = 0.06) -> NDArray[np.float64]:
    """The centred running mean of `values` (points,) over a window of `share` of them, which shrinks at both ends."""
    half = max(1, round(len(values) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    reach = np.minimum(half, np.minimum(positions, len(values) - 1 - positions))
    return (sums[positions + reach + 1] - sums[positions - reach]) / (2 * reach + 1)


def _records(path: Path) -> Iterator[dict[str, object]]:
    """The JSON objects of a file, one a line; lines that are none are left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _curve(points: dict[int, float]) -> Curve:
    """Points as arrays in the order of their steps."""
    ordered = sorted(points.items())
    return np.array([step for step, _ in ordered], dtype=np.float64), np.array([value for _, value in ordered])


def _rate(tokens: dict[int, float], seconds: dict[int, float]) -> Curve:
    """Tokens per second between neighbouring steps; pairs across a restart of the clock are left out."""
    shared = sorted(tokens.keys() & seconds.keys())
    points = {}
    for before, after in pairwise(shared):
        tokens_between, seconds_between = tokens[after] - tokens[before], seconds[after] - seconds[before]
        if tokens_between > 0 and seconds_between > 0:
            points[after] = tokens_between / seconds_between
    return _curve(points)
