"""Parquet files, batch by batch, with limits on what comes out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tunesmith.data.files import MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO
from tunesmith.data.raw import MAX_COLUMNS, TableBuilder
from tunesmith.errors import DataError

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 10_000


def read_parquet(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """All rows of a Parquet file; class ids that carry names become the names.

    Raises:
        DataError: If it is no Parquet file, is damaged, or unpacks to absurdly much.
    """
    import pyarrow
    from pyarrow import parquet

    most = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * file.stat().st_size)
    first, unpacked = 1, 0
    try:
        table = parquet.ParquetFile(opened)
        if table.metadata.num_columns > MAX_COLUMNS:
            raise DataError(f"{file} has {table.metadata.num_columns:,} columns; the most that makes sense is {MAX_COLUMNS:,}.")
        names = _class_names(table.schema_arrow)
        for batch in table.iter_batches(ROWS_AT_ONCE):
            unpacked += batch.nbytes
            if unpacked > most:
                raise DataError(f"{file} unpacks to more than {most // 2**20} MB, as no data of its size do.")
            numbers = range(first, first + batch.num_rows)
            _add_batch(batch, numbers, names, builder)
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"{file} cannot be read as Parquet ({reason}). Is it one, and whole?") from None


def _add_batch(batch: pyarrow.RecordBatch, numbers: Sequence[int], names: dict[str, list[str]], builder: TableBuilder) -> None:
    """The rows of one batch; rows whose text is not UTF-8 are noted and left out."""
    columns: dict[str, list[object]] = {}
    bad: set[int] = set()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError:
            columns[name] = []
            for index, item in enumerate(column):
                try:
                    columns[name].append(item.as_py())
                except UnicodeDecodeError:
                    columns[name].append(None)
                    bad.add(index)
        if name in names:
            columns[name] = [_name_of(value, names[name]) for value in columns[name]]
    for index in sorted(bad):
        builder.add_broken(numbers[index], "invalid UTF-8")
    kept = [index for index in range(len(numbers)) if index not in bad]
    if bad:
        columns = {name: [column[index] for index in kept] for name, column in columns.items()}
    builder.add_columns(dict(columns), [numbers[index] for index in kept])


def _name_of(value: object, names: list[str]) -> object:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Names of class ids by column, from the note that the `datasets` library leaves in its files."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labelled = {name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {column: [str(name) for name in names] for column, names in labelled.items() if isinstance(names, list)}
