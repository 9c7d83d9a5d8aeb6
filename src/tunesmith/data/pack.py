"""From rows of a token table to packed batches that fit a budget of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.table import IGNORED, TokenTable
from tunesmith.model.batch import Batch

LEAST_SHARED = 0.03
"""Share of a row that a common beginning must be: seeing what others have computed costs a little, too."""


def passes(
    table: TokenTable,
    rows: Sequence[int] | NDArray[np.int64],
    tokens_per_pass: int,
    num_processes: int = 1,
    *,
    num_shared: int = 0,
) -> list[NDArray[np.int64]]:
    """The rows in few, even groups of at most `tokens_per_pass` tokens, for several processes as even as can be.

    A longer row stands alone. Every row is in exactly one group. A sum over groups equals the sum over rows, so the
    grouping changes memory and speed, and nothing else. The first `num_shared` tokens of all rows count once a group.
    """
    rows = np.asarray(rows, dtype=np.int64)
    lengths = table.lengths[rows] - num_shared
    if num_shared:
        tokens_per_pass = max(tokens_per_pass - num_shared, int(lengths.max()))  # as large as the largest, if they must be
    return [np.sort(rows[group]) for group in _groups(lengths, tokens_per_pass, num_processes)]


def even_groups(lengths: NDArray[np.int64], num_groups: int) -> list[NDArray[np.int64]]:
    """Which of the lengths go together so that the sums are about equal: longest first, each to the smallest sum so far.

    Then the largest group gives one to the smallest, or exchanges one with it, as long as that makes them more alike.
    """
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    totals = [0] * num_groups
    for index in np.argsort(-lengths, kind="stable").tolist():
        smallest = totals.index(min(totals))
        groups[smallest].append(index)
        totals[smallest] += int(lengths[index])
    while exchange := _evening_exchange(lengths, groups):
        (larger, smaller), given, taken = exchange
        groups[larger] = [index for index in groups[larger] if index != given] + taken
        groups[smaller] = [index for index in groups[smaller] if index not in taken] + [given]
    return [np.array(group, dtype=np.int64) for group in groups]


def _evening_exchange(lengths: NDArray[np.int64], groups: list[list[int]]) -> tuple[tuple[int, int], int, list[int]] | None:
    """The largest and the smallest group, and what the one gives and takes to be most alike; None where nothing helps."""
    totals = [int(lengths[group].sum()) for group in groups]
    if not any(totals):
        return None
    larger, smaller = totals.index(max(totals)), totals.index(min(totals))
    gap, offered = totals[larger] - totals[smaller], [*groups[smaller], None]
    moved = lengths[groups[larger]][:, None] - np.append(lengths[groups[smaller]], 0)  # by each exchange; the last is a gift
    best = np.unravel_index(np.abs(2 * moved - gap).argmin(), moved.shape)
    if not 0 < moved[best] < gap:
        return None
    taken = offered[best[1]]
    return (larger, smaller), groups[larger][best[0]], [] if taken is None else [taken]


def common_passes(
    table: TokenTable, rows_of_each: Sequence[NDArray[np.int64]], tokens_per_pass: int, num_processes: int = 1
) -> list[dict[int, NDArray[np.int64]]]:
    """The rows of several learners, grouped as by `passes` but all together: for each group the rows of every learner in it.

    A row that two learners want is computed for each of them.
    """
    rows = np.concatenate(rows_of_each)
    owners = np.repeat(np.arange(len(rows_of_each)), [len(own) for own in rows_of_each])
    groups = _groups(table.lengths[rows], tokens_per_pass, num_processes)
    return [{int(o): np.sort(rows[group][owners[group] == o]) for o in np.unique(owners[group])} for group in groups]


def _groups(lengths: NDArray[np.int64], tokens_per_pass: int, num_processes: int) -> list[NDArray[np.int64]]:
    """Which of the lengths go together: even shares for the processes, and of each as few passes as can be."""
    return [
        share[group] for share in even_groups(lengths, num_processes) for group in _few_groups(lengths[share], tokens_per_pass)
    ]


def _few_groups(lengths: NDArray[np.int64], tokens_per_pass: int) -> list[NDArray[np.int64]]:
    """Which of the lengths go together, so that no pass is too large; the largest is what memory must hold.

    Even groups seldom need more passes than full ones and a rest, which takes a pass of its own for a few tokens. A row that
    is longer than a pass fills one.
    """
    least = -(-int(np.minimum(lengths, tokens_per_pass).sum()) // tokens_per_pass)
    sizes = range(least, len(lengths) + 1)
    tries = (even_groups(lengths, num_groups) for num_groups in sizes)
    return next(groups for groups in tries if all(len(g) == 1 or lengths[g].sum() <= tokens_per_pass for g in groups))


def num_shared(table: TokenTable) -> int:
    """How many tokens that all rows begin with are worth being taken apart from them; 0 if none are."""
    return table.num_common if table.num_common * len(table) >= LEAST_SHARED * table.num_tokens else 0


def in_order_of_length(table: TokenTable, tokens_per_pass: int) -> Iterator[NDArray[np.int64]]:
    """All rows in groups of similar length that fill `tokens_per_pass`, for passes without gradients."""
    order = np.argsort(table.lengths, kind="stable")
    group: list[int] = []
    tokens = 0
    for row in order.tolist():
        length = int(table.lengths[row])
        if group and tokens + length > tokens_per_pass:
            yield np.array(group)
            group, tokens = [], 0
        group.append(row)
        tokens += length
    if group:
        yield np.array(group)


def pack(table: TokenTable, rows: NDArray[np.int64], *, num_shared: int = 0) -> Batch:
    """One batch of the rows, in the order given; their first `num_shared` tokens, the same in all of them, are kept once."""
    chosen = table.select(rows)
    if num_shared:
        beginning = _tensor(chosen.input_ids[:num_shared])
        return replace(_pack_language(chosen.without_first(num_shared)), beginning=beginning, num_real_tokens=chosen.num_tokens)
    if chosen.target_ids is not None:
        return _pack_targets(chosen)
    if chosen.labels_per_row:
        return Batch(
            input_ids=_tensor(chosen.input_ids),
            lengths=chosen.lengths.tolist(),
            targets=_tensor(chosen.labels),
            token_types=None if chosen.token_types is None else _tensor(chosen.token_types),
            num_real_tokens=chosen.num_tokens,
        )
    return _pack_language(chosen)


def _pack_language(table: TokenTable) -> Batch:
    """Position t predicts token t + 1 of the same row. What follows a row's last label is left out: nothing depends on it."""
    labels = table.token_labels
    labelled = np.flatnonzero(labels != IGNORED)
    owner = np.searchsorted(table.offsets, labelled, side="right") - 1
    labelled = labelled[labelled != table.offsets[owner]]  # a row's first token is predicted by nothing
    owner = np.searchsorted(table.offsets, labelled, side="right") - 1
    ends = table.offsets[:-1] + 1  # a row without labels keeps one token, so that rows stay countable
    np.maximum.at(ends, owner, labelled)
    lengths = ends - table.offsets[:-1]
    kept = np.concatenate([np.arange(s, e) for s, e in zip(table.offsets[:-1], ends, strict=True)])
    shift = table.offsets[:-1] - np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return Batch(
        input_ids=_tensor(table.input_ids[kept]),
        lengths=lengths.tolist(),
        positions=_tensor(labelled - 1 - shift[owner]),
        targets=_tensor(labels[labelled]),
        num_real_tokens=table.num_tokens,
    )


def _pack_targets(table: TokenTable) -> Batch:
    """The decoder reads its targets shifted right by one; the model's start token is filled in by `model.forward`."""
    assert table.target_ids is not None
    assert table.target_offsets is not None
    return Batch(
        input_ids=_tensor(table.input_ids),
        lengths=table.lengths.tolist(),
        positions=torch.arange(len(table.target_ids)),
        targets=_tensor(table.target_ids),
        decoder_lengths=np.diff(table.target_offsets).tolist(),
        num_real_tokens=table.num_tokens,
    )


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
