"""Rows as they stand in the files: columns of plain values, each row with the number its owner finds it under."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError

MAX_COLUMNS = 1_000
"""More columns than this are a broken file (a wrong separator, a row per column), not data to learn from."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that is not used."""

    row: int
    """Row number in the data, counted from 1."""
    reason: str
    """Why, in a few words: 'empty answer'."""


@dataclass(kw_only=True)
class RawTable:
    """The rows of all files, in columns."""

    values: dict[str, list[object]]
    """Each column's values, (rows,); None where a row has no such column."""
    numbers: NDArray[np.int64]
    """(rows,) the number of each row in the data, counted from 1; blank and broken rows count too."""
    files: list[tuple[str, int]]
    """Each file's short name and how many row numbers came before it."""
    broken: list[Skipped] = field(default_factory=list)
    """Rows that could not be read."""
    kind: str = "jsonl"
    """File type without its dot, or 'hub'."""
    notes: list[str] = field(default_factory=list)
    """What reading decided, to be said aloud."""
    fingerprint: str = ""
    """SHA-256 over the files' bytes."""
    name: str = ""
    """A short name of the data."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order in which they appear."""
        return list(self.values)

    @property
    def rows(self) -> Iterator[dict[str, object]]:
        """The rows one after the other, as dictionaries."""
        names = self.columns
        return (dict(zip(names, row, strict=True)) for row in zip(*self.values.values(), strict=True))

    def take(self, indices: NDArray[np.int64]) -> RawTable:
        """The same table with only the rows at `indices`."""
        values: dict[str, list[object]] = {name: [column[i] for i in indices] for name, column in self.values.items()}
        parts = {"files": self.files, "broken": self.broken, "kind": self.kind, "notes": self.notes}
        return RawTable(values=values, numbers=self.numbers[indices], fingerprint=self.fingerprint, name=self.name, **parts)

    def say_rows(self, numbers: Iterable[int], show: int = 3) -> str:
        """Rows in words, the first few by number: 'row 17', 'rows 17, 203 ...', 'rows 4 of b.csv'."""
        return say_rows(numbers, self.files, show)


def say_rows(numbers: Iterable[int], files: Sequence[tuple[str, int]], show: int = 3) -> str:
    """Rows in words, the first few by number within their file; `files` as in `RawTable`."""
    numbers = sorted(set(numbers))
    shown: dict[str, list[str]] = {}
    for number in numbers[:show]:
        name, before = next((name, before) for name, before in reversed(files) if before < number)
        shown.setdefault(name, []).append(f"{number - before:,}")
    word = "row" if len(numbers) == 1 else "rows"
    parts = [", ".join(found) + (f" of {name}" if len(files) > 1 else "") for name, found in shown.items()]
    return f"{word} {'; '.join(parts)}{' ...' if len(numbers) > show else ''}"


class TableBuilder:
    """Collects rows of one or more files into columns."""

    def __init__(self) -> None:
        self._values: dict[str, list[object]] = {}
        self._numbers = array("q")
        self._names: list[tuple[str, int]] = []
        self._broken: list[Skipped] = []
        self._last = 0

    def begin_file(self, name: str) -> None:
        """Row numbers from here on count within the file `name`."""
        self._names.append((name, self._last))

    @property
    def file(self) -> str:
        """Short name of the file being read."""
        return self._names[-1][0]

    def add_rows(self, rows: list[dict[str, object]], numbers: Sequence[int]) -> None:
        """Add rows with their numbers in the current file, counted from 1.

        Raises:
            DataError: If there are absurdly many columns.
        """
        for name in dict.fromkeys(chain.from_iterable(rows)):
            self._column(str(name))
        for name, column in self._values.items():
            column.extend([row.get(name) for row in rows])
        self._count(numbers)

    def add_columns(self, columns: dict[str, Sequence[object]], numbers: Sequence[int]) -> None:
        """Add rows that come as columns of equal length; a column that the file lacks is None.

        Raises:
            DataError: If there are absurdly many columns.
        """
        for name in columns:
            self._column(name)
        for name, column in self._values.items():
            column.extend(columns[name] if name in columns else [None] * len(numbers))
        self._count(numbers)

    def add_broken(self, number: int, reason: str) -> None:
        """Note a row of the current file that cannot be read."""
        row = self._names[-1][1] + number
        self._broken.append(Skipped(row, reason))
        self._last = max(self._last, row)

    def build(self) -> RawTable:
        """The table of everything added."""
        numbers = np.array(self._numbers, dtype=np.int64)
        return RawTable(values=self._values, numbers=numbers, files=self._names, broken=self._broken)

    def _column(self, name: str) -> None:
        if name not in self._values:
            if len(self._values) >= MAX_COLUMNS:
                raise DataError(
                    f"{self.file} has more than {MAX_COLUMNS:,} columns. A row of data has a handful: is the separator, "
                    "or the type of the file, another one?"
                )
            self._values[name] = [None] * len(self._numbers)

    def _count(self, numbers: Sequence[int]) -> None:
        before = self._names[-1][1]
        self._numbers.extend([before + number for number in numbers] if before else numbers)
        if numbers:
            self._last = max(self._last, before + numbers[-1])
