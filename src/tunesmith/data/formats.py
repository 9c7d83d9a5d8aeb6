"""The file types: each reads one open file into a `TableBuilder`; a bad row is noted with its number and reading goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tunesmith.data.files import lines_of, read_whole
from tunesmith.data.raw import TableBuilder
from tunesmith.errors import DataError

LINES_AT_ONCE = 2_000
MAX_WHOLE_BYTES = 2**31
MAX_CELL_BYTES = 16 * 2**20
MAX_LINES_IN_CELL = 5_000
PIECE_CHARACTERS = 2_000
_WRAPPERS = ("data", "rows", "train", "examples", "instances", "items")


def read_jsonl(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """One JSON object per line; blank lines are passed over."""
    first = 1
    lines = lines_of(opened, file)
    while chunk := list(islice(lines, LINES_AT_ONCE)):
        numbers = [number for number, line in enumerate(chunk, first) if not line.isspace()]
        filled = [chunk[number - first].strip() for number in numbers]
        first += len(chunk)
        rows = _parse_together(filled)
        if rows is None:
            rows, numbers = _parse_each(filled, numbers, builder)
        builder.add_rows(rows, numbers)


def _parse_together(lines: list[bytes]) -> list[dict[str, object]] | None:
    """The objects on the lines, parsed at one go (which shares the keys); None if any line is not one object."""
    if not all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        return None
    try:
        rows = json.loads((b"[" + b",".join(lines) + b"]").decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and all(type(row) is dict for row in rows) else None


def _parse_each(lines: list[bytes], numbers: list[int], builder: TableBuilder) -> tuple[list[dict[str, object]], list[int]]:
    """The objects on the good lines and their numbers; bad lines are noted."""
    rows: list[dict[str, object]] = []
    kept = []
    for number, line in zip(numbers, lines, strict=True):
        row, reason = _parse_line(line)
        if row is None:
            builder.add_broken(number, reason)
        else:
            rows.append(row)
            kept.append(number)
    return rows, kept


def _parse_line(line: bytes) -> tuple[dict[str, object] | None, str]:
    """The object on a line, or why there is none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        return None, f"broken JSON at column {error.colno} ({error.msg})"
    except (RecursionError, ValueError):
        return None, "broken JSON (nested too deep, or a number too long)"
    row = as_row(row)
    return row, "" if row is not None else "JSON, but not an object {...}"


def as_row(value: object) -> dict[str, object] | None:
    """A JSON value as a row: an object as it is, a text as `text`, a list of messages as `messages`."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and value and all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in value):
        return {"messages": value}
    return None


def read_json(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """A list of objects, or an object that holds one; lines of objects under this name are read as such.

    Raises:
        DataError: If it is not JSON; the line is named.
    """
    data = read_whole(opened, MAX_WHOLE_BYTES)
    if data is None:
        raise DataError(
            f"{file} is larger than 2 GB, too large to be read as one JSON value. Save it as .jsonl, one object per line."
        )
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file} line {line:,} is not valid UTF-8 (byte {error.start + 1:,} of the file). Save it as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and b"\n" in data.strip():
            return read_jsonl(io.BytesIO(data), file, builder)
        raise DataError(f"{file} line {error.lineno:,}, column {error.colno:,}: broken JSON ({error.msg}).") from None
    except (RecursionError, ValueError):
        raise DataError(f"{file} is broken JSON (nested too deep, or a number too long).") from None
    _add_values(_list_inside(value, file), builder)


def _add_values(values: list[object], builder: TableBuilder) -> None:
    rows = [as_row(value) for value in values]
    for number, row in enumerate(rows, 1):
        if row is None:
            builder.add_broken(number, "JSON, but not an object {...}")
    good = [(number, row) for number, row in enumerate(rows, 1) if row is not None]
    builder.add_rows([row for _, row in good], [number for number, _ in good])


def _list_inside(value: object, file: Path) -> list[object]:
    """The list of rows: the value itself, or the only list of objects in it."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)}
        named = [key for key in _WRAPPERS if key in lists]
        if len(lists) == 1 or named:
            return lists[named[0] if named else next(iter(lists))]
        if "messages" in value or "text" in value:
            return [value]
    raise DataError(
        f"{file} holds no list of rows: expected [{{...}}, {{...}}], found {_what(value)}. One object per line is .jsonl."
    )


def _what(value: object) -> str:
    if isinstance(value, dict):
        return "an object with the keys " + ", ".join(repr(key) for key in list(value)[:5])
    if isinstance(value, str):
        return "a text"
    return f"the number {value}" if isinstance(value, (int, float)) and not isinstance(value, bool) else json.dumps(value)


