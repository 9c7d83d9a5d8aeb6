import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.table import IGNORED, TokenTable, offsets_of


def table(rows: list[list[int]], **more) -> TokenTable:
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    labels = np.where(flat % 2 == 0, flat, IGNORED).astype(np.int32)
    return TokenTable(input_ids=flat, labels=labels, offsets=offsets_of([len(row) for row in rows]), **more)


ROWS = [[1, 2, 3], [4], [], [5, 6]]


def test_facts():
    made = table(ROWS)
    assert len(made) == 4
    assert made.lengths.tolist() == [3, 1, 0, 2]
    assert (made.num_tokens, made.num_labelled) == (6, 3)
    assert [made.row(1)[0].tolist(), made.row(0)[1].tolist()] == [[4], [IGNORED, 2, IGNORED]]


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=8), st.data())
def test_select_is_row_by_row(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    types = np.arange(sum(map(len, rows)), dtype=np.int8)
    made = table(rows, token_types=types).select(chosen)
    assert [made.row(i)[0].tolist() for i in range(len(made))] == [rows[i] for i in chosen]
    whole = table(rows)
    assert [made.row(i)[1].tolist() for i in range(len(made))] == [whole.row(i)[1].tolist() for i in chosen]
    assert made.token_types is not None
    assert len(made.token_types) == made.num_tokens


@pytest.mark.parametrize("chosen", [[0, 3], [3, 0, 0]])
def test_labels_per_row(chosen):
    made = TokenTable(
        input_ids=np.arange(6, dtype=np.int32), labels=np.array([7, 8, 9, 7], dtype=np.int32), offsets=offsets_of([3, 1, 0, 2]),
        labels_per_row=True,
    ).select(chosen)  # fmt: skip
    assert made.labels.tolist() == [[7, 8, 9, 7][i] for i in chosen]
    assert made.num_labelled == len(chosen)
    assert made.row(0)[1].tolist() == [7]


def test_targets():
    made = TokenTable(
        input_ids=np.arange(4, dtype=np.int32), labels=np.zeros(0, dtype=np.int32), offsets=offsets_of([3, 1]),
        target_ids=np.array([9, 8, 7], dtype=np.int32), target_offsets=offsets_of([1, 2]),
    )  # fmt: skip
    assert made.select([1]).row(0)[1].tolist() == [8, 7]
    assert (made.num_tokens, made.num_labelled) == (7, 3)


@pytest.mark.parametrize(
    ("rows", "first_learnt", "expected"),
    [
        ([[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]], 4, 3),
        ([[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]], 3, 2),  # number 2 predicts number 3
        ([[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]], 0, 0),
        ([[1, 2, 3, 4, 5], [1, 2, 3, 4]], 9, 3),  # one token is left of every row
        ([[1, 2, 3]], 9, 2),
        ([[1, 2], [2, 2]], 9, 0),
        ([[1, 2], [1]], 9, 0),
    ],
)
@pytest.mark.parametrize("in_bits", [False, True])
def test_what_all_rows_begin_with(rows: list[list[int]], first_learnt: int, expected: int, in_bits: bool):
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    learnt = np.concatenate([np.arange(len(row)) >= first_learnt for row in rows])
    columns = {"learnt": learnt} if in_bits else {}
    labels = flat[:0] if in_bits else np.where(learnt, flat, IGNORED).astype(np.int32)
    made = TokenTable(input_ids=flat, labels=labels, offsets=offsets_of([len(row) for row in rows]), **columns)
    assert made.num_common == expected
    cut = made.without_first(expected)
    assert [cut.row(i)[0].tolist() for i in range(len(cut))] == [row[expected:] for row in rows]
    assert [cut.row(i)[1].tolist() for i in range(len(cut))] == [made.row(i)[1].tolist()[expected:] for i in range(len(cut))]


def test_rows_that_are_classified_share_nothing():
    labels = np.zeros(2, dtype=np.int32)
    made = TokenTable(input_ids=np.ones(4, dtype=np.int32), labels=labels, offsets=offsets_of([2, 2]), labels_per_row=True)
    assert made.num_common == 0
