"""Which rows are held out: the same ones whatever their order, stratified by label, near-identical rows kept together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.columns import ExampleColumns
from tunesmith.data.examples import Chat, Example, Labelled, SourceTarget, Text
from tunesmith.data.near import NUM_HASHES, groups_of, sketch
from tunesmith.data.parallel import in_blocks
from tunesmith.errors import DataError

LARGEST_GROUP_SHARE = 0.2
"""A group of near-identical rows larger than this (numbers in one sentence, say) cannot be kept together."""
MAX_HELD_OUT_CHATS = 500


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much is held out, as shares of all rows."""

    validation: float
    test: float
    most: int | None = None
    """Most rows of either part."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Indices of the examples of each part, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    num_near: int = 0
    """Rows that have a near-identical one."""
    group_was_cut: bool = False
    """Whether near-identical rows do stand in different parts, because too many are alike."""


def key_text(example: Example) -> str:
    """The text by which an example is compared: what is asked, not what is answered."""
    match example:
        case Chat(messages):
            asked = "\n".join(message.content for message in messages if message.role == "user")
            return asked or "\n".join(message.content for message in messages)
        case Labelled(text, _, pair):
            return text if pair is None else f"{text}\n{pair}"
        case Text(text):
            return text
        case SourceTarget(source, _):
            return source


def split(examples: ExampleColumns, shares: Shares, *, seed: int = 0) -> Splits:
    """The three parts of the examples.

    Raises:
        DataError: If there are too few different examples for all parts that are asked for.
    """
    groups, hashes = _near_groups(examples)
    sizes = np.bincount(groups)
    too_large = sizes[groups] > max(2, LARGEST_GROUP_SHARE * len(examples))
    if too_large.any():
        groups = _by_exact_text(groups, examples, too_large)
    parts = _assign(groups, hashes, _labels(examples), shares, seed)
    wanted = {"train": True, "validation": shares.validation > 0, "test": shares.test > 0}
    if any(wanted[name] and not np.any(parts == code) for code, name in enumerate(("train", "validation", "test"))):
        raise DataError(
            f"There are {len(examples):,} usable rows, {len(np.unique(groups)):,} of them different: too few to hold some out. "
            "Give more rows, or held-out rows by --eval."
        )
    train, validation, test = (np.flatnonzero(parts == code) for code in range(3))
    cut = bool(too_large.any())
    return Splits(train=train, validation=validation, test=test, num_near=int((sizes[sizes > 1]).sum()), group_was_cut=cut)


def num_shared(held_out: Sequence[Example], train: Sequence[Example]) -> int:
    """How many held-out rows have a near-identical one among the rows trained on."""
    groups, _ = _near_groups([*held_out, *train])
    return int(np.isin(groups[: len(held_out)], groups[len(held_out) :]).sum())


def _near_groups(examples: Sequence[Example]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """`near_groups` of the texts by which examples are compared."""

    def sketched(block: slice) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        return sketch([key_text(example) for example in examples[block]])

    sketches = in_blocks(len(examples), lambda: contextlib.nullcontext(sketched))
    hashes, signatures = np.empty(len(examples), dtype=np.uint64), np.empty((len(examples), NUM_HASHES), dtype=np.uint32)
    done = 0
    for own_hashes, own_signatures in sketches:
        rows = slice(done, done := done + len(own_hashes))
        hashes[rows], signatures[rows] = own_hashes, own_signatures
    return groups_of(hashes, signatures), hashes


def _labels(examples: ExampleColumns) -> NDArray[np.int64]:
    """(examples,) the label of each, numbered in the order of their names; all 0 where there are none."""
    if examples.task != "classification":
        return np.zeros(len(examples), dtype=np.int64)
    place = {name: index for index, name in enumerate(sorted(examples.names))}
    return np.array([place[name] for name in examples.names], dtype=np.int64)[examples.codes]


def _by_exact_text(groups: NDArray[np.int64], examples: Sequence[Example], apart: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The groups with the rows marked in `apart` grouped by their very text instead."""
    ids: dict[str, int] = {}
    groups = groups.copy()
    first = int(groups.max()) + 1
    for index in np.flatnonzero(apart).tolist():
        groups[index] = first + ids.setdefault(key_text(examples[index]), len(ids))
    return groups


def _assign(
    groups: NDArray[np.int64], hashes: NDArray[np.uint64], label: NDArray[np.int64], shares: Shares, seed: int
) -> NDArray[np.int8]:
    """0 train, 1 validation, 2 test for each row: with each label, test and then validation are filled in a hash's order."""
    num_groups = int(groups.max()) + 1
    key = np.full(num_groups, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(key, groups, hashes)
    key = _seeded(key, seed)
    group_label = np.full(num_groups, -1, dtype=np.int64)
    order = np.lexsort((label, groups))
    group_label[groups[order[::-1]]] = label[order[::-1]]
    sizes = np.bincount(groups, minlength=num_groups)
    part = np.zeros(num_groups, dtype=np.int8)
    cap = math.inf if shares.most is None else shares.most / max(1, len(label))
    for index in range(int(label.max(initial=-1)) + 1):
        members = np.flatnonzero((group_label == index) & (sizes > 0))
        members = members[np.lexsort((sizes[members], key[members]))]
        _fill(part, members, sizes, min(shares.validation, cap), min(shares.test, cap))
    return part[groups]


def _fill(part: NDArray[np.int8], members: NDArray[np.int64], sizes: NDArray[np.int64], validation: float, test: float) -> None:
    """Mark groups, in their order, as test and validation until each has its share of the rows."""
    total = int(sizes[members].sum())
    for code, share in ((2, test), (1, validation)):
        wanted = round(share * total) or (1 if share > 0 else 0)
        free = members[part[members] == 0]
        if len(free) <= 1 or wanted == 0:
            continue
        # Large groups stay in training, where they do least harm; held out they would count one text many times.
        small = free[sizes[free] <= max(1, wanted // 10)]
        if sizes[small].sum() >= wanted:
            free = small
        filled = np.cumsum(sizes[free])
        taken = free[: int(np.searchsorted(filled, wanted)) + 1]
        part[taken if len(taken) < len(members[part[members] == 0]) else taken[:-1]] = code


def _seeded(key: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Other numbers for another seed, in an unrelated order (SplitMix64)."""
    mixed = key + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
