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
