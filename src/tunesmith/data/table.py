"""Token rows in columns: a few flat arrays for the whole data set, so that a million rows cost megabytes, not objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""The label of a token that carries no loss."""


@dataclass(frozen=True)
class TokenTable:
    """Tokenised rows with their labels; row `i` is `input_ids[offsets[i]:offsets[i + 1]]`."""

    input_ids: NDArray[np.int32]
    """(tokens,)"""
    labels: NDArray[np.int32]
    """Per token, not shifted: (tokens,), the token's own id where it is to be predicted, else IGNORED.
    Per row: (rows,) class ids. With `target_ids`: empty, the targets are the labels."""
    offsets: NDArray[np.int64]
    """(rows + 1,)"""
    token_types: NDArray[np.int8] | None = None
    """(tokens,) 0 for the first text and 1 for the second, for encoders that want it."""
    target_ids: NDArray[np.int32] | None = None
    """(target tokens,) what the decoder of a sequence-to-sequence model writes; each row ends with EOS."""
    target_offsets: NDArray[np.int64] | None = None
    """(rows + 1,) into `target_ids`."""
    labels_per_row: bool = False
    """Whether `labels` are class ids, one a row."""

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
        return int(np.count_nonzero(self.labels != IGNORED))

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and labels of one row; labels are per token, or `(1,)` for a class, or the target's ids."""
        start, end = self.offsets[index], self.offsets[index + 1]
        if self.target_ids is not None and self.target_offsets is not None:
            labels = self.target_ids[self.target_offsets[index] : self.target_offsets[index + 1]]
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
        elif self.target_ids is None:
            selected = replace(selected, labels=self.labels[where])
        if self.token_types is not None:
            selected = replace(selected, token_types=self.token_types[where])
        if self.target_ids is not None and self.target_offsets is not None:
            where, offsets = _positions(self.target_offsets, rows)
            selected = replace(selected, target_ids=self.target_ids[where], target_offsets=offsets)
        return selected


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
