"""The learning rate rises, and falls as it was asked to."""

from __future__ import annotations

import math

import pytest

from tunesmith.training.schedule import Schedule, warmup_steps


def _rates(kind: str, num_steps: int = 12, warmup: int = 2) -> list[float]:
    schedule = Schedule(peak=2.0, num_steps=num_steps, warmup_steps=warmup, kind=kind)  # pyright: ignore[reportArgumentType]
    return [schedule.learning_rate(step) for step in range(num_steps + 3)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_warm_up_is_linear_and_ends_at_the_peak(kind: str):
    assert _rates(kind, warmup=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_linear():
    assert _rates("linear")[2:] == pytest.approx([2.0 * (1 - i / 10) for i in range(11)] + [0.0, 0.0])


def test_cosine():
    expected = [1 + math.cos(math.pi * i / 10) for i in range(11)] + [0.0, 0.0]
    assert _rates("cosine")[2:] == pytest.approx(expected)
    assert _rates("cosine")[7] == pytest.approx(1.0), "half way, half the rate"


def test_constant():
    assert _rates("constant")[2:] == [2.0] * 13


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_every_step_of_the_plan_learns(kind: str):
    for num_steps in (1, 2, 3, 50):
        rates = _rates(kind, num_steps, warmup_steps(num_steps, 0.06))[:num_steps]
        assert min(rates) > 0
        assert max(rates) == 2.0


@pytest.mark.parametrize(
    ("num_steps", "share", "expected"),
    [(1, 0.06, 0), (2, 0.06, 1), (10, 0.06, 1), (100, 0.06, 6), (100, 0.0, 0), (100, 1.0, 99), (3, 0.5, 2)],
)
def test_warm_up_steps(num_steps: int, share: float, expected: int):
    assert warmup_steps(num_steps, share) == expected
