"""Token rows in columns: a few flat arrays for the whole data set, so that a million rows cost megabytes, not objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""The label of a token that carries no loss."""


@dataclass(frozen=True)
class TokenTable:
    """Tokenised rows with their labels; row `i` is `input_ids[offsets[i]:offsets[i + 1]]`."""

    input_ids: NDArray[np.int32] | NDArray[np.uint16]
    """(tokens,), in 16 bits where they hold every token of the vocabulary."""
    labels: NDArray[np.int32]
    """Per token, not shifted: (tokens,), the token's own id where it is to be predicted, else IGNORED.
    Per row: (rows,) class ids. With `learnt` or `target_ids`: empty."""
    offsets: NDArray[np.int64]
    """(rows + 1,)"""
    token_types: NDArray[np.int8] | None = None
    """(tokens,) 0 for the first text and 1 for the second, for encoders that want it."""
    target_ids: NDArray[np.int32] | NDArray[np.uint16] | None = None
    """(target tokens,) what the decoder of a sequence-to-sequence model writes; each row ends with EOS."""
    target_offsets: NDArray[np.int64] | None = None
    """(rows + 1,) into `target_ids`."""
    labels_per_row: bool = False
    """Whether `labels` are class ids, one a row."""
    learnt: NDArray[np.bool_] | None = None
    """(tokens,) whether each token is to be predicted, in place of `labels`, at a quarter of their memory."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, targets included."""
        return len(self.input_ids) + (0 if self.target_ids is None else len(self.target_ids))

    @property
    def num_labelled(self) -> int:
        """Labels that carry loss: tokens to be predicted, or rows to be classified."""
        if self.target_ids is not None:
            return len(self.target_ids)
        return int(np.count_nonzero(self.labels != IGNORED if self.learnt is None else self.learnt))

    @property
    def token_labels(self) -> NDArray[np.int32]:
        """(tokens,) `labels` of every token, from `learnt` if they are not there."""
        return self.labels if self.learnt is None else np.where(self.learnt, self.input_ids, np.int32(IGNORED))

    @cached_property
    def num_common(self) -> int:
        """How many tokens all rows begin with, of which none is to be predicted nor needed to predict the one that follows it.

        Chat templates put their system prompt there. Zero where rows are not read from left to right.
        """
        if not len(self) or self.labels_per_row or self.target_ids is not None:
            return 0
        starts, last = self.offsets[:-1], int(self.lengths.min()) - 1
        for place in range(last):
            ids, following = self.input_ids[starts + place], starts + place + 1
            is_learnt = self.labels[following] != IGNORED if self.learnt is None else self.learnt[following]
            if is_learnt.any() or (ids != ids[0]).any():
                return place
        return max(0, last)

    def without_first(self, count: int) -> TokenTable:
        """A new table of the same rows from their token number `count` on; for tables of words, with labels per token."""
        kept = np.ones(len(self.input_ids), dtype=np.bool_)
        kept[(self.offsets[:-1, None] + np.arange(count)).ravel()] = False
        offsets = self.offsets - count * np.arange(len(self.offsets))
        cut = replace(self, input_ids=self.input_ids[kept], offsets=offsets)
        return replace(cut, labels=self.labels[kept]) if self.learnt is None else replace(cut, learnt=self.learnt[kept])

    def row(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Token ids and labels of one row; labels are per token, or `(1,)` for a class, or the target's ids."""
        start, end = self.offsets[index], self.offsets[index + 1]
        if self.target_ids is not None and self.target_offsets is not None:
            labels = self.target_ids[self.target_offsets[index] : self.target_offsets[index + 1]]
        elif self.learnt is not None:
            labels = np.where(self.learnt[start:end], self.input_ids[start:end], np.int32(IGNORED))
        else:
            labels = self.labels[index : index + 1] if self.labels_per_row else self.labels[start:end]
        return self.input_ids[start:end], labels

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> TokenTable:
        """A new table of the rows at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        where, offsets = _positions(self.offsets, rows)
        selected = replace(self, input_ids=self.input_ids[where], offsets=offsets)
        if self.labels_per_row:
            selected = replace(selected, labels=self.labels[rows])
        elif self.learnt is not None:
            selected = replace(selected, learnt=self.learnt[where])
        elif self.target_ids is None:
            selected = replace(selected, labels=self.labels[where])
        if self.token_types is not None:
            selected = replace(selected, token_types=self.token_types[where])
        if self.target_ids is not None and self.target_offsets is not None:
            where, offsets = _positions(self.target_offsets, rows)
            selected = replace(selected, target_ids=self.target_ids[where], target_offsets=offsets)
        return selected


class TableBuilder:
    """Joins tables of one kind to one, each given up once it is added."""

    def __init__(self) -> None:
        self._columns: dict[str, bytearray] = {}
        self._first: TokenTable | None = None

    def add(self, table: TokenTable) -> None:
        """Append the rows of a table."""
        self._first = self._first or table
        for column in fields(TokenTable):
            values = getattr(table, column.name)
            if column.name.endswith("offsets") and values is not None:
                values = np.diff(values)
            if isinstance(values, np.ndarray):
                self._columns.setdefault(column.name, bytearray()).extend(values.tobytes())

    def build(self) -> TokenTable:
        """All rows.

        Raises:
            ValueError: If no table was added, so that nothing is known of its kind.
        """
        if self._first is None:
            raise ValueError("no table was added")
        arrays: dict[str, NDArray[Any]] = {}
        for name in list(self._columns):
            values: NDArray[Any] = np.frombuffer(self._columns.pop(name), dtype=getattr(self._first, name).dtype)
            arrays[name] = offsets_of(values) if name.endswith("offsets") else values
        return replace(self._first, **arrays)


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row starts, and where the last one ends, (rows + 1,), for rows of these lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _positions(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64] | NDArray[np.bool_], NDArray[np.int64]]:
    """An index into a flat array that picks all tokens of `rows`, and the offsets of these rows after the selection."""
    lengths = np.diff(offsets)
    selected = offsets_of(lengths[rows])
    if (np.diff(rows) > 0).all():
        # In ascending order a mask does it, at an eighth of the memory.
        chosen = np.zeros(len(lengths), dtype=np.bool_)
        chosen[rows] = True
        return np.repeat(chosen, lengths), selected
    where = np.arange(selected[-1], dtype=np.int64)
    where += np.repeat(offsets[rows] - selected[:-1], lengths[rows])
    return where, selected
