"""Which held-out rows to show before and after training, chosen so that the few shown do not flatter.

Rows are drawn by a seed and their number, never picked by hand or by how good they look. If both results are known, the
improved, worsened and unchanged rows appear in proportion, and each of these groups that exists appears at least once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import ArrayLike, NDArray

Change = Literal["better", "worse", "unchanged"]
_CHANGES: tuple[Change, ...] = ("better", "worse", "unchanged")


@dataclass(frozen=True)
class Selection:
    """Rows to show, and the sentence that says how they were chosen."""

    rows: list[int]
    changes: list[Change]
    """What happened to each of `rows`."""
    description: str


def choose_blindly(num_held_out: int, num_rows: int = 6, *, seed: int = 0) -> list[int]:
    """Row numbers drawn before any result is known, for answers that must be written down before training."""
    return sorted(Generator(Philox(seed)).permutation(num_held_out)[:num_rows].tolist())


def before_after(
    before: ArrayLike,
    after: ArrayLike,
    *,
    owners: ArrayLike | None = None,
    num_rows: int = 6,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Selection:
    """An honest sample of held-out rows that got better, got worse, or stayed.

    Args:
        before: How well the base model did on each row (rows,): 1 for right and 0 for wrong, or minus the loss.
        after: The same for the tuned model (rows,).
        owners: Which document each row is of (rows,); rows of different ones are preferred. None if each is its own.
        num_rows: How many rows to show.
        tolerance: Scores that differ by no more than this count as unchanged.
        seed: Of the drawing within each group.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    order = Generator(Philox(seed)).permutation(len(change))
    if owners is not None:
        order = _owners_in_turn(order, np.asarray(owners))
    masks = (change > tolerance, change < -tolerance, np.abs(change) <= tolerance)
    groups = [order[mask[order]] for mask in masks]
    seats = _seats([len(group) for group in groups], num_rows)
    chosen: dict[int, Change] = {
        int(row): name for name, group, num in zip(_CHANGES, groups, seats, strict=True) for row in group[:num]
    }
    # Better and worse first, each in the order of the data.
    rows = sorted(chosen, key=lambda row: (_CHANGES.index(chosen[row]), row))
    return Selection(rows, [chosen[row] for row in rows], _description(groups, len(rows)))


def _owners_in_turn(order: NDArray[np.int64], owners: NDArray[np.generic]) -> NDArray[np.int64]:
    """The same rows, first one of each owner, then a second one of each, and so on."""
    turns: list[int] = []
    seen: dict[object, int] = {}
    for owner in owners[order].tolist():
        turns.append(seen.get(owner, 0))
        seen[owner] = turns[-1] + 1
    return order[np.argsort(turns, kind="stable")]


def _seats(sizes: list[int], num_rows: int) -> list[int]:
    """How many rows each group gets: in proportion to its size, at least one if it has any and there is room."""
    seats = [min(size, 1) for size in sizes] if num_rows >= sum(size > 0 for size in sizes) else [0] * len(sizes)
    while sum(seats) < min(num_rows, sum(sizes)):
        # Sainte-Lague: the next seat goes to the group that is furthest below its share.
        claims = [size / (2 * seat + 1) if seat < size else -1.0 for size, seat in zip(sizes, seats, strict=True)]
        seats[int(np.argmax(claims))] += 1
    return seats


def _description(groups: list[NDArray[np.int64]], num_shown: int) -> str:
    """How the rows were chosen, with the sizes of the groups they stand for."""
    better, worse, unchanged = (len(group) for group in groups)
    total = better + worse + unchanged
    return (
        f"{num_shown} of {total:,} held-out rows, drawn at random within three groups: "
        f"{better:,} got better, {worse:,} got worse, {unchanged:,} stayed the same."
    )
