"""Examples in columns: all texts of a data set as one run of bytes, so that a million rows cost megabytes, not objects."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast, overload

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.examples import Chat, Example, Labelled, Message, Role, SourceTarget, Task, Text

ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class ExampleColumns(Sequence[Example]):
    """Examples of one task; each is made anew when it is asked for. Row `i` has the texts `rows[i]` to `rows[i + 1]`."""

    task: Task
    text: NDArray[np.uint8]
    """(bytes,) UTF-8."""
    ends: NDArray[np.int64]
    """(texts + 1,) where each text starts, and where the last one ends."""
    rows: NDArray[np.int64]
    """(rows + 1,) which text each row begins with."""
    codes: NDArray[np.int32]
    """(texts,) the role of each message, or (rows,) the class of each row, as places in `names`; else empty."""
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._run(start, stop) if step == 1 else [self._run(i, i + 1)[0] for i in range(start, stop, step)]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._run(place, place + 1)[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self[start : start + ROWS_AT_ONCE]

    def _run(self, start: int, stop: int) -> list[Example]:
        """Rows one after the other."""
        if stop <= start:
            return []
        first, last = int(self.rows[start]), int(self.rows[stop])
        ends = self.ends[first : last + 1].tolist()
        data = self.text[ends[0] : ends[-1]].tobytes()
        texts = [data[a - ends[0] : b - ends[0]].decode() for a, b in itertools.pairwise(ends)]
        borders = (self.rows[start : stop + 1] - first).tolist()
        groups = [texts[a:b] for a, b in itertools.pairwise(borders)]
        if self.task == "chat":
            roles = cast("list[Role]", [self.names[code] for code in self.codes[first:last].tolist()])
            messages = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
            return [Chat(tuple(messages[a:b])) for a, b in itertools.pairwise(borders)]
        if self.task == "classification":
            names = [self.names[code] for code in self.codes[start:stop].tolist()]
            return [Labelled(own[0], name, *own[1:]) for own, name in zip(groups, names, strict=True)]
        return [Text(own[0]) if len(own) == 1 else SourceTarget(own[0], own[1]) for own in groups]


@dataclass(frozen=True)
class ChosenExamples(Sequence[Example]):
    """Some of the examples, in an order of their own; one may come several times."""

    examples: Sequence[Example]
    chosen: NDArray[np.int64]
    """(rows,) indices into `examples`."""

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.examples[place] for place in self.chosen[index].tolist()]
        return self.examples[int(self.chosen[index])]


class ExampleBuilder:
    """Collects examples of one task into columns."""

    def __init__(self, task: Task) -> None:
        self._task: Task = task
        self._text = bytearray()
        self._ends, self._rows, self._codes = array("q", [0]), array("q", [0]), array("i")
        self._names: dict[str, int] = {}

    def add(self, example: Example) -> None:
        """Append one example."""
        match example:
            case Chat(messages):
                for message in messages:
                    self._codes.append(self._names.setdefault(message.role, len(self._names)))
                    self._add_text(message.content)
            case Labelled(text, label, pair):
                self._codes.append(self._names.setdefault(label, len(self._names)))
                self._add_text(text)
                if pair is not None:
                    self._add_text(pair)
            case Text(text):
                self._add_text(text)
            case SourceTarget(source, target):
                self._add_text(source)
                self._add_text(target)
        self._rows.append(len(self._ends) - 1)

    def build(self) -> ExampleColumns:
        """All that were added."""
        text = np.frombuffer(self._text, dtype=np.uint8) if self._text else np.zeros(0, dtype=np.uint8)
        ends, rows = (np.frombuffer(borders, dtype=np.int64) for borders in (self._ends, self._rows))
        codes = np.frombuffer(self._codes, dtype=np.int32) if self._codes else np.zeros(0, dtype=np.int32)
        return ExampleColumns(self._task, text, ends, rows, codes, tuple(self._names))

    def _add_text(self, text: str) -> None:
        self._text += text.encode()
        self._ends.append(len(self._text))
