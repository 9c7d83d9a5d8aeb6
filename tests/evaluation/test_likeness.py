import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.evaluation.likeness import exact_matches, likeness, rouge_l


def _subsequence(a, b):
    """Length of the longest common subsequence, by the definition."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def _f1(written, expected):
    a, b = written.split(), expected.split()
    common = _subsequence(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


@pytest.mark.parametrize(
    ("written", "expected", "score"),
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin (2004), section 3.1
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("The cat, sat!", "the CAT sat", 1.0),
        ("", "something", 0.0),
        ("something", "...", 0.0),
        ("grün und blau", "Grün blau", 2 * 2 / 5),
        ("привет мир", "привет, мир", 1.0),
        ("snake_case", "snake case", 1.0),
    ],
)
def test_rouge_l(written, expected, score):
    assert rouge_l([written], [expected])[0] == pytest.approx(score, abs=1e-6)  # computed in float32


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join), min_size=2, max_size=2))
def test_rouge_l_is_its_formula(texts):
    assert rouge_l(texts[:1], texts[1:])[0] == pytest.approx(_f1(*texts), abs=1e-6)


def test_exact_match_looks_at_all_but_the_space():
    written, expected = [" a  b\n", "A b", "a b.", "a b …"], ["a b"] * 4
    assert exact_matches(written, expected).tolist() == [True, False, False, False]


def test_measures_have_intervals():
    found = likeness(["a b"] * 6 + ["x"] * 4, ["a b"] * 10)
    assert found["exact_match"].value == found["rouge_l"].value == pytest.approx(0.6)
    for measure in found.values():
        assert measure.count == 10
        assert measure.low is not None
        assert measure.high is not None
        assert 0 <= measure.low < 0.6 < measure.high <= 1


def test_nothing_to_measure():
    with pytest.raises(DataError, match="0 rows"):
        likeness([], [])


def test_rows_go_together():
    with pytest.raises(ValueError, match="zip"):
        likeness(["a"], [])
