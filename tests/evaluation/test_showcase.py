"""The rows that are shown do not flatter."""

import numpy as np
import pytest

from tunesmith.evaluation.showcase import before_after, choose_blindly


def test_every_group_is_shown_and_the_rest_in_proportion():
    before = np.zeros(100)
    after = np.array([1.0] * 70 + [-1.0] * 2 + [0.0] * 28)
    found = before_after(before, after, num_rows=10)
    assert [found.changes.count(change) for change in ("better", "worse", "unchanged")] == [6, 1, 3]
    assert all(
        after[row] == {"better": 1, "worse": -1, "unchanged": 0}[change]
        for row, change in zip(found.rows, found.changes, strict=True)
    )
    assert found.description.startswith("10 of 100 held-out rows, drawn at random")
    assert "70 got better, 2 got worse, 28 stayed the same" in found.description


def test_rows_are_not_the_best_ones():
    gains = np.arange(1.0, 1001.0)
    shown = [before_after(np.zeros(1000), gains, num_rows=20, seed=seed).rows for seed in range(20)]
    assert 400 < np.mean(shown) < 600


def test_the_choice_is_the_same_each_time_and_another_with_another_seed():
    before, after = np.zeros(50), np.resize([1.0, 0.0, -1.0], 50)
    assert before_after(before, after) == before_after(before, after)
    assert before_after(before, after).rows != before_after(before, after, seed=1).rows


def test_small_changes_count_as_unchanged():
    assert before_after([0.0, 0.0], [0.05, 0.2], tolerance=0.1).changes == ["better", "unchanged"]


@pytest.mark.parametrize(("num_rows", "shown"), [(0, 0), (1, 1), (2, 2), (9, 4)])
def test_few_rows_are_enough(num_rows, shown):
    found = before_after([0, 0, 0, 1], [1, 0, 0, 0], num_rows=num_rows)
    assert len(set(found.rows)) == shown


def test_the_blind_choice_needs_no_result():
    rows = choose_blindly(500, 6)
    assert rows == choose_blindly(500, 6) == sorted(set(rows))
    assert rows != choose_blindly(500, 6, seed=1)
    assert choose_blindly(3, 6) == [0, 1, 2]


def test_rows_of_different_documents_come_first():
    owners = np.repeat([7, 8, 9], [50, 3, 2])
    found = before_after(np.zeros(55), np.ones(55), owners=owners, num_rows=3)
    assert sorted(owners[found.rows]) == [7, 8, 9]
    assert len(before_after(np.zeros(55), np.ones(55), owners=owners, num_rows=9).rows) == 9
