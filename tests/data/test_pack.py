"""From table rows to streams: nothing is lost, nothing is added, every label is predicted from the token before it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.pack import common_passes, even_groups, in_order_of_length, num_shared, pack, passes
from tunesmith.data.table import IGNORED, TokenTable, offsets_of

Row = tuple[list[int], list[int]]
"""Token ids, and which of them are to be predicted (0 or 1)."""


def _table(rows: list[Row]) -> TokenTable:
    ids = np.array([token for tokens, _ in rows for token in tokens], dtype=np.int32)
    learned = np.array([mark for _, marks in rows for mark in marks], dtype=bool)
    labels = np.where(learned, ids, IGNORED).astype(np.int32)
    return TokenTable(input_ids=ids, labels=labels, offsets=offsets_of([len(tokens) for tokens, _ in rows]))


def _pairs(rows: list[Row]) -> list[tuple[list[int], int]]:
    """What a model must learn, row by row: (all tokens before, the token)."""
    return [(tokens[:i], tokens[i]) for tokens, marks in rows for i in range(1, len(tokens)) if marks[i]]


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def _rows(size: int) -> st.SearchStrategy[Row]:
    """Rows of one length."""
    tokens, marks = (st.lists(st.integers(*ends), min_size=size, max_size=size) for ends in ((1, 99), (0, 1)))
    return st.tuples(tokens, marks)


tables = lengths.flatmap(lambda sizes: st.tuples(*(_rows(size) for size in sizes)).map(list))


@given(tables)
def test_a_stream_asks_for_every_label_once_with_all_that_precedes_it(rows: list[Row]):
    table = _table(rows)
    batch = pack(table, np.arange(len(rows)))
    assert batch.positions is not None
    starts = torch.tensor([0, *batch.lengths]).cumsum(0)[:-1]
    found = []
    for position, target, owner in zip(batch.positions, batch.targets, batch.row_of_target(), strict=True):
        found.append((batch.input_ids[starts[owner] : position + 1].tolist(), target.item()))
    assert found == _pairs(rows)
    assert len(batch.input_ids) == sum(batch.lengths)
    assert len(batch.lengths) == len(rows)
    assert batch.num_real_tokens == table.num_tokens


def test_what_follows_the_last_label_is_left_out():
    batch = pack(_table([([1, 2, 3, 4, 5], [0, 1, 1, 0, 0]), ([6, 7], [0, 0]), ([8, 9], [1, 1])]), np.arange(3))
    assert batch.input_ids.tolist() == [1, 2, 6, 8]
    assert batch.lengths == [2, 1, 1]
    assert batch.targets.tolist() == [2, 3, 9]
    assert batch.positions is not None
    assert batch.positions.tolist() == [0, 1, 3]
    assert batch.num_real_tokens == 9


def test_rows_come_in_the_order_asked_for():
    table = _table([([1, 2], [0, 1]), ([3, 4, 5], [0, 1, 1])])
    batch = pack(table, np.array([1, 0]))
    assert batch.input_ids.tolist() == [3, 4, 1]
    assert batch.targets.tolist() == [4, 5, 2]


def test_classes_and_token_types():
    table = TokenTable(
        input_ids=np.arange(5, dtype=np.int32),
        labels=np.array([2, 0], dtype=np.int32),
        offsets=offsets_of([3, 2]),
        token_types=np.array([0, 1, 1, 0, 1], dtype=np.int8),
        labels_per_row=True,
    )
    batch = pack(table, np.array([1, 0]))
    assert batch.positions is None
    assert (batch.input_ids.tolist(), batch.targets.tolist()) == ([3, 4, 0, 1, 2], [0, 2])
    assert batch.token_types is not None
    assert batch.token_types.tolist() == [0, 1, 0, 1, 1]
    assert {batch.input_ids.dtype, batch.targets.dtype, batch.token_types.dtype} == {torch.int64}


def test_targets_of_an_encoder_decoder():
    table = TokenTable(
        input_ids=np.arange(5, dtype=np.int32),
        labels=np.array([], dtype=np.int32),
        offsets=offsets_of([3, 2]),
        target_ids=np.array([10, 11, 12, 13], dtype=np.int32),
        target_offsets=offsets_of([1, 3]),
    )
    batch = pack(table, np.array([1, 0]))
    assert batch.input_ids.tolist() == [3, 4, 0, 1, 2]
    assert (batch.targets.tolist(), batch.decoder_lengths) == ([11, 12, 13, 10], [3, 1])
    assert batch.row_of_target().tolist() == [0, 0, 0, 1]
    assert batch.num_real_tokens == 9


@given(lengths, st.integers(1, 20))
def test_passes_hold_every_row_once_within_the_budget(sizes: list[int], budget: int):
    table = _table([([1] * n, [1] * n) for n in sizes])
    groups = passes(table, np.arange(len(sizes)), budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(sizes)))
    for group in groups:
        assert table.lengths[group].sum() <= budget or len(group) == 1
    fewest = -(-sum(sizes) // budget)
    assert len(groups) >= fewest if max(sizes) <= budget else True
    if max(sizes) <= budget:
        assert len(groups) <= 1.5 * fewest + 1, "even groups are never far from the fewest"


@given(lengths, st.integers(1, 20))
def test_groups_in_order_of_length(sizes: list[int], budget: int):
    table = _table([([1] * n, [1] * n) for n in sizes])
    groups = list(in_order_of_length(table, budget))
    rows = np.concatenate(groups)
    assert sorted(rows.tolist()) == list(range(len(sizes)))
    assert (np.diff(table.lengths[rows]) >= 0).all()
    for group in groups:
        assert table.lengths[group].sum() <= budget or len(group) == 1


@pytest.mark.parametrize("rows", [[0, 1], np.array([0, 1])])
def test_passes_take_lists_and_arrays(rows: object):
    table = _table([([1], [1]), ([2], [1])])
    assert [group.tolist() for group in passes(table, rows, 5)] == [[0, 1]]  # pyright: ignore[reportArgumentType]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(5, 20), st.data())
def test_common_passes_hold_every_row_of_every_learner_once(sizes: list[int], budget: int, data: st.DataObject):
    table = _table([([1] * size, [1] * size) for size in sizes])
    chosen = st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=8, unique=True)
    rows_of_each = [np.array(data.draw(chosen)) for _ in range(3)]
    groups = common_passes(table, rows_of_each, budget)
    for learner, rows in enumerate(rows_of_each):
        found = [row for group in groups if learner in group for row in group[learner].tolist()]
        assert sorted(found) == sorted(rows.tolist())
    for group in groups:
        lengths = [length for rows in group.values() for length in table.lengths[rows].tolist()]
        assert sum(lengths) <= budget or len(lengths) == 1


def test_no_pass_is_much_larger_than_it_must_be():
    """As many passes as when each is filled up, without one that is full beside one that is nearly empty."""
    lengths = (9, 1, 8, 2, 7, 3)
    table = _table([([1] * size, [1] * size) for size in lengths])
    groups = passes(table, range(6), 16)
    assert sorted(int(table.lengths[group].sum()) for group in groups) == [15, 15]


def test_groups_exchange_rows_to_be_even():
    """Longest first gives 17 and 13."""
    lengths = np.array([8, 7, 6, 5, 4])
    assert [int(lengths[group].sum()) for group in even_groups(lengths, 2)] == [15, 15]


@given(st.lists(st.integers(1, 500), max_size=20), st.integers(1, 5))
def test_no_exchange_makes_the_largest_and_the_smallest_group_more_alike(lengths: list[int], num_groups: int):
    sizes = np.array(lengths, dtype=np.int64)
    groups = even_groups(sizes, num_groups)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    larger, smaller = (choose(groups, key=lambda group: sizes[group].sum()) for choose in (max, min))
    gap = sizes[larger].sum() - sizes[smaller].sum()
    for given_away, taken in itertools.product(sizes[larger], [0, *sizes[smaller]]):
        assert abs(gap - 2 * (given_away - taken)) >= gap


def test_a_row_that_is_longer_than_a_pass_takes_one():
    table = _table([([1] * size, [1] * size) for size in (1000, *[10] * 30)])
    groups = passes(table, range(31), 100)
    assert sorted(len(group) for group in groups) == [1, 10, 10, 10]


def test_one_learner_alone_has_the_passes_of_its_own():
    table = _table([([1] * size, [1] * size) for size in (5, 2, 9, 3, 4)])
    rows = np.array([3, 0, 4, 2, 1])
    alone = [group.tolist() for group in passes(table, rows, 9)]
    assert [group[0].tolist() for group in common_passes(table, [rows], 9)] == alone


def test_what_all_rows_begin_with_is_kept_once():
    table = _table([([7, 8, 9, 1, 2], [0, 0, 0, 0, 1]), ([7, 8, 9, 3, 4, 5], [0, 0, 0, 0, 1, 1])])
    batch, plain = pack(table, np.array([1, 0]), num_shared=3), pack(table, np.array([1, 0]))
    assert batch.beginning is not None
    assert (batch.beginning.tolist(), batch.input_ids.tolist(), batch.lengths) == ([7, 8, 9], [3, 4, 1], [2, 1])
    assert batch.positions is not None
    assert (batch.positions.tolist(), batch.targets.tolist()) == ([0, 1, 2], plain.targets.tolist())
    assert batch.num_real_tokens == plain.num_real_tokens == 11
    assert plain.beginning is None


def test_what_all_rows_begin_with_counts_once_a_pass():
    table = _table([([1] * n, [0] * n) for n in (8, 8, 8, 9)])
    assert [group.tolist() for group in passes(table, [0, 1, 2, 3], 18)] == [[2, 3], [0, 1]]
    assert [group.tolist() for group in passes(table, [0, 1, 2, 3], 18, num_shared=6)] == [[0, 1, 2, 3]]
    assert [group.tolist() for group in passes(table, [0, 1, 2, 3], 6, num_shared=6)] == [[3], [0], [1], [2]]


@pytest.mark.parametrize(("length", "expected"), [(2, 10), (300, 10), (330, 0)])
def test_a_beginning_is_taken_apart_where_it_is_a_part_of_the_rows_that_counts(length: int, expected: int):
    table = _table([([1] * 10 + [n] * length, [0] * 11 + [1] * (length - 1)) for n in range(4)])
    assert num_shared(table) == expected
