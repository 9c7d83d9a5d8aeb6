"""Data files in, rows out: every file type, several files or a folder as one data set, bad rows counted and named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tunesmith.data.files import EmptyFile, find_files, fingerprint, kind_of, open_file
from tunesmith.data.formats import PIECE_CHARACTERS, READERS
from tunesmith.data.hub import is_id, read_hub
from tunesmith.data.raw import RawTable, TableBuilder
from tunesmith.errors import DataError

MOST_BROKEN_SHARE = 0.01
"""A file of which more is broken is not skipped over but refused: it is cut off, mixed up, or of another type."""


def read(paths: Sequence[str], *, max_rows: int | None = None) -> RawTable:
    """All rows of files and folders, or of a data set of the hub; with `max_rows`, that many, drawn with a fixed seed.

    Raises:
        DataError: If a file cannot be used, holds no row, or more than 1 % of its rows are broken.
        Offline: If the data are on the hub, and it is out of reach.
    """
    table = read_hub(paths[0]) if len(paths) == 1 and is_id(paths[0]) else _read_files(paths)
    _refuse_broken(table)
    if table.kind == "txt" and len(table.files) == 1:
        table = _pieces(table)
    if max_rows is not None and len(table) > max_rows:
        drawn = np.sort(np.random.Generator(np.random.Philox(0)).choice(len(table), max_rows, replace=False))
        table.notes.append(f"using {max_rows:,} of {len(table):,} rows, drawn at random")
        table = table.take(drawn)
    return table


def _read_files(paths: Sequence[str]) -> RawTable:
    """All rows of the files."""
    files, about = find_files(paths)
    builder, empty = TableBuilder(), []
    for file, name in zip(files, short_names(files), strict=True):
        try:
            _read_file(file, name, builder)
        except EmptyFile:
            if kind_of(file) != "txt" or len(files) == 1:
                raise
            empty.append(name)
    if len(empty) == len(files):
        raise DataError(f"All {len(files):,} texts of {name_of(paths)} are empty.")
    table = builder.build()
    for names, what in ((empty, "empty {}"), (short_names(about), "{} about the data")):
        if names:
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            table.notes.append(f"left out {len(names):,} {what.format('file' if len(names) == 1 else 'files')}: {shown}")
    table.kind = kind_of(files[0])
    table.fingerprint = fingerprint(files)
    table.name = name_of(paths)
    return table


def _read_file(file: Path, name: str, builder: TableBuilder) -> None:
    kind = kind_of(file)
    with open_file(file) as opened:
        builder.begin_file(name)
        if kind == "parquet":
            from tunesmith.data.parquet import read_parquet

            read_parquet(opened, file, builder)
        else:
            READERS[kind](opened, file, builder)


def _refuse_broken(table: RawTable) -> None:
    """Stop on too many broken rows, or on none at all.

    Raises:
        DataError: With the first rows and what is wrong with them.
    """
    num_broken, total = len(table.broken), len(table) + len(table.broken)
    if num_broken > total * MOST_BROKEN_SHARE:
        first = table.broken[0]
        word = "line" if table.kind == "jsonl" else "row"
        where = table.say_rows([first.row]).replace("row", word, 1)
        verb = "is" if num_broken == 1 else "are"
        share = f"{num_broken:,} of {total:,} rows {verb} broken ({table.say_rows(skipped.row for skipped in table.broken)})"
        of = f"{table.name}: " if len(table.files) == 1 else ""
        raise DataError(f"{of}{where}: {first.reason}. {share}; more than 1 % is not skipped over. Repair or remove them.")
    if not total:
        what = "only blank lines" if table.kind == "jsonl" else "no rows" if not table.columns else "a header but no rows"
        raise DataError(f"{table.name} is empty: it holds {what}.")


def _pieces(table: RawTable) -> RawTable:
    """A single long text as a row per piece of about 2,000 characters, cut where paragraphs (or at least lines) end."""
    text = str(table.values["text"][0])
    parts = re.split(r"(\n[ \t]*\n\s*)", text)
    if len(parts) < 3:
        parts = re.split(r"(\n)", text)
    pieces, size = [""], 0
    for part in parts:
        if size >= PIECE_CHARACTERS and part.strip():
            pieces.append("")
            size = 0
        pieces[-1] += part
        size += len(part)
    table.values["text"] = list(pieces)
    table.numbers = np.arange(1, len(pieces) + 1, dtype=np.int64)
    if len(pieces) > 1:
        table.notes.append(
            f"cut {table.name} into {len(pieces):,} pieces of about {PIECE_CHARACTERS:,} characters, between paragraphs"
        )
    return table


def short_names(files: Sequence[Path]) -> list[str]:
    """File names, with the folder where names alone are not unique."""
    names = [file.name for file in files]
    return (
        [file.name if names.count(file.name) == 1 else f"{file.parent.name}/{file.name}" for file in files]
        if len(files) < 1000
        else names
    )


def name_of(paths: Sequence[str]) -> str:
    """The first path's name, and how many more there are."""
    first = Path(paths[0]).resolve().name
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
