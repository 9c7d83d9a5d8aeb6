"""Data sets of the hub, through the `datasets` library: one split, as rows of the usual reader.

From version 4 on the library runs no code that comes with a data set; older ones are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.files import KINDS
from tunesmith.data.raw import RawTable, TableBuilder
from tunesmith.errors import DataError, Offline, first_line

if TYPE_CHECKING:
    from datasets import Dataset  # pyright: ignore[reportMissingImports]  # an extra

SPLIT = "train"
FIRST_SAFE_VERSION = 4
ROWS_AT_ONCE = 10_000
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.+-]+))?")


def is_id(name: str) -> bool:
    """Whether the name can only be meant for the hub: `owner/name` or `owner/name:split`, and no path to anything here."""
    found = _ID.fullmatch(name)
    return bool(found) and Path(name).suffix not in KINDS and not Path(name).parent.exists()


def read_hub(name: str) -> RawTable:
    """The rows of a data set of the hub; of its split `train` if no other is named.

    Raises:
        DataError: If the library is missing, or the hub has no such data set or split.
        Offline: If the hub is out of reach.
    """
    builder, digest, first = TableBuilder(), hashlib.sha256(), 1
    builder.begin_file(name)
    for columns in _batches(_split(name)):
        count = len(next(iter(columns.values()), ()))
        builder.add_columns(columns, range(first, first + count))
        digest.update(json.dumps(columns, default=str).encode())
        first += count
    table = builder.build()
    table.kind, table.name, table.fingerprint = "hub", name, digest.hexdigest()
    return table


def _split(name: str) -> Dataset:
    """The split that the name means."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(
            f"There is no file or folder {name!r}. If it is a data set of the hub: pip install 'tunesmith[hub]', which "
            f"fetches it, or fetch it yourself: hf download --repo-type dataset {name.partition(':')[0]} --local-dir FOLDER"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < FIRST_SAFE_VERSION:
        raise DataError(
            f"datasets {datasets.__version__} may run code that comes with a data set. Update it: pip install 'tunesmith[hub]'"
        )
    identifier, _, split = name.partition(":")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(identifier, streaming=False)
    except ConnectionError as error:
        raise Offline(f"The hub cannot be reached to look for the data set {identifier!r} ({first_line(error)}).") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{identifier!r} is no file or folder, nor a data set to be had of the hub: {first_line(error)}."
        ) from None
    split = split or (SPLIT if len(found) > 1 else next(iter(found)))
    if split not in found:
        raise DataError(f"The data set {identifier} has no split {split!r}. Name one of these: {_choices(identifier, found)}.")
    return found[split]


def _batches(split: Dataset) -> Iterator[dict[str, Sequence[object]]]:
    """The columns of the rows, a batch at a time; class ids that have names as these names."""
    from datasets import ClassLabel  # pyright: ignore[reportMissingImports]

    names = {column: feature.names for column, feature in split.features.items() if isinstance(feature, ClassLabel)}
    for batch in split.iter(batch_size=ROWS_AT_ONCE):
        yield {column: _named(values, names.get(column)) for column, values in batch.items()}


def _named(values: Sequence[object], names: Sequence[str] | None) -> Sequence[object]:
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]


def _choices(identifier: str, found: Mapping[str, object]) -> str:
    return ", ".join(f"{identifier}:{split}" for split in found)
