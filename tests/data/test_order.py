"""The rows of every step are a pure function of seed and step."""

import numpy as np
import pytest

from tunesmith.data.order import Order, noise_seed, permutation


def test_every_epoch_has_every_row_once():
    order = Order(10, 3, seed=1)
    assert order.steps_per_epoch == 4
    for epoch in range(3):
        steps = [order.rows(epoch * 4 + step) for step in range(4)]
        assert [len(rows) for rows in steps] == [3, 3, 3, 1]
        assert sorted(np.concatenate(steps).tolist()) == list(range(10))


def test_epochs_and_seeds_differ():
    orders = {(seed, epoch): tuple(permutation(20, seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == len(orders)


def test_any_step_can_be_asked_at_once_and_in_any_sequence():
    one, other = Order(10, 4, seed=3), Order(10, 4, seed=3)
    straight = [one.rows(step).tolist() for step in range(9)]
    assert [other.rows(step).tolist() for step in (8, 0, 5)] == [straight[8], straight[0], straight[5]]


def test_this_order_stays_what_it_is():
    """A run that was interrupted under an older version must go on with the same rows."""
    assert permutation(8, seed=7, epoch=0).tolist() == [7, 1, 3, 2, 6, 5, 0, 4]
    assert noise_seed(7, 0, 0) == 7678784133274827640


@pytest.mark.parametrize("rows_per_step", [5, 6, 100])
def test_a_step_has_at_most_all_rows(rows_per_step: int):
    order = Order(5, rows_per_step, seed=0)
    assert order.steps_per_epoch == 1
    assert sorted(order.rows(3).tolist()) == [0, 1, 2, 3, 4]


def test_noise_differs_by_seed_step_and_pass():
    seeds = {noise_seed(seed, step, part) for seed in range(3) for step in range(20) for part in range(4)}
    assert len(seeds) == 3 * 20 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
