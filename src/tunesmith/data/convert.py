"""Rows of any shape to the four canonical forms; a row that cannot be used is left out with its number and the reason."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.columns import ExampleBuilder, ExampleColumns
from tunesmith.data.conversation import Unusable, clean_text, text_or_messages, to_messages
from tunesmith.data.examples import Chat, Example, Labelled, Message, SourceTarget, Text
from tunesmith.data.raw import RawTable, Skipped
from tunesmith.data.recognise import Shape

ROWS_AT_ONCE = 1_000
_Maker = Callable[[dict[str, object]], Example]


@dataclass(frozen=True)
class Converted:
    """What became of the rows."""

    examples: ExampleColumns
    origins: NDArray[np.int64]
    """(examples,) row number of each example in the data, counted from 1."""
    skipped: list[Skipped]
    """Rows left out, in order of their numbers; those that could not even be read are among them."""


def convert(table: RawTable, shape: Shape) -> Converted:
    """The table's rows in canonical form; the table is emptied of its values on the way, so that they are in memory once."""
    make, examples, origins = _maker(shape), ExampleBuilder(shape.task), array("q")
    roles = list(shape.columns)
    columns = [table.values[name] for name in shape.columns.values()]
    table.values.clear()
    skipped = list(table.broken)
    for start in range(0, len(table), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        cells = list(zip(*(column[some] for column in columns), strict=True))
        for column in {id(column): column for column in columns}.values():
            column[some] = [None] * len(cells)
        for number, values in zip(table.numbers[some].tolist(), cells, strict=True):
            try:
                examples.add(make(dict(zip(roles, values, strict=True))))
                origins.append(number)
            except Unusable as error:
                skipped.append(Skipped(number, str(error)))
    numbers = np.array(origins, dtype=np.int64)
    return Converted(examples.build(), numbers, sorted(skipped, key=lambda item: item.row))


def label_name(value: object) -> str:
    """The name of a class as it stands in the data: text as it is, whole numbers without a point, 'true' and 'false'.

    Raises:
        Unusable: If there is none, or it is a number with a fraction or a list.
    """
    if isinstance(value, str):
        name = clean_text(value, "label").strip()
        if not name:
            raise Unusable("empty label")
        return name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None:
        raise Unusable("no label")
    kind = "the fraction " + repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    raise Unusable(f"the label is {kind}, not a class")


def _maker(shape: Shape) -> _Maker:
    """The function that makes an example of a row's values by role."""
    if shape.task == "classification":
        names: dict[object, str] = {}
        return lambda row: _labelled(row, names)
    if shape.task == "text":
        return lambda row: Text(_filled(row["text"], "text"))
    if "messages" in shape.columns:
        return lambda row: Chat(to_messages(row["messages"]))
    if shape.task == "seq2seq":
        return lambda row: SourceTarget(_prompt(row), _filled(row["answer"], "answer"))
    return _prompted


def _labelled(row: dict[str, object], names: dict[object, str]) -> Labelled:
    """A text or pair with its class; equal names are one object, so that a million rows share a few."""
    name = label_name(row["label"])
    name = names.setdefault(name, name)
    pair = _filled(row["pair"], "second text") if "pair" in row else None
    return Labelled(_filled(row["text"], "text"), name, pair)


def _prompted(row: dict[str, object]) -> Chat:
    """A conversation of a prompt (text or messages), what belongs to it, and the answer (text or messages)."""
    prompt, answer, system = row["prompt"], row["answer"], row.get("system")
    head: tuple[Message, ...] = ()
    if isinstance(system, str) and system.strip():
        head = (Message("system", clean_text(system, "system prompt")),)
    if isinstance(prompt, str) and isinstance(answer, str):
        return Chat((*head, Message("user", _prompt(row)), Message("assistant", _filled(answer, "answer"))))
    turns = text_or_messages(prompt, "prompt")
    reply = text_or_messages(answer, "answer")
    before = (Message("user", _prompt(row)),) if isinstance(turns, str) else turns
    after = (Message("assistant", _filled(reply, "answer")),) if isinstance(reply, str) else reply
    return Chat(to_messages((*head, *before, *after)))


def _prompt(row: dict[str, object]) -> str:
    """The prompt, and under it what it is about, if the row has both."""
    prompt, context = row["prompt"], row.get("context")
    if context is None or (isinstance(context, str) and not context.strip()):
        return _filled(prompt, "prompt")
    if isinstance(prompt, str) and not prompt.strip():
        return _filled(context, "prompt")
    return f"{_filled(prompt, 'prompt')}\n\n{_filled(context, 'input')}"


def _filled(value: object, what: str) -> str:
    """The value as text.

    Raises:
        Unusable: If it is no text, or has nothing in it.
    """
    text = clean_text(value, what)
    if not text or text.isspace():
        raise Unusable(f"empty {what}")
    return text
