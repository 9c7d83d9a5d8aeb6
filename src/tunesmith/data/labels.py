"""Class names: found in the data, ordered, and checked against what a model knows."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.data.columns import ExampleColumns
from tunesmith.data.convert import Converted
from tunesmith.data.raw import RawTable
from tunesmith.errors import DataError

MAX_CLASSES = 1_000


def class_names(examples: ExampleColumns, column: str) -> tuple[str, ...]:
    """The classes in the data, in the order of their ids: numbers by value, names by alphabet.

    Raises:
        DataError: If there is only one, or nearly every row has its own.
    """
    numbers = np.bincount(examples.codes, minlength=len(examples.names)).tolist()
    counts = Counter(dict(zip(examples.names, numbers, strict=True)))
    if len(counts) == 1:
        only = next(iter(counts))
        raise DataError(f"All {counts.total():,} rows have the label {only!r} in `{column}`: there is nothing to tell apart.")
    if len(counts) > MAX_CLASSES or (len(counts) > 20 and len(counts) > counts.total() / 2):
        shown = ", ".join(repr(name[:30]) for name in list(counts)[:3])
        raise DataError(
            f"`{column}` holds {len(counts):,} different values in {counts.total():,} rows ({shown}, ...), too many for "
            "classes. Name the column of the classes with --label-column."
        )
    are_numbers = all(name.lstrip("-").isdecimal() and name.isascii() for name in counts)
    return tuple(sorted(counts, key=int) if are_numbers else sorted(counts))


def in_known_order(names: tuple[str, ...], known: tuple[str, ...], table: RawTable) -> tuple[str, ...]:
    """The classes that a model knows, in the order of their ids there, if it knows all of `names`; else these."""
    if set(names) <= set(known):
        return known
    if known:
        table.notes.append(f"the model's own classes ({_list(known)}) are not those of the rows, so it gets a new head")
    return names


def check_labels(converted: Converted, labels: Sequence[str], table: RawTable) -> None:
    """Compare the rows' labels with those known.

    Raises:
        DataError: If a row has another; row and nearest name are given.
    """
    known, names, codes = set(labels), converted.examples.names, converted.examples.codes
    strange = np.isin(codes, [code for code, name in enumerate(names) if name not in known])
    if not strange.any():
        return
    code = codes[strange][0]
    name = names[code]
    near = difflib.get_close_matches(name.lower(), [label.lower() for label in labels], n=1, cutoff=0.6)
    hint = next((f" Did you mean {label!r}?" for label in labels if near and label.lower() == near[0]), "")
    rows = table.say_rows(converted.origins[codes == code].tolist())
    more = len(np.unique(codes[strange])) - 1
    others = f" (and {more:,} other unknown labels)" if more else ""
    raise DataError(
        f"{table.name} has the label {name[:60]!r} in {rows}{others}, which the model does not "
        f"know.{hint} Known: {_list(labels)}."
    )


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20:,} more" if len(labels) > 20 else "")