def read_csv(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """A header, then one record per row, separated by commas (semicolons or tabs if the header has no comma)."""
    _read_separated(opened, file, builder, quoting=csv.QUOTE_MINIMAL)


def read_tsv(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """A header, then records separated by tabs; quotes group text only if every quoted cell is closed in its own cell."""
    data = list(lines_of(opened, file))
    grouped = all(cell.endswith(b'"') and len(cell) > 1 for line in data for cell in _cells_with_quote(line))
    quoting = csv.QUOTE_MINIMAL if grouped else csv.QUOTE_NONE
    _read_records(iter(data), file, builder, delimiter="\t", quoting=quoting)


def _cells_with_quote(line: bytes) -> list[bytes]:
    if b'"' not in line:
        return []
    return [cell for cell in line.rstrip(b"\r\n").split(b"\t") if cell.startswith(b'"')]


def _read_separated(opened: BinaryIO, file: Path, builder: TableBuilder, quoting: int) -> None:
    lines = lines_of(opened, file)
    header = next(lines, b"")
    delimiter = max(",;\t|", key=lambda mark: header.count(mark.encode())) if b"," not in header else ","
    _read_records(_before(header, lines), file, builder, delimiter, quoting)


def _before(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _read_records(lines: Iterator[bytes], file: Path, builder: TableBuilder, delimiter: str, quoting: int) -> None:
    """Records in columns; rows with another number of cells than the header, or invalid UTF-8, are noted."""
    bad_lines: set[int] = set()
    before = csv.field_size_limit(MAX_CELL_BYTES)
    reader = csv.reader(_decoded(lines, bad_lines), delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    try:
        header = _header(next(reader, []), file)
        number, last_line = 1, reader.line_num
        rows: list[list[str]] = []
        numbers: list[int] = []
        for row in reader:
            span = range(last_line + 1, reader.line_num + 1)
            last_line = reader.line_num
            reason = _reason(row, header, span, bad_lines)
            if reason and row:
                builder.add_broken(number, reason)
            elif row:
                rows.append(row)
                numbers.append(number)
            number += 1 if row else 0
            if len(rows) == LINES_AT_ONCE:
                _add_records(builder, header, rows, numbers)
                rows, numbers = [], []
        _add_records(builder, header, rows, numbers)
    except csv.Error as error:
        raise DataError(
            f"{file} line {reader.line_num:,}: {error}. Is it a {delimiter!r}-separated file with a header?"
        ) from None
    finally:
        csv.field_size_limit(before)


def _decoded(lines: Iterator[bytes], bad_lines: set[int]) -> Iterator[str]:
    """Lines as text; a line that is not UTF-8 is noted and goes on with replacement characters."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            bad_lines.add(number)
            yield line.decode("utf-8", "replace")


def _header(cells: list[str], file: Path) -> list[str]:
    names = [cell.strip() or f"column {index}" for index, cell in enumerate(cells, 1)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) <= 1000 else []
    if twice:
        raise DataError(f"{file} has the column {twice[0]!r} more than once. Give every column its own name in the first line.")
    return names


def _reason(row: list[str], header: list[str], span: range, bad_lines: set[int]) -> str:
    """What is wrong with a record, empty if nothing."""
    if len(span) > MAX_LINES_IN_CELL:
        return f'one record over {len(span):,} lines from line {span.start:,} (a quote " that is not closed?)'
    if bad_lines and not bad_lines.isdisjoint(span):
        return "invalid UTF-8"
    if len(row) != len(header):
        cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
        quote = f' (over {len(span):,} lines from line {span.start:,}: a quote " that is not closed?)' if len(span) > 1 else ""
        return f"{cells} where the header has {len(header)}{quote}"
    return ""


def _add_records(builder: TableBuilder, header: list[str], rows: list[list[str]], numbers: list[int]) -> None:
    if rows:
        builder.add_columns(dict(zip(header, zip(*rows, strict=True), strict=True)), numbers)


def read_text(opened: BinaryIO, file: Path, builder: TableBuilder) -> None:
    """The whole file as one document.

    Raises:
        DataError: If it is not UTF-8; the line is named.
    """
    data = read_whole(opened, MAX_WHOLE_BYTES)
    if data is None:
        raise DataError(f"{file} is larger than 2 GB. Split it into several files in one folder.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file} line {line:,} is not valid UTF-8 (byte {error.start + 1:,} of the file). Save it as UTF-8."
        ) from None
    builder.add_columns({"text": [text.replace("\r\n", "\n")]}, [1])


READERS: dict[str, Callable[[BinaryIO, Path, TableBuilder], None]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "txt": read_text,
}
