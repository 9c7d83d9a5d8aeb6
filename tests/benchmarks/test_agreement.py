import math

import pytest

from benchmarks import agreement
from benchmarks.job import Measurement

LOSSES, NORMS = [2.0, 1.8, 1.5], [0.7, 0.6, 0.5]


def measurement(**changes) -> Measurement:
    return Measurement(**{"losses": LOSSES, "gradient_norms": NORMS, "num_trainable": 10, "movement": 0.1, **changes})


@pytest.mark.parametrize(
    ("curve", "expected"),
    [([2.0, 1.8, 1.5], 0.0), ([2.0, 1.8, 1.53], 0.02), ([2.0, 1.8], math.inf), ([], math.inf), ([2.0, math.nan, 1.5], math.inf)],
)
def test_largest_gap(curve, expected):
    assert agreement.largest_gap(curve, LOSSES) == pytest.approx(expected)


def test_equal_training_has_no_problems():
    close = [loss * 1.009 for loss in LOSSES]
    assert agreement.problems("other", measurement(losses=close), measurement()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"losses": [2.0, 1.8, 1.52]}, "loss curve is off by 1.33%"),
        ({"losses": [2.0, 1.8]}, "loss curve"),
        ({"gradient_norms": [0.7, 0.0, 0.5]}, "gradient norm is zero"),
        ({"gradient_norms": [0.7, math.nan, 0.5]}, "not finite"),
        ({"gradient_norms": []}, "missing"),
        ({"gradient_norms": [8 * norm for norm in NORMS]}, "off by 700%"),
        ({"num_unmoved": 3}, "3 tensors"),
        ({"movement": 0.0}, "did not move"),
        ({"num_trainable": 9}, "trains 9 numbers, the reference 10"),
    ],
)
def test_every_difference_is_found(changes, expected):
    assert expected in " ".join(agreement.problems("other", measurement(**changes), measurement()))


def test_other_steps_are_judged_by_themselves_only():
    assert agreement.problems("grouped", measurement(losses=[3.0, 1.0, 2.0]), measurement(), same_steps=False) == []
    assert agreement.problems("grouped", measurement(gradient_norms=[0.0] * 3), measurement(), same_steps=False)


@pytest.mark.parametrize(("losses", "expected"), [([2.0, 1.9], True), ([2.0, 1.99], False), ([2.0], False)])
def test_a_flat_reference_cannot_judge(losses, expected):
    assert agreement.sees_something(measurement(losses=losses)) is expected


def test_gaps_are_recorded_for_everyone():
    found = agreement.gaps({"other": measurement(losses=[2.0, 1.8, 1.53])}, measurement())
    assert found["other"]["loss_gap"] == pytest.approx(0.02)
    assert found["other"]["gradient_norm_gap"] == 0
