"""One data set on its way in: read, recognised, converted, and refused if most of it cannot be used."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.data import describe
from tunesmith.data.convert import Converted, convert
from tunesmith.data.raw import RawTable
from tunesmith.data.read import read
from tunesmith.data.recognise import ColumnChoice, Shape, from_source_to_target, recognise
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.model.source import Kind
    from tunesmith.settings import DataSettings

MOST_SKIPPED_SHARE = 0.50
MANY_ROWS = 100_000


@dataclass(frozen=True)
class Source:
    """Rows in canonical form, with what is known of where they come from."""

    table: RawTable
    """Emptied of its values; row numbers, file names and fingerprint are still there."""
    shape: Shape
    converted: Converted


def load(paths: Sequence[str], settings: DataSettings, task: str, kind: Kind = "decoder") -> Source:
    """The rows of `paths`, read with the columns and the shape that the settings name, for a model of the kind.

    Raises:
        DataError: If more than half of the rows cannot be used.
    """
    table = read(paths, max_rows=settings.max_rows)
    choice = ColumnChoice(
        prompt=settings.prompt_column,
        answer=settings.answer_column,
        text=settings.text_column,
        pair=settings.pair_column,
        label=settings.label_column,
    )
    shape = recognise(table, task, choice, settings.shape)
    if task == "auto" and kind == "encoder-decoder":
        shape = from_source_to_target(shape)
    converted = convert(table, shape)
    total = len(converted.examples) + len(converted.skipped)
    if len(converted.skipped) > MOST_SKIPPED_SHARE * total:
        reasons = describe.skipped(converted.skipped, table)
        amount = "No row" if not converted.examples else f"Only {len(converted.examples):,} of {total:,} rows"
        raise DataError(f"{amount} of {table.name}, read as {shape.name} ({shape.say()}), can be used: {reasons}.")
    if total > MANY_ROWS:
        gc.collect()  # also empties Python's lists of free objects, which keep the memory of all raw rows from being given back
    return Source(table, shape, converted)
