import math

import pytest

from benchmarks import agreement, job

LOSSES, NORMS = [2.0, 1.8, 1.5], [0.7, 0.6, 0.5]


def measurement(**changes) -> job.Measurement:
    return job.Measurement(**{"losses": LOSSES, "gradient_norms": NORMS, "num_trainable": 10, "movement": 0.1, **changes})


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([2.0, 1.8, 1.5], 0.0),
        ([2.0, 1.8, 1.53], 0.02),
        ([2.0, 1.8], math.inf),
        ([], math.inf),
        ([2.0, math.nan, 1.5], math.inf),
    ],
)
def test_largest_gap(curve, expected):
    assert agreement.largest_gap(curve, LOSSES) == pytest.approx(expected)


def test_equal_training_has_no_problems():
    close = [loss * 1.009 for loss in LOSSES]
    assert agreement.problems("other", measurement(losses=close), measurement(), "curves") == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"losses": [2.0, 1.8, 1.52]}, "losses are off by 1.33%, allowed are 1.00%"),
        ({"losses": [2.0, 1.8]}, "took 2 steps, the reference 3"),
        ({"gradient_norms": [0.7, 0.0, 0.5]}, "gradient norm is zero"),
        ({"gradient_norms": [0.7, math.nan, 0.5]}, "not finite"),
        ({"gradient_norms": []}, "missing"),
        ({"gradient_norms": [8 * norm for norm in NORMS]}, "gradient norms are off by 700.00%"),
        ({"num_unmoved": 3}, "3 tensors"),
        ({"movement": 0.0}, "did not move"),
        ({"num_trainable": 9}, "trains 9 numbers, the reference 10"),
    ],
)
def test_every_difference_is_found(changes, expected):
    assert expected in " ".join(agreement.problems("other", measurement(**changes), measurement(), "curves"))


def test_a_small_norm_may_be_rounding_in_16_bit_but_not_in_32():
    reference = measurement(gradient_norms=[0.7, 0.02, 0.03])
    rounded, wrong = (measurement(gradient_norms=[0.7, 0.02, last]) for last in (0.06, 0.2))
    assert agreement.problems("ours", rounded, reference, "curves")
    assert agreement.problems("ours", rounded, reference, "rounded curves") == []
    assert "gradient norms are off by 24.29%" in " ".join(agreement.problems("ours", wrong, reference, "rounded curves"))


def test_steps_with_other_rows_are_judged_by_themselves_only():
    assert agreement.problems("grouped", measurement(losses=[3.0, 1.0, 2.0]), measurement(), "nothing") == []
    assert agreement.problems("grouped", measurement(gradient_norms=[0.0] * 3), measurement(), "nothing")


def test_a_later_difference_passes_where_only_the_first_step_counts():
    assert agreement.problems("peer", measurement(losses=[2.0, 1.9, 1.8]), measurement(), "first step") == []
    assert agreement.problems("peer", measurement(losses=[2.1, 1.8, 1.5]), measurement(), "first step")


def test_a_loss_in_16_bits_may_be_rounded():
    assert agreement.problems("peer", measurement(losses=[2.026, 1.8, 1.5]), measurement(), "first step") == []
    assert agreement.problems("peer", measurement(losses=[2.03, 1.8, 1.5]), measurement(), "first step")
    assert agreement.problems("ours", measurement(losses=[2.026, 1.8, 1.5]), measurement(), "rounded curves")


@pytest.mark.parametrize(("losses", "expected"), [([2.0, 1.9], True), ([2.0, 1.99], False), ([2.0], False)])
def test_a_flat_reference_cannot_judge(losses, expected):
    assert agreement.sees_something(measurement(losses=losses)) is expected


def test_learnt_share():
    assert agreement.learnt_share(measurement(losses=[2.0, 1.9, 1.7]), measurement()) == pytest.approx(0.6)
